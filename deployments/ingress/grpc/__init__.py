"""gRPC: the methods of KServe's, TensorFlow Serving's and the health service, and their streams.

Ray Serve starts the server and calls the methods. May import `dataplane`, `codecs` and `protos`.
"""
