"""Language models at work: tokenisers, decoding, caches, quantised weights, evaluation."""
