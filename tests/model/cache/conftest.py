import pytest

from tests.model.cache.compiler import Compiler


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()
