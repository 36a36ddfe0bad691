"""Reads, reshapes, compiles and runs models by OpenVINO's runtime.

Only this package and `graph` import openvino. The workarounds for its faults are here, each with
the version after which to retry without it (docs/upstream). May import what both wings share.
"""
