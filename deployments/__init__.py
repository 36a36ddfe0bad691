"""anyshape: serve any OpenVINO model at any input shape, on Ray Serve.

`app.build` makes the application: an ingress in front of a deployment for each model. The ingress
(`ingress/`) takes a request from the wire to a batch, the model (`model/`) a batch to OpenVINO.
Both stand on `settings/`, `transport/` and `observability/`, and on the vocabulary here: errors,
tensors, inference, dimensions, layouts and timing. They never import each other.
docs/architecture.md draws it; import-linter checks it (pyproject.toml).
"""
