import fcntl
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.model.sources.download import MAX_BYTES, RemoteFile, fetch
from deployments.model.sources.local import SourceUnavailable, versions_in
from deployments.model.sources.origin import RECORD
from tests.model.file_server import BIN, XML, Server

pytestmark = pytest.mark.usefixtures("no_proxies")


def ignore(_: str) -> None:
    pass


def files_below(directory: Path) -> set[str]:
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)) for path in found}


def put(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def refusal(files: list[RemoteFile], repository: Path, max_bytes: int = MAX_BYTES) -> str:
    """The text with which `fetch` fails, after making sure that it leaves nothing behind."""
    with pytest.raises(SourceUnavailable) as failure:
        fetch("m", files, repository, ignore, max_bytes=max_bytes)
    assert set() == files_below(repository)
    assert versions_in(repository / "m") == {}
    return str(failure.value)


# Downloads --------------------------------------------------------------------------------------


def test_a_download_becomes_version_1(server: Server, tmp_path: Path) -> None:
    repository = tmp_path / "not" / "yet"
    found = fetch("m", server.pair, repository, ignore)
    assert {1: repository / "m" / "1" / "m.xml"} == found
    assert found[1].read_bytes() == XML
    assert found[1].with_suffix(".bin").read_bytes() == BIN
    assert {"m/1/m.xml", "m/1/m.bin", f"m/1/{RECORD}"} == files_below(repository)


def test_a_version_takes_its_name_when_its_files_and_its_record_are_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[set[str]] = []
    rename = Path.rename

    def spy(self: Path, target: Path) -> Path:
        assert versions_in(tmp_path / "m") == {}
        named.append(files_below(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", spy)
    fetch("m", server.pair, tmp_path, ignore)
    assert named == [{"m.bin", "m.xml", RECORD}]
    assert server.requests == ["/m.bin", "/m.xml"]


def test_capital_sums_are_sums_too(server: Server, tmp_path: Path) -> None:
    files = [RemoteFile(file.url, file.sha384.upper()) for file in server.pair]
    assert list(fetch("m", files, tmp_path, ignore)) == [1]


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_wrong_sum_leaves_nothing_behind(server: Server, tmp_path: Path, wrong: int) -> None:
    files = server.pair
    good = files[wrong]
    files[wrong] = RemoteFile(good.url, "ab" * 48)
    reason = f"{good.url} has sha384 {good.sha384}, expected {'ab' * 48}"
    assert reason == refusal(files, tmp_path)
    assert not (tmp_path / "m" / "1").exists()


def test_a_failed_download_can_be_repeated(server: Server, tmp_path: Path) -> None:
    pair = server.pair
    server.cut.add("/m.xml")
    refusal(pair, tmp_path)
    server.cut.clear()
    assert list(fetch("m", pair, tmp_path, ignore)) == [1]


def test_what_a_killed_download_left_is_replaced(server: Server, tmp_path: Path) -> None:
    put(tmp_path / "m" / ".1.part" / "m.xml", b"half")
    put(tmp_path / "m" / ".1.old.part" / "m.xml", b"old")
    fetch("m", server.pair, tmp_path, ignore)
    assert {"m/1/m.xml", "m/1/m.bin", f"m/1/{RECORD}"} == files_below(tmp_path)
    assert server.requests == ["/m.bin", "/m.xml"]


def test_what_a_killed_download_of_an_older_release_left_is_replaced(
    server: Server, tmp_path: Path
) -> None:
    put(tmp_path / "m" / "1" / ".m.xml.part", b"half")
    put(tmp_path / "m" / "1" / "m.bin", BIN)
    fetch("m", server.pair, tmp_path, ignore)
    assert {"m/1/m.xml", "m/1/m.bin", f"m/1/{RECORD}"} == files_below(tmp_path)
    assert server.requests == ["/m.xml"]


def test_a_missing_file_is_told_by_its_status(server: Server, tmp_path: Path) -> None:
    pair = server.pair
    del server.bodies["/m.bin"]
    reason = f"{pair[1].url} cannot be downloaded: the server answers 404 Not Found"
    assert reason == refusal(pair, tmp_path)


def test_a_refused_connection_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    file = RemoteFile(f"http://127.0.0.1:{port}/m.xml", "00" * 48)
    assert f"{file.url} cannot be downloaded: connection refused" == refusal([file], tmp_path)


def test_an_unknown_host_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    file = RemoteFile("https://models.invalid/m.xml", "00" * 48)
    reason = f"{file.url} cannot be downloaded: name or service not known"
    assert reason == refusal([file], tmp_path)


def test_a_server_without_tls_is_told(server: Server, tmp_path: Path) -> None:
    file = RemoteFile(server.url("/m.xml").replace("http:", "https:"), "00" * 48)
    assert f"{file.url} cannot be downloaded: no secure connection" == refusal([file], tmp_path)


def test_a_body_that_breaks_off_is_told(server: Server, tmp_path: Path) -> None:
    server.cut.add("/m.bin")
    reason = f"{server.url('/m.bin')} cannot be downloaded: the connection broke off"
    assert reason == refusal(server.pair, tmp_path)


def test_an_unusable_proxy_is_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", "gopher://127.0.0.1:1")
    assert "the environment's proxy" in refusal(server.pair, tmp_path)


def test_a_redirect_on_the_same_machine_is_followed(server: Server, tmp_path: Path) -> None:
    pair = [RemoteFile(server.url("/moved/m.xml"), server.file("/m.xml").sha384)]
    server.redirects["/moved/m.xml"] = "/m.xml"
    assert {1: tmp_path / "m" / "1" / "m.xml"} == fetch("m", pair, tmp_path, ignore)


def test_a_redirect_to_plain_http_is_refused(server: Server, tmp_path: Path) -> None:
    server.redirects["/m.xml"] = "http://models.invalid/m.xml"
    reason = "cannot be downloaded: only https is allowed, not http://models.invalid/m.xml"
    assert f"{server.url('/m.xml')} {reason}" == refusal([server.file("/m.xml")], tmp_path)


def test_redirects_without_end_are_refused(server: Server, tmp_path: Path) -> None:
    server.redirects["/m.xml"] = "/m.xml"
    reason = f"{server.url('/m.xml')} cannot be downloaded: too many redirects"
    assert reason == refusal([server.file("/m.xml")], tmp_path)


@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_only_https_leaves_the_machine(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://models.invalid/m.xml"
    reason = f"{url} cannot be downloaded: only https is allowed, not {url}"
    assert reason == refusal([RemoteFile(url, "00" * 48)], tmp_path)


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_over_the_limit_is_refused(server: Server, tmp_path: Path, announced: bool) -> None:
    if not announced:
        server.unannounced.add("/m.xml")
    file = server.file("/m.xml")
    reason = f"{file.url} cannot be downloaded: it is larger than the allowed {len(XML) - 1} bytes"
    assert reason == refusal([file], tmp_path, max_bytes=len(XML) - 1)
    assert list(fetch("m", [file], tmp_path, ignore, max_bytes=len(XML))) == [1]


def test_an_announced_size_over_the_limit_is_refused_at_once(
    server: Server, tmp_path: Path
) -> None:
    server.cut.add("/m.bin")  # whoever read the body would find it broken off
    reason = f"it is larger than the allowed {len(BIN) - 1} bytes"
    assert refusal(server.pair, tmp_path, max_bytes=len(BIN) - 1).endswith(reason)


def test_what_was_downloaded_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    found = fetch("m", server.pair, tmp_path, ignore)
    before, lines = found[1].stat(), list[str]()
    server.requests.clear()
    signed = [RemoteFile(f"{file.url}?signature=another", file.sha384) for file in server.pair]
    for files in (server.pair, server.pair[::-1], signed):
        assert found == fetch("m", files, tmp_path, lines.append)
    assert (server.requests, lines) == ([], [])
    assert before == found[1].stat()


def test_a_download_is_version_1_and_no_other(server: Server, tmp_path: Path) -> None:
    put(tmp_path / "m" / "7" / "own.onnx")
    assert [1] == list(fetch("m", server.pair, tmp_path, ignore))
    assert "m/7/own.onnx" in files_below(tmp_path)


def test_two_fetches_at_once_download_once(server: Server, tmp_path: Path) -> None:
    server.go_on.clear()
    pair, lines = server.pair, list[str]()

    def second_waits(line: str) -> None:
        lines.append(line)
        server.go_on.set()

    with ThreadPoolExecutor() as pool:
        first = pool.submit(fetch, "m", pair, tmp_path, ignore)
        assert server.asked.wait(10)
        second = pool.submit(fetch, "m", pair, tmp_path, second_waits)
        assert {1: tmp_path / "m" / "1" / "m.xml"} == first.result() == second.result()
    assert lines == ["m: waiting for another process that downloads it"]
    assert server.requests == ["/m.bin", "/m.xml"]


def test_the_lock_is_free_after_a_failure(server: Server, tmp_path: Path) -> None:
    server.cut.add("/m.xml")
    refusal(server.pair, tmp_path)
    with (tmp_path / "m" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_repository_that_cannot_be_written_is_told(server: Server, tmp_path: Path) -> None:
    repository = put(tmp_path / "file")
    with pytest.raises(SourceUnavailable) as failure:
        fetch("m", server.pair, repository, ignore)
    assert f"{repository}/m cannot be used: not a directory" == str(failure.value)
    assert server.requests == []


def test_progress_is_told_in_growing_steps(server: Server, tmp_path: Path) -> None:
    lines: list[str] = []
    fetch("faces", server.pair, tmp_path, lines.append)
    step = re.compile(r"faces: m\.bin (\d\.\d) of 1\.0 MB \((\d+) %\)")
    matches = [match for line in lines if (match := step.fullmatch(line))]
    percents = [int(match[2]) for match in matches]
    assert sorted(set(percents)) == percents
    assert 2 < len(percents) <= 21
    assert percents[-1] == 100
    assert lines[len(matches) :] == [
        "faces: m.xml 0.3 of 0.3 kB (100 %)",
        "faces: downloaded, all checksums match",
    ]


def test_progress_without_an_announced_size_tells_what_came(server: Server, tmp_path: Path) -> None:
    server.unannounced.add("/m.xml")
    lines: list[str] = []
    fetch("m", [server.file("/m.xml")], tmp_path, lines.append)
    assert lines[0] == "m: m.xml 0.3 kB"


def test_what_progress_raises_ends_the_download(server: Server, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(_: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        fetch("m", server.pair, tmp_path, stop)
    assert set() == files_below(tmp_path)


# Names ------------------------------------------------------------------------------------------


def test_a_file_is_named_by_the_end_of_its_url() -> None:
    url = "https://user:secret@models.invalid/a/my%20model-1.xml?signature=b/c.xml"
    assert RemoteFile(url, "").filename == "my model-1.xml"


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a/", "/a/..", "/.m.xml", "/a%2Fm.xml", "/a%5Cm.xml", "/m%00.xml", "/%0a.xml"],
)
def test_a_url_without_a_plain_name_is_refused(path: str) -> None:
    with pytest.raises(SourceUnavailable, match="does not end in a plain file name"):
        _ = RemoteFile(f"https://models.invalid{path}", "").filename


def test_a_url_that_is_none_is_refused(tmp_path: Path) -> None:
    assert refusal([RemoteFile("https://[/m.xml", "")], tmp_path).endswith("no valid URL")


def test_texts_keep_passwords_and_signatures(tmp_path: Path) -> None:
    url = "http://user:secret@models.invalid/m.xml?signature=secret"
    assert "secret" not in refusal([RemoteFile(url, "")], tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "../m", "a/b", "/m", "m\n"])
def test_a_model_name_that_leaves_the_repository_is_refused(
    server: Server, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SourceUnavailable, match="cannot be the name of a directory"):
        fetch(name, server.pair, tmp_path / "repository", ignore)
    assert set() == files_below(tmp_path)


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["/m.bin"], "model m needs exactly one model file, its source has none"),
        (["/a.xml", "/b.onnx"], "exactly one model file, its source has a.xml, b.onnx"),
        (["/a/m.xml", "/b/m.xml"], "two files of model m have the same name"),
        ([], "exactly one model file, its source has none"),
    ],
)
def test_sources_that_are_no_model_are_refused_before_any_download(
    tmp_path: Path, paths: list[str], reason: str
) -> None:
    files = [RemoteFile(f"https://models.invalid{path}", "") for path in paths]
    assert refusal(files, tmp_path).endswith(reason)
