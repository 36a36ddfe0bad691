"""Chooses the replica of a model for a batch, sends the batch, and detects replicas that hang.

`router` runs inside Ray Serve's handles, `ray_replicas` is the data plane's view of them. May
import `dataplane`, for the protocol that it implements.
"""
