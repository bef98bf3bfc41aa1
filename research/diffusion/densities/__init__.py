"""From a score to densities: `likelihood` by its `divergence`, `bits`, `fokker_planck`."""
