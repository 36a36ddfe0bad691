"""Observability: metrics, spans, log lines and the record of each shape.

Each metric is declared once, in `metrics`. May import the vocabulary and `transport`. Both wings
report here; this package imports neither of them.
"""
