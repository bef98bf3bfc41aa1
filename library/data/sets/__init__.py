"""Data sets, a file each: `source(split)` for random access and `arrays(split)` in memory."""
