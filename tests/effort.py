"""The number of examples in property-based tests: a quarter of those in `make test-long`."""

import os

LONG = os.environ.get("ANYSHAPE_TESTS") == "long"


def examples(count: int) -> int:
    """The number of examples in this run, from that of the long run."""
    return count if LONG else -(-count // 4)
