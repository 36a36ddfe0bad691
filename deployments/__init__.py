"""anyshape: serve any OpenVINO model at any input shape, on Ray Serve.

`app.build` makes the application: an ingress, and a deployment for each model. The ingress
(`ingress/`) turns requests into batches, the model (`model/`) runs batches in OpenVINO. Both import
`settings/`, `transport/` and `observability/`, and the vocabulary here: errors, tensors, inference,
dimensions, layouts and timing. They never import each other. docs/architecture.md has a diagram;
import-linter checks the imports (pyproject.toml).
"""
