"""Pseudo linear multistep sampling: Adams-Bashforth on the noise, DDIM's transfer between steps.

Liu et al. 2022, arXiv:2202.09778, eqs. (12) and (13), with the start that latent diffusion's code
gives it (one step, then the same step once more from the mean of its two ends): the sampler that
Stable Diffusion's first files name.
"""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.diffusion.processes import Process
from research.diffusion.sampling import solvers
from research.diffusion.sampling.solver_tables import Table

# Adams-Bashforth's weights by order, newest first.
_ADAMS = {1: (1,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12)}
_ADAMS[4] = (55 / 24, -59 / 24, 37 / 24, -9 / 24)


@flax.struct.dataclass
class PseudoLinear:
    """See `plms`."""

    def table(self, process: Process, times: Array) -> Table:
        """One row a step and one more, in the variable x/alpha with clock sigma/alpha.

        The weights are the paper's, which are exact where the clock's steps are equal. A single
        step is Euler's.
        """
        num_steps = times.shape[0] - 1
        if num_steps == 1:
            return solvers.euler("sigma").table(process, times)
        alpha = process.alpha(times)
        clock = jnp.exp(-0.5 * process.log_snr(times))
        step = np.concatenate([[0], np.arange(num_steps)])  # which step each row does
        weights = jnp.asarray(_weights(num_steps), times.dtype)  # [R, 5]
        slope = (alpha[1:] * (clock[1:] - clock[:-1]))[step]
        keep = (alpha[1:] / alpha[:-1])[step]
        point = jnp.concatenate([keep[:, None], slope[:, None] * weights], 1)
        base = point.at[0].set(jnp.zeros(6, point.dtype).at[0].set(1))  # the first step is redone
        at = np.concatenate([[0], [1], np.arange(1, num_steps)])
        sigma = process.sigma(times)[at]
        return Table(
            time=times[at],
            value=jnp.stack([jnp.zeros_like(sigma), -sigma], -1),
            point=point,
            reached=times[1:][step],
            step=(-1, *range(1, num_steps + 1)),
            base=base,
        )


def plms() -> PseudoLinear:
    """The pseudo linear multistep method of order 4; num_steps + 1 evaluations.

    A step to zero noise, where the grid asks for one, uses the last evaluation alone.
    """
    return PseudoLinear()


def _weights(num_steps: int) -> np.ndarray:
    """[num_steps + 1, 5]: the latest values, newest first, in each row's step.

    Row 1's own value, the noise at the end of the first try, counts in its own row only.
    """
    weights = np.zeros((num_steps + 1, 5))
    weights[0, 0] = 1
    weights[1, :2] = 1 / 2
    for row in range(2, num_steps + 1):
        order = min(row, 4)
        ages = [age for age in range(5) if row - age != 1 and age <= row][:order]
        weights[row, ages] = _ADAMS[order]
    return weights
