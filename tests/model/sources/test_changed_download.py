"""Downloads whose settings differ from what lies in the repository."""

import hashlib
import os
from pathlib import Path

import pytest

from deployments.model.sources.download import RemoteFile, fetch
from deployments.model.sources.local import SourceUnavailable, versions_in
from deployments.model.sources.origin import RECORD, recorded
from tests.model.file_server import BIN, XML, Server

PAIR = {"m.xml": XML, "m.bin": BIN}


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return tmp_path / "m" / "1"


def ignore(_: str) -> None:
    pass


def put(directory: Path, files: dict[str, bytes]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)


def contents(directory: Path) -> dict[str, bytes]:
    """Without the record."""
    files = (path for path in directory.iterdir() if path.name != RECORD)
    return {path.name: path.read_bytes() for path in files}


def refusal(files: list[RemoteFile], repository: Path) -> str:
    with pytest.raises(SourceUnavailable) as failure:
        fetch("m", files, repository, ignore)
    assert not list((repository / "m").glob(".*.part"))
    return str(failure.value)


# With a record -----------------------------------------------------------------------------------


def test_another_sum_is_downloaded_and_the_file_beside_it_stays(
    server: Server, tmp_path: Path, version: Path
) -> None:
    fetch("m", server.pair, tmp_path, ignore)
    weights = (version / "m.bin").stat()
    server.bodies["/m.xml"] = b"<new/>"
    server.requests.clear()
    assert {1: version / "m.xml"} == fetch("m", server.pair, tmp_path, ignore)
    assert {"m.xml": b"<new/>", "m.bin": BIN} == contents(version)
    assert server.requests == ["/m.xml"]
    assert weights.st_ino == (version / "m.bin").stat().st_ino
    assert ["1"] == [path.name for path in version.parent.iterdir() if path.name != ".lock"]


def test_another_url_is_downloaded_even_for_the_same_sum(
    server: Server, tmp_path: Path, version: Path
) -> None:
    fetch("m", server.pair, tmp_path, ignore)
    server.bodies["/moved/m.xml"] = XML
    server.requests.clear()
    moved = [server.file("/moved/m.xml"), server.file("/m.bin")]
    fetch("m", moved, tmp_path, ignore)
    assert server.requests == ["/moved/m.xml"]
    assert PAIR == contents(version)


def test_files_that_the_source_has_no_more_go(
    server: Server, tmp_path: Path, version: Path
) -> None:
    fetch("m", server.pair, tmp_path, ignore)
    fetch("m", [server.file("/m.xml")], tmp_path, ignore)
    assert {"m.xml": XML} == contents(version)
    server.bodies["/n.onnx"] = b"onnx"
    assert {1: version / "n.onnx"} == fetch("m", [server.file("/n.onnx")], tmp_path, ignore)
    assert {"n.onnx": b"onnx"} == contents(version)


def test_a_failed_download_leaves_what_was_there(
    server: Server, tmp_path: Path, version: Path
) -> None:
    before = server.pair
    fetch("m", before, tmp_path, ignore)
    server.bodies["/m.xml"] = b"<new/>"
    server.cut.add("/m.xml")
    assert "the connection broke off" in refusal(server.pair, tmp_path)
    assert PAIR == contents(version)
    server.requests.clear()
    assert {1: version / "m.xml"} == fetch("m", before, tmp_path, ignore)
    assert server.requests == []


def test_a_file_that_is_missing_is_downloaded(
    server: Server, tmp_path: Path, version: Path
) -> None:
    fetch("m", server.pair, tmp_path, ignore)
    (version / "m.bin").unlink()
    server.requests.clear()
    fetch("m", server.pair, tmp_path, ignore)
    assert server.requests == ["/m.bin"]
    assert PAIR == contents(version)


