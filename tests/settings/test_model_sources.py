"""Where a model's files come from."""

import re

import pytest
from fsspec import available_protocols
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.settings.source import RemoteFile
from tests.settings.model_settings import model, refusal

SHA384 = "0123456789ABCDEF" * 6
FILES = [
    {"url": "https://example.org/a/model.xml", "sha384": SHA384},
    {"url": "https://example.org/a/model.bin?download=1", "sha384": SHA384},
]


@pytest.mark.parametrize("source", ["builtin:spots", "face-detection", "/opt/m/model.onnx", "a b"])
def test_a_source_may_be_built_in_or_a_path(source: str) -> None:
    assert source == model(source=source).source


def test_a_source_may_be_remote_files() -> None:
    source = model(source=FILES).source
    assert isinstance(source, list)
    assert [file.file_name for file in source] == ["model.xml", "model.bin"]
    assert {file.sha384 for file in source} == {SHA384.lower()}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("builtin:faces", "'builtin:faces' is not built in, known: 'builtin:spots'"),
        (
            "https://example.org/model.xml",
            (
                "'https://example.org/model.xml' must be a list of files, "
                "each with its url and sha384"
            ),
        ),
        (
            "https://user:hush@example.org/m?signature=hush",
            "'https://example.org/m' must be a list of files, each with its url and sha384",
        ),
        ("gss://bucket/m", "'gss://' cannot be read, did you mean 'gs'?"),
        *(
            (
                url,
                (
                    "the URL after 's3://' may have no password and no query: put "
                    "credentials into the environment, and other options into storage_options"
                ),
            )
            for url in ("s3://key:hush@bucket/m", "s3://bucket/m?hush", "s3://:@bucket/m")
        ),
        ("s3://[/m", "the URL after 's3://' cannot be read"),
        ("s3://", "'s3://' is not the URL of a directory"),
        ("s3://b/m::s3://b/n", "'s3://b/m::s3://b/n' is not the URL of a directory"),
        ("s3://b/m n", "'s3://b/m n' is not the URL of a directory"),
        (" ", "' ' is not a path"),
        ("a\0b", "'a\\x00b' is not a path"),
        ([], "lists no file"),
        ([FILES[0], FILES[0]], "has 2 files named 'model.xml', one would replace another"),
    ],
)
def test_a_source_that_cannot_be_had_is_refused(source: object, reason: str) -> None:
    assert reason == refusal(source=source)


@pytest.mark.parametrize(
    "source",
    [
        "s3://b/m",
        "gs://b",
        "az://c/m",
        "abfs://c@account.dfs.example.org/m",
        "file:///srv/models/m",
    ],
)
def test_a_source_may_be_a_directory_in_a_store(source: str) -> None:
    options = {"endpoint_url": "http://localhost:9000", "anon": True, "config_kwargs": {"a": [1]}}
    settings = model(source=source, storage_options=options)
    assert settings.remote
    assert options == settings.storage_options


@pytest.mark.parametrize("source", ["builtin:spots", "m", FILES])
def test_only_a_store_has_options(source: object) -> None:
    assert not model(source=source).remote
    reason = "has storage_options, which need a source that is a URL such as 's3://bucket/dir'"
    assert reason == refusal(source=source, storage_options={"anon": True})


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789+.-", min_size=1, max_size=12))
def test_a_scheme_that_fsspec_does_not_know_is_refused_with_what_it_knows(scheme: str) -> None:
    assume(scheme not in available_protocols())
    reason = refusal(source=f"{scheme}://bucket/m")
    assert reason.startswith(f"'{scheme}://' cannot be read, ")
    known = set(available_protocols()) - {"http", "https"}
    assert re.findall(r"[\w+.-]+", reason.partition(", ")[2])[-1] in known


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/model.xml", "model.xml"),
        ("https://example.org:8443/a%20b.xml?x=/y#z", "a b.xml"),
        ("http://localhost:9000/model.onnx", "model.onnx"),
        ("http://127.0.0.1/model.onnx", "model.onnx"),
    ],
)
def test_a_remote_file_keeps_the_last_part_of_its_url(url: str, expected: str) -> None:
    assert expected == RemoteFile(url=url, sha384=SHA384).file_name


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.org/m.xml", "must use https, plain http is for localhost only"),
        ("http://localhost.example.org/m.xml", "must use https, plain http is for localhost"),
        ("http://localhost@example.org/m.xml", "must use https, plain http is for localhost"),
        ("ftp://example.org/m.xml", "is not a URL that starts with https://"),
        ("file:///m.xml", "is not a URL that starts with https://"),
        ("https:///m.xml", "is not a URL that starts with https://"),
        ("m.xml", "is not a URL that starts with https://"),
        ("https://[/m.xml", "is not a URL"),
        ("https://example.org/a\n.xml", "has blanks or control characters"),
        ("https://example.org", "does not end in a file name"),
        ("https://example.org/a/", "does not end in a file name"),
        ("https://example.org/a/..", "does not end in a file name"),
        ("https://example.org/a/%2e%2E", "does not end in a file name"),
        ("https://example.org/a%5Cb.xml", "does not end in a file name"),
        ("https://example.org/a%00b.xml", "does not end in a file name"),
    ],
)
def test_a_url_that_must_not_or_cannot_be_fetched_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(f"{url!r} {reason}")):
        RemoteFile(url=url, sha384=SHA384)


@given(st.text("ab./\\%2eE5CFf0", max_size=20))
def test_no_url_makes_a_file_outside_of_its_directory(path: str) -> None:
    try:
        file = RemoteFile(url=f"https://example.org/{path}", sha384=SHA384)
    except ValidationError:
        return
    assert file.file_name
    assert not file.file_name.startswith(".")
    assert not set(file.file_name) & set("/\\\0")


@pytest.mark.parametrize("digest", ["", "0" * 95, "0" * 97, "g" * 96, "0" * 95 + "\n"])
def test_a_sum_that_is_no_sha384_is_refused(digest: str) -> None:
    with pytest.raises(ValidationError, match=f"96 hexadecimal digits, has {len(digest)} char"):
        RemoteFile(url="https://example.org/m.xml", sha384=digest)
