import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.detector_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        thread = threading.Thread(target=fake.serve_forever, args=(0.01,))
        thread.start()
        yield fake
        fake.shutdown()
        thread.join()
    assert fake.errors == []


@pytest.fixture
def refused_url() -> str:
    with FakeServer() as closed:
        return closed.url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "in"
    source.mkdir()
    return source
