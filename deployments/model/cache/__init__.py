"""The compiled shapes of a version: hit, compile once, evict; and what is counted of each shape.

Knows no OpenVINO: it is handed what compiles. May import `execution`.
"""
