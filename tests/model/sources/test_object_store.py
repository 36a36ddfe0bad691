import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments import timing
from deployments.model.sources import object_store as store_module
from deployments.model.sources.local import SourceUnavailable
from deployments.model.sources.object_store import Store, StoredFile, signature
from tests.model.sources.stores import (
    LOCALHOST,
    Bucket,
    denying_server,
    google_server,
    s3_server,
)

ANONYMOUS = {"token": "anon"}
ONCE = {"config_kwargs": {"retries": {"max_attempts": 0}}}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for scheme in ("http", "https", "all"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield
    for scheme in ("s3", "gs"):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


@pytest.fixture
def s3() -> Iterator[Bucket]:
    with s3_server() as endpoint:
        yield Bucket("s3", endpoint_url=endpoint)


@pytest.fixture
def google() -> Iterator[Bucket]:
    with google_server() as endpoint:
        yield Bucket("gs", endpoint_url=endpoint, **ANONYMOUS)


@pytest.fixture(params=["s3", "google"])
def remote(request: pytest.FixtureRequest) -> Bucket:
    found: Bucket = request.getfixturevalue(request.param)
    return found


def signatures(remote: Bucket) -> dict[int, str]:
    versions = Store(remote.url, remote.options).versions()
    return {number: signature(files) for number, files in versions.items()}


def refusal(url: str, options: dict[str, Any]) -> str:
    with pytest.raises(SourceUnavailable) as failure:
        Store(url, options).versions()
    assert failure.value.__cause__ is None
    return str(failure.value)


# Real servers -----------------------------------------------------------------------------------


def test_versions_with_a_model_file_are_listed_lowest_first(remote: Bucket) -> None:
    for path in (
        *("10/saved_model.pb", "10/variables/variables.index", "2/m.xml", "2/m.bin", "2/.DS_Store"),
        *("3/m.bin", "4/deeper/m.xml", "latest/m.xml", "README.md", "05/m.xml"),
    ):
        remote.put(path, path.encode())
    versions = Store(remote.url, remote.options).versions()
    assert [2, 10] == list(versions)
    assert {("m.bin", 7), ("m.xml", 7)} == {(file.name, file.size) for file in versions[2]}
    names = {file.name for file in versions[10]}
    assert {"saved_model.pb", "variables/variables.index"} == names


def test_what_stands_for_a_directory_is_no_file(s3: Bucket) -> None:
    s3.put("1/saved_model.pb", b"")
    for key in ("1/", "1/variables/", "2/", "/"):
        s3.put_odd(key)
    versions = Store(s3.url, s3.options).versions()
    assert {1: ["saved_model.pb"]} == {n: [f.name for f in files] for n, files in versions.items()}


def test_a_signature_tells_changed_versions_from_unchanged(remote: Bucket) -> None:
    remote.put("1/m.onnx", b"first")
    remote.put("2/m.onnx", b"first")
    before = signatures(remote)
    assert before == signatures(remote)
    remote.put("1/m.onnx", b"other")
    after = signatures(remote)
    assert before[1] != after[1]
    assert before[2] == after[2]
    remote.put("2/labels.txt", b"")
    more = signatures(remote)
    assert more[2] != after[2]
    remote.remove("2/labels.txt")
    assert after == signatures(remote)


def test_a_file_is_read_in_pieces(remote: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PIECE_BYTES", 1000)
    remote.put("1/m.onnx", content := bytes(range(250)) * 9)
    remote.put("1/empty.txt", b"")
    store = Store(remote.url, remote.options)
    empty, model = sorted(store.versions()[1], key=lambda file: file.name)
    assert [1000, 1000, 250] == [len(piece) for piece in store.read(model)]
    assert content == b"".join(store.read(model))
    assert list(store.read(empty)) == []


def test_a_file_that_shrank_is_told(remote: Bucket) -> None:
    remote.put("1/m.onnx", b"12345")
    store = Store(remote.url, remote.options)
    (file,) = store.versions()[1]
    remote.put("1/m.onnx", b"123")
    with pytest.raises(SourceUnavailable, match=r"m\.onnx changed while it was read"):
        list(store.read(file))


def test_a_file_that_went_is_told(remote: Bucket) -> None:
    remote.put("1/m.onnx", b"12345")
    store = Store(remote.url, remote.options)
    (file,) = store.versions()[1]
    remote.remove("1/m.onnx")
    with pytest.raises(SourceUnavailable, match="it does not exist"):
        list(store.read(file))


def test_a_missing_directory_has_no_versions(remote: Bucket) -> None:
    remote.put("1/m.onnx", b"")
    assert Store(f"{remote.url}/elsewhere", remote.options).versions() == {}


def test_a_missing_bucket_is_told(s3: Bucket, google: Bucket) -> None:
    reason = "s3://missing/m cannot be read: it does not exist (NoSuchBucket)"
    assert reason == refusal("s3://missing/m", s3.options)
    reason = "gs://missing/m cannot be read: it does not exist"
    assert reason == refusal("gs://missing/m", google.options)


def test_missing_credentials_are_told_and_found_later(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("1/m.onnx", b"")
    options = {**s3.options, "use_ssl": False}  # so that this filesystem is not there yet
    with monkeypatch.context() as without:
        without.delenv("AWS_ACCESS_KEY_ID")
        without.delenv("AWS_SECRET_ACCESS_KEY")
        reason = "s3://models/resnet cannot be read: no valid credentials were found"
        assert reason == refusal(s3.url, options)
    assert [1] == list(Store(s3.url, options).versions())


def test_unusable_credentials_are_told() -> None:
    reason = "gs://b/m cannot be read: no valid credentials were found"
    assert reason == refusal("gs://b/m", {"token": {"private_key": "the-secret"}})


@pytest.mark.parametrize("url", ["s3://b/m", "gs://b/m"])
def test_a_denied_access_is_told_without_secrets(url: str) -> None:
    with denying_server() as endpoint:
        options = {"endpoint_url": endpoint} | (ANONYMOUS if url.startswith("gs") else {})
        reason = refusal(url, options)
    code = " (AccessDenied)" if url.startswith("s3") else ""
    assert f"{url} cannot be read: access is denied{code}" == reason


def test_a_refused_connection_is_told() -> None:
    with socket.create_server((LOCALHOST, 0)) as closing:
        port = closing.getsockname()[1]
    reason = "s3://b/m cannot be read: connection refused"
    assert reason == refusal("s3://b/m", {"endpoint_url": f"http://{LOCALHOST}:{port}", **ONCE})


def test_an_unknown_host_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    reason = "s3://b/m cannot be read: name or service not known"
    assert reason == refusal("s3://b/m", {"endpoint_url": "http://s3.invalid", **ONCE})


@pytest.mark.parametrize("url", ["s3://b/m", "gs://b/m"])
def test_a_silent_server_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "STORE_CALL_S", 1.0)
    with socket.create_server((LOCALHOST, 0)) as silent:
        port = silent.getsockname()[1]
        options = {"endpoint_url": f"http://{LOCALHOST}:{port}"}
        reason = refusal(url, options | (ANONYMOUS if url.startswith("gs") else {}))
    assert f"{url} cannot be read: no answer within 1 s" == reason


@pytest.mark.parametrize("options", [{"nonsense": 1}, {"endpoint_url": "nonsense"}])
def test_unusable_options_are_told(options: dict[str, Any]) -> None:
    reason = "s3://b/m cannot be read: its URL or storage_options cannot be used"
    assert reason == refusal("s3://b/m", options)


# Other stores -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "package", "reason"),
    [
        ("s3://b/m", "s3fs", "a package is not installed, run 'pip install anyshape[s3]'"),
        ("gs://b/m", "gcsfs", "a package is not installed, run 'pip install anyshape[gs]'"),
        ("az://b/m", "adlfs", "the package that fsspec needs for az:// is not installed"),
    ],
)
def test_a_missing_package_is_told(
    url: str, package: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setattr(sys.modules["fsspec.registry"], "registry", {})  # those that were imported
        for module in (package, f"{package}.core"):
            without.setitem(sys.modules, module, None)
        assert f"{url} cannot be read: {reason}" == refusal(url, {})


def test_a_local_directory_can_be_a_store(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "m.onnx").write_bytes(b"12345")
    store = Store(f"file://{tmp_path}", {})
    (file,) = store.versions()[1]
    assert ("m.onnx", 5) == (file.name, file.size)
    assert b"12345" == b"".join(store.read(file))


# Signatures -------------------------------------------------------------------------------------

files = st.builds(StoredFile, st.just(""), st.text(), st.integers(0) | st.none(), st.text())


@given(st.lists(files, unique_by=lambda file: file.name), st.randoms())
def test_a_signature_does_not_depend_on_the_order(found: list[StoredFile], random: Any) -> None:
    shuffled = random.sample(found, len(found))
    assert signature(found) == signature(shuffled)


@given(
    st.lists(files, unique_by=lambda file: file.name),
    st.lists(files, unique_by=lambda file: file.name),
)
def test_different_files_have_different_signatures(
    one: list[StoredFile], other: list[StoredFile]
) -> None:
    same = set(one) == set(other)
    assert same == (signature(one) == signature(other))
