"""The cache of a version's compiled shapes, and the statistics of each shape.

Knows no OpenVINO: the caller passes the function that compiles. May import `execution`.
"""
