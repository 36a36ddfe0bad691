"""Which replica of a model gets a batch, the way to it, and whether it lives.

`router` runs inside Ray Serve's handles, `ray_replicas` is the data plane's view of them. May
import `dataplane`, for the protocol that it fulfils.
"""
