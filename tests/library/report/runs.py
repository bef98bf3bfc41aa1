"""A small config, a claim and a finished run, for the tests of reports."""

import dataclasses

from library import claims, report

PEANO = claims.theorem("Peano 1889")


@dataclasses.dataclass(frozen=True)
class Options:
    seed: int = 0
    mesh: str | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    num_steps: int = 10
    rate: float = 0.1
    run: Options = Options()


def claim(measured=1.0, expected=2.0, relation="<", tolerance=0.0, source=PEANO, **extra):
    return claims.Claim("error", measured, expected, relation, source, tolerance, **extra)


def finished(path, result=None, preset="default", config=None, question="toy.ask"):
    run = report.open_or_create(path, config or Config(), question, preset)
    run.write_result(result or claims.Result({"error": 1.0}, [claim()]), preset, 12.3456)
    return run
