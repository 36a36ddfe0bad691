"""The ingress: turns requests into batches, and answers into responses.

`deployment` is the Ray Serve deployment. The layer below it is `http` and `grpc` (sockets and
routes) and `routing` (choosing and calling replicas); the next is `dataplane` (the path that all
protocols share); then `codecs` (bytes to requests and back) and `protos`. Each may import the
layers below it, and nothing from `model/`.
"""