def test_what_was_put_beside_a_download_is_set_aside_with_it(
    server: Server, tmp_path: Path, version: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetch("m", server.pair, tmp_path, ignore)
    put(version, {"labels.txt": b"cat"})
    server.bodies["/m.xml"] = b"<new/>"
    fetch("m", server.pair, tmp_path, ignore)
    assert {"m.xml": b"<new/>", "m.bin": BIN} == contents(version)
    assert {**PAIR, "labels.txt": b"cat"} == contents(version.with_name("1.aside-1"))
    assert "it is set aside as 1.aside-1" in caplog.text


# Without a record --------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [None, "", '{"sums": '])
def test_files_with_the_right_sums_are_kept_and_recorded(
    server: Server, tmp_path: Path, version: Path, record: str | None
) -> None:
    put(version, {**PAIR, "labels.txt": b"cat"})
    if record is not None:
        (version / RECORD).write_text(record)
    before, lines = (version / "m.xml").stat(), list[str]()
    for _ in range(2):
        assert {1: version / "m.xml"} == fetch("m", server.pair, tmp_path, lines.append)
    assert server.requests == []
    assert lines == ["m: the checksums of the existing files match"]
    assert before == (version / "m.xml").stat()
    assert {**PAIR, "labels.txt": b"cat"} == contents(version)
    assert recorded(version) is not None


def test_the_model_of_the_source_is_served_whatever_lies_beside_it(
    server: Server, tmp_path: Path, version: Path
) -> None:
    put(version, {"n.onnx": b"onnx", "a.xml": b"<other/>"})
    server.bodies["/n.onnx"] = b"onnx"
    assert {1: version / "n.onnx"} == fetch("m", [server.file("/n.onnx")], tmp_path, ignore)


def test_a_file_with_another_sum_is_replaced_and_set_aside(
    server: Server, tmp_path: Path, version: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(version, {"m.xml": b"<own/>", "m.bin": BIN})
    fetch("m", server.pair, tmp_path, ignore)
    assert server.requests == ["/m.xml"]
    assert PAIR == contents(version)
    assert {"m.xml": b"<own/>", "m.bin": BIN} == contents(version.with_name("1.aside-1"))
    assert not (version / "m.bin").samefile(version.with_name("1.aside-1") / "m.bin")
    own, wanted = (hashlib.sha384(body).hexdigest()[:12] for body in (b"<own/>", XML))
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{version} differs from the model's source: it is set aside as 1.aside-1" in said
    assert (
        f"model 'm': m.xml had sha384 {own}..., not {wanted}... as in the settings, "
        "and was downloaded again"
    ) in said


def test_a_file_with_another_sum_stays_when_the_download_fails(
    server: Server, tmp_path: Path, version: Path
) -> None:
    put(version, {"m.xml": b"<own/>", "m.bin": BIN})
    server.cut.add("/m.xml")
    assert "the connection broke off" in refusal(server.pair, tmp_path)
    assert {"m.xml": b"<own/>", "m.bin": BIN} == contents(version)
    assert recorded(version) is None


def test_files_that_change_are_summed_again(server: Server, tmp_path: Path, version: Path) -> None:
    put(version, {"m.xml": b"<own/>", "m.bin": BIN})
    server.cut.add("/m.xml")
    refusal(server.pair, tmp_path)
    put(version, PAIR)
    assert {1: version / "m.xml"} == fetch("m", server.pair, tmp_path, ignore)
    assert {"/m.xml"} == set(server.requests)


def test_a_repository_that_is_read_only_is_served_when_its_sums_are_right(
    server: Server, tmp_path: Path, version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda _path, mode: mode != os.W_OK)
    put(version, PAIR)
    assert {1: version / "m.xml"} == fetch("m", server.pair, tmp_path, ignore)
    assert PAIR == contents(version)
    assert ["1"] == [path.name for path in version.parent.iterdir()]


# Killed ------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["_receive", "Origin.record", "exchange"])
def test_a_download_that_is_killed_leaves_the_version_before(
    server: Server, tmp_path: Path, version: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def kill(*_: object, **__: object) -> None:
        raise Killed

    before = server.pair
    fetch("m", before, tmp_path, ignore)
    server.bodies["/m.xml"] = b"<new/>"
    with monkeypatch.context() as patched:
        patched.setattr(f"deployments.model.sources.download.{step}", kill)
        patched.setattr("deployments.model.sources.download.tidy", ignore)  # a killed one does not
        with pytest.raises(Killed):
            fetch("m", server.pair, tmp_path, ignore)
    assert [1] == list(versions_in(tmp_path / "m"))
    assert PAIR == contents(version)
    fetch("m", server.pair, tmp_path, ignore)
    assert {"m.xml": b"<new/>", "m.bin": BIN} == contents(version)
    assert not list((tmp_path / "m").glob(".*.part"))


def test_a_download_that_is_killed_while_versions_change_places_is_repeated(
    server: Server, tmp_path: Path, version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def kill(self: Path, target: Path) -> Path:
        if target == version:
            raise Killed
        return rename(self, target)

    fetch("m", server.pair, tmp_path, ignore)
    server.bodies["/m.xml"] = b"<new/>"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", kill)
        with pytest.raises(Killed):
            fetch("m", server.pair, tmp_path, ignore)
    assert not version.exists()
    fetch("m", server.pair, tmp_path, ignore)
    assert {"m.xml": b"<new/>", "m.bin": BIN} == contents(version)
