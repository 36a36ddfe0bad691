"""Runs inferences in a bounded number of threads, and packs the answers of a batch.

May import `openvino` (compiled models) and what both wings share.
"""
