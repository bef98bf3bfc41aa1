"""Hidden characters of a text, drawn once: how many a model finds, and how many counts do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Params, TrainState
from research.language_models import ngrams
from research.transformers import losses, models

NAMES = ("accuracy", "loss", "accuracy_over_all_chosen")
MARGIN = 2  # characters at both ends of the text, so that every judged one has its neighbours


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """N windows of T characters and their masks.

    Attributes:
        tokens: the whole text.
        places: [N, T], where in it the windows lie.
        read: [N, T], what the model is given.
        chosen: [N, T] bool, what BERT's loss counts: read as [MASK], as another, or as it is.
        masking: of which token, and the size of the vocabulary.
    """

    tokens: np.ndarray
    places: np.ndarray
    read: np.ndarray
    chosen: np.ndarray
    masking: losses.Masking

    @classmethod
    def of(
        cls, tokens: np.ndarray, masking: losses.Masking, num_windows: int, length: int
    ) -> Judged:
        """Windows at equal distances.

        Raises:
            ValueError: for more windows than the text has places.
        """
        room = len(tokens) - length - 2 * MARGIN
        if not 1 <= num_windows <= room:
            raise ValueError(f"num_judged={num_windows}: expected 1 to {room} windows")
        starts = MARGIN + np.linspace(0, room, num_windows).astype(int)
        places = starts[:, None] + np.arange(length)[None]  # [N, T]
        read, chosen = jax.jit(masking)(jax.random.key(0), jnp.asarray(tokens[places]))
        return cls(tokens, places, np.asarray(read), np.asarray(chosen), masking)

    @property
    def hidden(self) -> np.ndarray:
        """[N, T] bool: what the model reads as [MASK]; these are judged."""
        return self.read == self.masking.mask_token

    @property
    def count(self) -> int:
        """How many characters are judged."""
        return int(self.hidden.sum())

    def evaluation(self, model: models.Encoder) -> Callable[[TrainState], dict[str, float]]:
        """The function for `training.Every`: `eval/...` of each of `NAMES`."""
        truth, size = self.tokens[self.places], math.gcd(64, len(self.read))  # none is left out

        @jax.jit
        def one(params: Params, read: Array, truth: Array) -> tuple[Array, Array]:
            logits = model.apply(params, read)["logits"]
            return logits.argmax(-1) == truth, losses.cross_entropy(logits, truth)

        def evaluate(state: TrainState) -> dict[str, float]:
            parts = [
                one(state.params, self.read[first : first + size], truth[first : first + size])
                for first in range(0, len(self.read), size)
            ]
            right, loss = (np.concatenate([np.asarray(x) for x in each]) for each in zip(*parts))
            return {
                "eval/accuracy": float(right[self.hidden].mean()),
                "eval/loss": float(loss.astype(np.float64)[self.hidden].mean()),
                "eval/accuracy_over_all_chosen": float(right[self.chosen].mean()),
            }

        return evaluate

    def counts(self, train: np.ndarray, offsets: tuple[int, ...]) -> dict[str, float]:
        """The same of counts in `train`: accuracy, and loss in nats.

        Args:
            train: the text that is counted.
            offsets: of the neighbours that the counts read.
        """
        vocab_size = self.masking.vocab_size
        law = ngrams.conditional(train, offsets, vocab_size)
        places = self.places[self.hidden]
        given = law[ngrams.contexts(self.tokens, places, offsets, vocab_size)]  # [M, V]
        truth = self.tokens[places]
        chance = np.take_along_axis(given, truth[:, None], axis=1)
        right = given.argmax(1) == truth
        return {"accuracy": float(right.mean()), "loss": float(-np.log(chance).mean())}
