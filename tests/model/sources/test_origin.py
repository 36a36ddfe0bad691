import json
from pathlib import Path

import pytest

from deployments.model.sources.local import SourceUnavailable
from deployments.model.sources.origin import RECORD, Origin, recorded

ORIGIN = Origin.of({"https://models.invalid/m.xml": "ab", "https://models.invalid/m.bin": "cd"})


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    ORIGIN.record(tmp_path)
    assert ORIGIN == recorded(tmp_path)
    assert [RECORD] == [path.name for path in tmp_path.iterdir()]


def test_a_record_holds_no_secrets(tmp_path: Path) -> None:
    url = "https://user:secret@models.invalid/m.xml?signature=secret"
    Origin.of({url: "AB"}).record(tmp_path)
    assert "secret" not in (tmp_path / RECORD).read_text()
    assert Origin.of({"https://models.invalid/m.xml": "ab"}) == recorded(tmp_path)


def test_the_record_of_an_older_release_is_that_of_a_copy(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(json.dumps({"url": "s3://b/m", "signature": "ab"}))
    assert Origin.of({"s3://b/m": "ab"}) == recorded(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff", b"[]", b"{}", b"1", b"null", b'"sums"', b'{"sums": {"https://a/b": "c"}'),
        *(b'{"sums": {}}', b'{"sums": []}', b'{"sums": 1}', b'{"sums": ["ab"]}'),
        *(b'{"sums": {"https://a/b": 1}}', b'{"sums": {"https://[/": "c"}}', b'{"url": "s3://b"}'),
        *(b'{"url": 1, "signature": "a"}', b'{"url": [], "signature": "a"}'),
    ],
)
def test_a_record_that_makes_no_sense_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD).write_bytes(content)
    assert recorded(tmp_path) is None


def test_no_directory_has_no_record(tmp_path: Path) -> None:
    assert recorded(tmp_path / "none") is None
    (tmp_path / "file").touch()
    assert recorded(tmp_path / "file") is None


def test_a_record_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / RECORD).mkdir()
    with pytest.raises(SourceUnavailable, match=r"\.origin\.json cannot be read: is a directory"):
        recorded(tmp_path)


def test_a_record_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ORIGIN.record(tmp_path)

    def full(_: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        Origin.of({"s3://b/m": "ab"}).record(tmp_path)
    assert ORIGIN == recorded(tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["m.xml", "m.bin", RECORD, ".hidden"], True),
        (["m.xml"], True),
        (["m.xml", "labels.txt"], False),
    ],
)
def test_a_download_accounts_for_its_files_only(
    tmp_path: Path, names: list[str], expected: bool
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert expected == ORIGIN.accounts_for(tmp_path)
    assert Origin.of({"s3://b/m": "ab"}).accounts_for(tmp_path)
