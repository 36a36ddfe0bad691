"""A model whose source becomes another one, with the same place in the repository."""

import hashlib
from pathlib import Path

import pytest

from deployments.model.sources.download import RemoteFile, fetch
from deployments.model.sources.local import SourceUnavailable, locate
from deployments.model.sources.mirror import Mirror
from deployments.model.sources.origin import recorded
from tests.model.file_server import BIN, XML, Server
from tests.model.sources.stores import MEMORY, Memory


def ignore(_: str) -> None:
    pass


def bring(mirror: Mirror) -> dict[int, Path]:
    """What the loader does: list, copy, remove what is gone."""
    found = mirror.copy_missing(mirror.known_versions(ignore), ignore)
    mirror.prune(mirror.remote_versions())
    return found


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "m"


@pytest.fixture
def mirror(remote: Memory, tmp_path: Path) -> Mirror:
    return Mirror("m", remote.url, {}, tmp_path)


@pytest.fixture
def unreachable(tmp_path: Path) -> Mirror:
    return Mirror("m", "memory://nowhere/m", {}, tmp_path)


# To a store --------------------------------------------------------------------------------------


def test_a_download_is_replaced_by_the_stores_version(
    server: Server, mirror: Mirror, tmp_path: Path, home: Path
) -> None:
    fetch("m", server.pair, tmp_path, ignore)
    assert {1: home / "1" / "m.xml"} == bring(mirror)
    assert b"<net/>" == (home / "1" / "m.xml").read_bytes()
    assert {"1"} == names(home)


def test_a_download_of_an_older_release_is_not_the_stores_version(
    server: Server, mirror: Mirror, tmp_path: Path, home: Path
) -> None:
    home.mkdir()
    (home / "1").mkdir()
    (home / "1" / "m.xml").write_bytes(XML)
    bring(mirror)
    assert b"<net/>" == (home / "1" / "m.xml").read_bytes()
    assert XML == (home / "1.aside-1" / "m.xml").read_bytes()


def test_a_download_goes_when_the_store_has_no_such_version(
    server: Server, remote: Memory, mirror: Mirror, tmp_path: Path, home: Path
) -> None:
    fetch("m", server.pair, tmp_path, ignore)
    remote.put("2/m.onnx")
    remote.remove("1")
    assert {2: home / "2" / "m.onnx"} == bring(mirror)
    assert {"2"} == names(home)


def test_a_download_with_files_beside_it_is_set_aside_or_stays(
    server: Server, remote: Memory, mirror: Mirror, tmp_path: Path, home: Path
) -> None:
    fetch("m", server.pair, tmp_path, ignore)
    (home / "1" / "labels.txt").write_text("cat")
    assert mirror.prune(keep=[]) == []
    bring(mirror)
    assert {"m.xml", "m.bin", "labels.txt"} == names(home / "1.aside-1")


def test_a_directorys_versions_are_not_the_stores(
    remote: Memory, mirror: Mirror, tmp_path: Path, home: Path
) -> None:
    for number in (1, 9):
        (home / str(number)).mkdir(parents=True)
        (home / str(number) / "own.onnx").write_bytes(b"own")
    assert [1, 9] == list(locate("m", "m", tmp_path))
    assert {1: home / "1" / "m.xml"} == bring(mirror)
    assert {"1", "9", "1.aside-1"} == names(home)
    assert b"own" == (home / "1.aside-1" / "own.onnx").read_bytes()


def test_another_store_with_the_same_files_is_another_origin(
    remote: Memory, mirror: Mirror, tmp_path: Path
) -> None:
    there, twin = tmp_path / "there", tmp_path / "twin"
    for directory in (there, twin):
        (directory / "1").mkdir(parents=True)
        (directory / "1" / "m.onnx").write_bytes(b"same")
    one, other = (
        Mirror("m", directory.as_uri(), {}, tmp_path / "repository") for directory in (there, twin)
    )
    bring(one)
    assert other.local_versions() == {}
    assert one.remote_versions() != other.remote_versions()
    bring(other)
    assert one.local_versions() == {}
    assert [1] == list(other.local_versions())


# To a store out of reach -------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["download", "store", "own"])
def test_out_of_reach_only_copies_of_that_store_are_served(
    server: Server, mirror: Mirror, unreachable: Mirror, tmp_path: Path, home: Path, before: str
) -> None:
    if before == "download":
        fetch("m", server.pair, tmp_path, ignore)
    elif before == "store":
        bring(mirror)
    else:
        (home / "1").mkdir(parents=True)
        (home / "1" / "own.onnx").write_bytes(b"own")
    lying = names(home / "1")
    reason = r"the repository's versions \(1\) are from another source"
    with pytest.raises(SourceUnavailable, match=reason):
        unreachable.known_versions(ignore)
    assert unreachable.local_versions() == {}
    assert lying == names(home / "1")


def test_out_of_reach_the_copies_of_that_store_are_served_beside_others(
    remote: Memory, mirror: Mirror, home: Path
) -> None:
    found = bring(mirror)
    (home / "9").mkdir()
    (home / "9" / "own.onnx").write_bytes(b"own")
    remote.remove()
    assert found == mirror.copy_missing(mirror.known_versions(ignore), ignore)


# From a store ------------------------------------------------------------------------------------


def test_a_copy_is_replaced_by_a_download(
    server: Server, remote: Memory, mirror: Mirror, tmp_path: Path, home: Path
) -> None:
    remote.put("2/m.onnx")
    bring(mirror)
    assert {1: home / "1" / "m.xml"} == fetch("m", server.pair, tmp_path, ignore)
    assert (XML, BIN) == tuple((home / "1" / name).read_bytes() for name in ("m.xml", "m.bin"))
    assert {"1", "2"} == names(home)
    assert [2] == list(mirror.local_versions())


def test_a_copy_with_the_right_sums_is_no_download(
    remote: Memory, mirror: Mirror, tmp_path: Path, home: Path
) -> None:
    bring(mirror)
    digest = hashlib.sha384(b"<net/>").hexdigest()
    file = RemoteFile("http://127.0.0.1:9/m.xml", digest)
    with pytest.raises(SourceUnavailable, match="cannot be downloaded"):
        fetch("m", [file], tmp_path, ignore)
    assert recorded(home / "1") == mirror.local_versions()[1]


def test_there_and_back_again(
    server: Server, remote: Memory, mirror: Mirror, tmp_path: Path, home: Path
) -> None:
    for _ in range(2):
        bring(mirror)
        assert b"weights" == (home / "1" / "m.bin").read_bytes()
        fetch("m", server.pair, tmp_path, ignore)
        assert BIN == (home / "1" / "m.bin").read_bytes()
    assert {"1"} == names(home)


def test_a_directory_is_served_as_it_is(mirror: Mirror, tmp_path: Path, home: Path) -> None:
    found = bring(mirror)
    MEMORY.store.clear()
    assert found == locate("m", "m", tmp_path)
