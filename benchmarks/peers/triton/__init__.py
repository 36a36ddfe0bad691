"""Triton Inference Server with OpenVINO in its Python backend, beside this project."""
