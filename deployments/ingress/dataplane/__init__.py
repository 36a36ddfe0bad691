"""The data plane, as in KServe and MLServer: the path that the requests of all protocols share.

It finds the model, binds the inputs, batches and answers. It calls replicas only through the
protocol in `replicas`. May import `codecs`, because encoded pictures are decoded here.
"""
