"""Follows the batch axis through a graph: requests may be stacked only where rows stay apart.

`proof` walks, `rules` names the rule of each kind of operation, `arithmetic` and `layout` hold
them. An operation without a rule ends the proof.
"""
