"""What holds for all tests."""

from hypothesis import settings

# A shared machine stalls now and then; pytest's own timeout bounds every test.
settings.register_profile("anyshape", deadline=None)
settings.load_profile("anyshape")
