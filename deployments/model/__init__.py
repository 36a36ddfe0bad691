"""The model: runs batches in OpenVINO, and returns the outputs.

`deployment` is the Ray Serve deployment of one model. The layers below it are `versions`, then
`cache`, then `execution` and `tuning`, then `graph`, `policy`, and `openvino`. `sources` is
separate and imports none of them. Each may import the layers below it, and nothing from `ingress/`.
"""
