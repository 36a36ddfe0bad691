"""Copies of a store's versions, made and looked at."""

from pathlib import Path

import pytest

from deployments.model.sources.local import SourceUnavailable
from deployments.model.sources.mirror import Mirror


def ignore(_: str) -> None:
    pass


def bring_all(mirror: Mirror) -> dict[int, Path]:
    return mirror.copy_missing(mirror.remote_versions(), ignore)


def below(directory: Path) -> set[str]:
    found = (path for path in directory.rglob("*") if path.name != ".lock")
    return {str(path.relative_to(directory)) for path in found if path.is_file()}


def put(path: Path, content: bytes = b"own") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def refusal(mirror: Mirror) -> str:
    with pytest.raises(SourceUnavailable) as failure:
        bring_all(mirror)
    assert not list((mirror.repository / "m").glob(".*.part"))
    return str(failure.value)
