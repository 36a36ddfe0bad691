"""HTTP: routes, the bodies of requests and responses, clients that disconnect, the access log.

Codecs decode and encode bodies; this package receives and sends them. Only `body_reader` imports
uvicorn. May import `dataplane` and `codecs`.
"""
