"""Proves that rows do not influence each other in a graph, so that requests may be stacked.

`proof` follows the batch axis through the graph, `rules` maps each kind of operation to its rule,
`arithmetic` and `layout` have the rules. An operation without a rule ends the proof.
"""
