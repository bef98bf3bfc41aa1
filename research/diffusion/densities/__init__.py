"""From a score to densities: `likelihood`, its `divergence`, `bits` a dimension, `fokker_planck`."""
