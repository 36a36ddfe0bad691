"""How many inferences run at once, in which threads, and how a batch's answers go back.

May import `openvino` (compiled models) and what both wings share.
"""
