"""What an operator sees: metrics, spans, log lines and the record of each shape.

Each metric is declared once, in `metrics`. May import the vocabulary and `transport`; both wings
report here, and nothing here knows either of them.
"""
