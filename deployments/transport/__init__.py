"""Carries batches from the ingress to a model's replica, and answers back.

`arena` is shared memory for large tensors, `batches` defines calls and replies, `connections` are
sockets between two processes of a node, `wire_format` the messages on them, and `routing_stats` the
replicas' reports to the routers. May import the vocabulary only: both wings use it.
"""
