"""Compares Triton Inference Server, with OpenVINO in its Python backend, with this project."""
