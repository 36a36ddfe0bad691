"""From a batch to OpenVINO, and its outputs back.

`deployment` is the Ray Serve deployment of one model. Below it stand `versions`, then `cache`, then
`execution` and `tuning`, then `graph`, `policy`, and `openvino`. `sources` stands beside them and
imports none. Each may import what stands below it, and nothing of `ingress/`.
"""
