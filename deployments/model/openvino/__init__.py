"""Reading, reshaping, compiling and running models: what knows OpenVINO's runtime.

With `graph` the only package that imports openvino. Workarounds for its faults stand here, each
with the version in which to try without (docs/upstream). May import what both wings share.
"""
