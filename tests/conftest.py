"""The settings of all tests."""

from hypothesis import settings

from tests.effort import examples

# A shared machine stalls at times; pytest's own timeout bounds every test.
settings.register_profile("anyshape", deadline=None, max_examples=examples(100))
settings.load_profile("anyshape")
