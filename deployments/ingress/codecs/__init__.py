"""Bytes to requests and answers to bytes: pure functions, for each protocol.

Nothing here waits, knows a replica or holds state between requests, but for what was parsed before.
May import `protos` and what both wings share.
"""
