"""The one path of every protocol's requests: find the model, bind the inputs, batch, answer.

Called the data plane as in KServe and MLServer. It sees replicas only through the protocol in
`replicas`. May import `codecs` (encoded pictures are decoded here).
"""
