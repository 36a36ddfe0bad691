"""Arm d of the benchmark: other Python servers, each in its own environment."""
