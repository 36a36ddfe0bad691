from pathlib import Path

import pytest

from deployments.model.sources.local import versions_in
from deployments.model.sources.mirror import Mirror
from deployments.model.sources.origin import RECORD
from tests.model.sources.copies import below, bring_all, put, refusal
from tests.model.sources.stores import Memory


def test_what_was_put_there_by_other_means_is_not_served_and_stays(
    remote: Memory, mirror: Mirror
) -> None:
    put(mirror.repository / "m" / "7" / "own.onnx")
    assert [1] == list(bring_all(mirror))
    assert [1] == list(mirror.local_versions())
    assert [1] == mirror.prune(keep=[])
    assert {"7/own.onnx"} == below(mirror.repository / "m")


@pytest.mark.parametrize("file", ["own.onnx", "notes.txt"])
def test_what_has_the_name_of_a_version_is_set_aside(
    mirror: Mirror, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    home = mirror.repository / "m"
    for round_ in (1, 2):
        put(home / "1" / file)
        (home / "1" / RECORD).unlink(missing_ok=True)
        assert {1: home / "1" / "m.xml"} == bring_all(mirror)
        assert b"own" == (home / f"1.aside-{round_}" / file).read_bytes()
        assert f"it is set aside as 1.aside-{round_}" in caplog.text
    assert [1] == list(versions_in(home))


def test_what_has_the_name_of_a_version_stays_until_the_copy_is_complete(
    remote: Memory, mirror: Mirror
) -> None:
    own = put(mirror.repository / "m" / "1" / "own.onnx")
    remote.put("1/sub/../../../evil", b"")
    assert "whose name is not allowed" in refusal(mirror)
    assert own.read_bytes() == b"own"


def test_a_linked_version_gives_way_as_a_link(mirror: Mirror, tmp_path: Path) -> None:
    own = put(tmp_path / "elsewhere" / "own.onnx")
    home = mirror.repository / "m"
    home.mkdir(parents=True)
    (home / "1").symlink_to(own.parent)
    bring_all(mirror)
    assert (home / "1.aside-1").readlink() == own.parent
    assert not (home / "1").is_symlink()


def test_copies_that_are_not_kept_are_removed(remote: Memory, mirror: Mirror) -> None:
    remote.put("2/m.onnx")
    bring_all(mirror)
    assert mirror.prune(keep=[1, 2, 3]) == []
    assert [1] == mirror.prune(keep=[2])
    assert {"2/m.onnx", f"2/{RECORD}"} == below(mirror.repository / "m")


def test_nothing_is_pruned_where_nothing_is(mirror: Mirror) -> None:
    assert mirror.prune(keep=[]) == []
    assert not mirror.repository.exists()
