"""How batches cross from the ingress to a model's replica, and answers back.

Shared memory for large tensors (`arena`), what crosses (`batches`), the sockets between two
processes of a node (`connections`), the bytes on them (`wire_format`), and what replicas report to
the routers (`routing_stats`). May import the vocabulary only: both wings use it.
"""
