"""Measurements and comparisons of a model: stacking, precision, agreement of outputs.

May import `graph` (proofs without running the model) and `openvino`.
"""
