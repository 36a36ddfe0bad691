"""Arm d of the benchmark: other servers, each in its own environment."""
