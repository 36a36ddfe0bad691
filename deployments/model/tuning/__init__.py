"""What is measured or compared before it is believed: stacking, precision, outputs that agree.

May import `graph` (what is proven without running the model) and `openvino`.
"""
