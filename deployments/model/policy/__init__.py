"""What `shape` and `batch_size` mean for a model: accepted dimensions, trial shapes, keys.

Decides before anything is compiled. May import what `openvino` says of the model's inputs.
"""
