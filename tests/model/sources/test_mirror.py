import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.model.sources.local import SourceUnavailable, versions_in
from deployments.model.sources.mirror import Mirror, _stays_inside
from deployments.model.sources.origin import RECORD
from tests.model.sources.copies import below, bring_all, ignore, put, refusal
from tests.model.sources.stores import Bucket, Memory, google_server, s3_server

# Copies -----------------------------------------------------------------------------------------


def test_wanted_versions_are_copied_and_no_others(remote: Memory, mirror: Mirror) -> None:
    remote.put("2/saved_model.pb", b"saved")
    remote.put("2/variables/variables.index", b"index")
    remote.put("3/m.onnx")
    known = mirror.remote_versions()
    assert [1, 2, 3] == list(known)
    home = mirror.repository / "m"
    found = mirror.copy_missing({number: known[number] for number in (1, 2)}, ignore)
    assert {1: home / "1" / "m.xml", 2: home / "2"} == found
    assert b"weights" == (home / "1" / "m.bin").read_bytes()
    assert {
        *("1/m.xml", "1/m.bin", f"1/{RECORD}"),
        *("2/saved_model.pb", "2/variables/variables.index", f"2/{RECORD}"),
    } == below(home)


def test_what_is_here_is_not_copied_again(remote: Memory, mirror: Mirror) -> None:
    known = mirror.remote_versions()
    found = mirror.copy_missing(known, ignore)
    remote.remove()
    lines: list[str] = []
    assert found == mirror.copy_missing(known, lines.append)
    assert lines == []
    assert known == mirror.local_versions()


def test_a_changed_version_is_replaced_as_a_whole(remote: Memory, mirror: Mirror) -> None:
    before = bring_all(mirror)
    held = before[1].open("rb")
    remote.put("1/m.xml", b"<new/>")
    remote.remove("1/m.bin")
    assert before == bring_all(mirror)
    assert {"1/m.xml", f"1/{RECORD}"} == below(mirror.repository / "m")
    assert b"<new/>" == before[1].read_bytes()
    with held:  # who has opened the old version keeps it
        assert b"<net/>" == held.read()


def test_a_half_copied_version_is_never_seen(remote: Memory, mirror: Mirror) -> None:
    class Stop(Exception):
        pass

    def stop(line: str) -> None:
        assert versions_in(mirror.repository / "m") == {}
        if "m.xml" in line:
            raise Stop

    with pytest.raises(Stop):
        mirror.copy_missing(mirror.remote_versions(), stop)
    assert set() == below(mirror.repository)
    assert [1] == list(bring_all(mirror))


def test_a_failed_copy_leaves_the_version_before(remote: Memory, mirror: Mirror) -> None:
    before = bring_all(mirror)
    remote.put("1/m.xml", b"<new/>")
    remote.put("1/sub/../../../evil", b"")
    assert "whose name is not allowed" in refusal(mirror)
    assert b"<net/>" == before[1].read_bytes()


def test_what_a_killed_copy_left_is_removed(mirror: Mirror) -> None:
    home = mirror.repository / "m"
    put(home / ".1.part" / "m.xml")
    put(home / ".1.old.part" / "m.xml")
    bring_all(mirror)
    assert {"1/m.xml", "1/m.bin", f"1/{RECORD}"} == below(home)


def test_two_that_bring_at_once_copy_once(mirror: Mirror) -> None:
    known = mirror.remote_versions()
    copying, waiting, lines = threading.Event(), threading.Event(), list[str]()

    def first(_: str) -> None:
        copying.set()
        assert waiting.wait(10)

    def second(line: str) -> None:
        lines.append(line)
        waiting.set()

    with ThreadPoolExecutor() as pool:
        one = pool.submit(mirror.copy_missing, known, first)
        assert copying.wait(10)
        other = pool.submit(mirror.copy_missing, known, second)
        assert one.result() == other.result()
    assert lines == ["m: waiting for another process that downloads it"]


def test_a_version_that_changes_meanwhile_is_not_taken(remote: Memory, mirror: Mirror) -> None:
    def change(line: str) -> None:
        if "m.bin" in line:
            remote.put("1/m.bin", b"WEIGHTS")

    with pytest.raises(SourceUnavailable, match=r"version 1 of .* changed while it was copied"):
        mirror.copy_missing(mirror.remote_versions(), change)
    assert set() == below(mirror.repository)


def test_a_version_that_went_is_told(remote: Memory, mirror: Mirror) -> None:
    remote.put("2/m.onnx")
    known = mirror.remote_versions()
    remote.remove("2")
    with pytest.raises(SourceUnavailable, match="has no version 2"):
        mirror.copy_missing(known, ignore)


def test_a_file_over_the_limit_is_refused(remote: Memory, mirror: Mirror) -> None:
    small = Mirror("m", remote.url, {}, mirror.repository, max_bytes=6)
    reason = f"m.bin of {remote.url} is larger than the allowed 6 bytes"
    assert reason == refusal(small)
    assert [1] == list(bring_all(Mirror("m", remote.url, {}, mirror.repository, max_bytes=7)))


def test_a_store_without_versions_is_told(remote: Memory, mirror: Mirror) -> None:
    remote.remove()
    reason = f"{remote.url} has no version directory with a model file"
    assert reason == refusal(mirror)


