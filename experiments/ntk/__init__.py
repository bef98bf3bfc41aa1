"""Neural tangent kernels: what they are, what they predict, what they cost."""
