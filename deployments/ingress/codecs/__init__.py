"""Codecs of each protocol, from bytes to requests and from answers to bytes: pure functions.

Nothing here waits, calls a replica, or keeps state between requests, except for remembered JSON
parts. May import `protos` and what both wings share.
"""
