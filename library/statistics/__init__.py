"""Statistics that every topic needs and none owns: laws through points, intervals, ranks, pairs.

power_law   least squares in logarithms, weighted or not
intervals   central probabilities, bootstrap resamples, exact binomial and normal intervals
ranks       Spearman's correlation, Friedman's mean ranks
paired      two methods on the same cases: t, sign and signed-rank tests
"""
