"""HTTP: routes, the bodies of requests and responses, clients that disconnect, the access log.

Codecs say what a body means; here it is received and sent. `body_reader` is the only module that
knows uvicorn. May import `dataplane` and `codecs`.
"""
