"""From a score to samples: every solver is a table of coefficients, run by one scan.

`samplers` is the room to import; `solvers`, `exponential`, `stochastic` and `adaptive` make tables
and steps, `grids` says where they step, `moments` what they draw, exactly.
"""
