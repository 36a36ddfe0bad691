"""The messages of KServe and TensorFlow Serving, generated from the .proto files (`make protos`).

Imports no other module of this project.
"""
