"""gRPC: the methods and streams of KServe's, TensorFlow Serving's and the health services.

Ray Serve starts the server and calls the methods. May import `dataplane`, `codecs` and `protos`.
"""
