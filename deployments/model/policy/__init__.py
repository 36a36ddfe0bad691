"""The shape policy, by `shape` and `batch_size`: accepted dimensions, trial shapes, keys.

It decides before anything is compiled. May import `openvino` for the types of a model's inputs.
"""
