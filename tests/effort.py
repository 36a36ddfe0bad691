"""How many examples property-based tests try: a quarter of those of `make test-long`."""

import os

LONG = os.environ.get("ANYSHAPE_TESTS") == "long"


def examples(count: int) -> int:
    """Of the long run's examples, those that are tried in this run."""
    return count if LONG else -(-count // 4)
