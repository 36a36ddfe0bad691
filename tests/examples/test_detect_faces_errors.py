"""The face client's errors: what the server does, what is in a folder, wrong usage."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from examples.detect_faces import Picture, read_picture
from tests.examples.detector_server import FakeServer, detections
from tests.examples.face_client import run
from tests.examples.scenes import scene


def error_of(captured: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, with nothing on stdout."""
    out, err = captured.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err.rstrip("\n")


class TestErrors:
    """One line on stderr, an exit code, no traceback."""

    @pytest.fixture(autouse=True)
    def picture_to_send(self, folder: Path) -> None:
        cv2.imwrite(str(folder / "a.png"), scene(40, 20))

    def test_unavailable_model_with_the_servers_own_words(
        self, server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server.metadata_failure = 503, b'{"error": "model \'finder\' is still\\ndownloading"}'
        assert run(server.url, folder) == 1
        expected = "error: model 'finder': HTTP 503: model 'finder' is still downloading"
        assert error_of(capsys) == expected

    @pytest.mark.parametrize("concurrency", ["1", "4"])
    def test_refused_request(
        self,
        server: FakeServer,
        folder: Path,
        concurrency: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for name in ("b.png", "c.png", "d.png"):
            cv2.imwrite(str(folder / name), scene(40, 20))
        server.infer_failure = 503, b'{"error": "queue is full"}'
        assert run(server.url, folder, "--concurrency", concurrency) == 1
        assert error_of(capsys) in {
            f"error: {name}.png: HTTP 503: queue is full" for name in "abcd"
        }

    def test_no_picture_is_being_read_any_more_when_it_ends(
        self, server: FakeServer, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, ended = [], []

        def slow_after_the_first(path: Path, size: tuple[int, int] | None) -> Picture | None:
            begun.append(path)
            time.sleep(0.3 * (len(begun) > 1))
            ended.append(path)
            return read_picture(path, size)

        cv2.imwrite(str(folder / "b.png"), scene(40, 20))
        server.infer_failure = 503, b'{"error": "queue is full"}'
        monkeypatch.setattr("examples.detect_faces.read_picture", slow_after_the_first)
        assert run(server.url, folder) == 1
        assert 2 == len(begun)
        assert begun == ended

    def test_nobody_listens(
        self, refused_url: str, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(refused_url, folder) == 1
        error = error_of(capsys)
        assert error.startswith(f"error: model 'finder': no KServe v2 answer from {refused_url}: ")
        assert error.endswith("Connection refused")

    def test_a_server_that_leaves_in_between(
        self, server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def leave(_tensor: NDArray[np.float32]) -> NDArray[np.float32]:
            raise ConnectionAbortedError

        server.detect = leave
        assert run(server.url, folder) == 1
        assert error_of(capsys).startswith(f"error: a.png: no KServe v2 answer from {server.url}: ")

    @pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}"])
    def test_a_server_of_something_else(
        self,
        server: FakeServer,
        folder: Path,
        body: bytes,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        server.metadata_failure = 200, body
        assert run(server.url, folder) == 1
        expected = f"error: model 'finder': no KServe v2 answer from {server.url}: "
        assert error_of(capsys).startswith(expected)

    def test_an_error_page_of_a_proxy_in_between(
        self, server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server.metadata_failure = 502, b"<html>\n<h1>Bad Gateway</h1>\n" + b"x" * 10_000
        assert run(server.url, folder) == 1
        error = error_of(capsys)
        assert error.startswith("error: model 'finder': HTTP 502: ")
        assert "Bad Gateway" in error
        assert len(error) < 600

    def test_detections_for_pictures_that_were_not_sent(
        self, server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server.detect = lambda tensor: detections([7, 1, 0.9, 0, 0, 1, 1])
        assert run(server.url, folder) == 1
        assert error_of(capsys).endswith("detection in picture 7 of a batch of 1")

    def test_an_output_folder_that_takes_no_file(
        self, server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder.parent / "out" / "a.png").mkdir(parents=True)
        assert run(server.url, folder) == 1
        assert "cannot write" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("more", "text"),
        [
            (["--width", "300"], "--width and --height go together"),
            (["--height", "300"], "--width and --height go together"),
            (["--width", "0", "--height", "3"], "argument --width: invalid positive value: '0'"),
            (["--url", "localhost:8000"], "--url localhost:8000 is not like http://host:port"),
            (["--url", "http://localhost:http"], "Port could not be cast"),
        ],
    )
    def test_wrong_usage(
        self, folder: Path, more: list[str], text: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            run("http://127.0.0.1:9", folder, *more)
        assert stopped.value.code == 2
        assert text in error_of(capsys)

    def test_a_folder_without_pictures(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(SystemExit) as stopped:
            run("http://127.0.0.1:9", empty)
        assert stopped.value.code == 2
        assert error_of(capsys).endswith(f"no .bmp, .jpeg, .jpg, .png in {empty}")

    def test_a_folder_that_is_not_there(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            run("http://127.0.0.1:9", tmp_path / "gone")
        assert stopped.value.code == 2
        assert "No such file or directory" in error_of(capsys)

    def test_an_output_folder_that_would_overwrite_the_pictures(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            run("http://127.0.0.1:9", folder, "--output-dir", str(folder))
        assert stopped.value.code == 2
        assert "would be overwritten" in error_of(capsys)
