"""Studies so small that tests can start, kill and resume them many times."""
