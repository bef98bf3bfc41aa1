"""The cores of a CPU as one device or as one each."""