def test_a_name_that_leaves_the_repository_is_refused(remote: Memory, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="cannot be the name of a directory"):
        bring_all(Mirror("../m", remote.url, {}, tmp_path))


def test_a_repository_that_cannot_be_written_is_told(remote: Memory, tmp_path: Path) -> None:
    file = put(tmp_path / "file")
    with pytest.raises(SourceUnavailable, match="cannot be used: not a directory"):
        bring_all(Mirror("m", remote.url, {}, file))


def test_the_options_are_not_shown(tmp_path: Path) -> None:
    assert "hush" not in repr(Mirror("m", "s3://b/m", {"secret": "hush"}, tmp_path))


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_versions_come_from_real_stores(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("deployments.model.sources.object_store.PIECE_BYTES", 2**17)
    token = {"token": "anon"} if scheme == "gs" else {}
    with s3_server() if scheme == "s3" else google_server() as endpoint:
        bucket = Bucket(scheme, endpoint_url=endpoint, **token)
        mirror = Mirror("m", bucket.url, bucket.options, tmp_path)
        bucket.put("1/m.xml", b"<net/>")
        bucket.put("1/m.bin", content := bytes(range(256)) * 3000)
        assert {1: tmp_path / "m" / "1" / "m.xml"} == (found := bring_all(mirror))
        assert content == found[1].with_suffix(".bin").read_bytes()
        bucket.put("1/m.xml", b"<new/>")
        assert b"<new/>" == bring_all(mirror)[1].read_bytes()
        if scheme == "s3":
            bucket.put_odd("1/variables/../../../evil")
            assert "whose name is not allowed" in refusal(mirror)
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


# Out of reach -----------------------------------------------------------------------------------


def test_without_the_store_the_copies_are_used_and_the_reason_told(
    remote: Memory, mirror: Mirror
) -> None:
    found = bring_all(mirror)
    remote.remove()
    lines: list[str] = []
    known = mirror.known_versions(lines.append)
    reason = f"{remote.url} has no version directory with a model file"
    assert lines == [f"m: {reason}; using the copies in the repository"]
    assert found == mirror.copy_missing(known, ignore)


def test_without_the_store_and_without_copies_the_reason_is_raised(
    remote: Memory, mirror: Mirror
) -> None:
    remote.remove()
    with pytest.raises(SourceUnavailable, match="has no version directory"):
        mirror.known_versions(ignore)


def test_copies_from_another_url_are_not_used_but_replaced(
    remote: Memory, mirror: Mirror, tmp_path: Path
) -> None:
    bring_all(mirror)
    other = Memory()
    other.put("1/other.onnx")
    moved = Mirror("m", other.url, {}, mirror.repository)
    assert moved.local_versions() == {}
    assert {1: mirror.repository / "m" / "1" / "other.onnx"} == bring_all(moved)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": 1'])
def test_a_copy_whose_record_is_broken_is_set_aside(mirror: Mirror, text: str) -> None:
    bring_all(mirror)
    home = mirror.repository / "m"
    (home / "1" / RECORD).write_text(text)
    assert mirror.local_versions() == {}
    assert mirror.prune(keep=[]) == []
    bring_all(mirror)
    assert mirror.remote_versions() == mirror.local_versions()
    assert b"weights" == (home / "1.aside-1" / "m.bin").read_bytes()


def test_a_record_that_cannot_be_read_is_told(mirror: Mirror) -> None:
    bring_all(mirror)
    record = mirror.repository / "m" / "1" / RECORD
    record.unlink()
    record.mkdir()
    reason = f"{record} cannot be read: is a directory"
    with pytest.raises(SourceUnavailable, match=re.escape(reason)):
        mirror.local_versions()


def test_the_records_of_older_releases_count(remote: Memory, mirror: Mirror) -> None:
    path = bring_all(mirror)[1]
    (origin,) = mirror.remote_versions().values()
    ((url, signature),) = origin.sums
    path.with_name(RECORD).write_text(json.dumps({"url": url, "signature": signature}))
    before = path.stat()
    assert {1: origin} == mirror.local_versions()
    lines: list[str] = []
    assert {1: path} == mirror.copy_missing(mirror.remote_versions(), lines.append)
    assert lines == []
    assert before == path.stat()


# Names ------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["..", ".", "", "a", "...", "\\", "\0", "b c", "é"]), max_size=6))
def test_a_name_that_is_taken_stays_inside(parts: list[str]) -> None:
    name = "/".join(parts)
    if _stays_inside(name):
        base = Path("/repository/m/.1.part")
        assert base.joinpath(name).resolve().is_relative_to(base)
        assert base.joinpath(name).resolve() != base


@given(st.text("abc._- é", min_size=1).filter(lambda name: name not in (".", "..")))
def test_ordinary_names_are_taken(name: str) -> None:
    assert _stays_inside(name)
    assert _stays_inside(f"variables/{name}")


def test_the_record_can_be_read_by_people(remote: Memory, mirror: Mirror) -> None:
    known = mirror.remote_versions()
    path = bring_all(mirror)[1].with_name(RECORD)
    ((url, signature),) = known[1].sums
    assert remote.url == url
    assert {"sums": {url: signature}} == json.loads(path.read_text())
