"""A server of files and a store."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.model.sources.mirror import Mirror
from tests.model.file_server import Server
from tests.model.sources.stores import MEMORY, Memory


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https", "all"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)


@pytest.fixture
def server(no_proxies: None) -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.go_on.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def remote() -> Iterator[Memory]:
    memory = Memory()
    memory.put("1/m.xml")
    memory.put("1/m.bin", b"weights")
    yield memory
    MEMORY.store.clear()


@pytest.fixture
def mirror(remote: Memory, tmp_path: Path) -> Mirror:
    return Mirror("m", remote.url, {}, tmp_path / "repository")
