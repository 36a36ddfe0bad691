"""From the wire to a batch, and from the answer back to the wire.

`deployment` is the Ray Serve deployment. Below it stand `http` and `grpc` (sockets and routes) and
`routing` (which replica, and the way to it); below those `dataplane` (the path that all protocols
share); then `codecs` (bytes to requests and back) and `protos`. Each may import what stands below
it, and nothing of `model/`.
"""
