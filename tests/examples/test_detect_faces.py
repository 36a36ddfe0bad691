"""The face client, whole, against a small KServe server that lives in the test.

`main()` runs in this process: tritonclient and gevent import without warnings, which are errors
here. Two tests run the file as a person does, for what only a process shows.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from examples.detect_faces import (
    COLOUR,
    Answer,
    ClientError,
    Image,
    Picture,
    batches,
    detector_ports,
    draw_boxes,
    label_patch,
    main,
    parse_detections,
    percentile_line,
    read_picture,
)

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "detect_faces.py"
UNUSED_ROW = [-1.0, 0, 0, 0, 0, 0, 0]
METADATA = {
    "name": "finder",
    "versions": ["1", "3"],
    "platform": "OpenVINO",
    "inputs": [
        {"name": "scale", "datatype": "FP32", "shape": [1]},
        {"name": "pixels", "datatype": "FP32", "shape": [-1, 3, -1, -1]},
    ],
    "outputs": [
        {"name": "counts", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "boxes", "datatype": "FP32", "shape": [1, 1, -1, 7]},
    ],
}


def people() -> list[Path]:
    folder = ROOT.parent / "shared" / "images" / "people"
    if not folder.is_dir():
        pytest.skip("needs the photographs of ../shared/images/people")
    return sorted(folder.iterdir())


def detections(*rows: list[float]) -> NDArray[np.float32]:
    return np.array([[[*rows, UNUSED_ROW, [0.0, 1, 1, 0, 0, 1, 1]]]], np.float32)


def box_of_white(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a detector of white rectangles answers: one box for each picture that has one."""
    rows = []
    for image_id, planes in enumerate(tensor):
        ys, xs = np.nonzero((planes > 250).all(axis=0))
        if len(ys):
            height, width = planes.shape[1:]
            ends = [xs.min() / width, ys.min() / height, xs.max() / width, ys.max() / height]
            rows.append([float(image_id), 1, 0.987, *ends])
    return detections(*rows)


class FakeServer(ThreadingHTTPServer):
    """Speaks as much KServe v2 as the client asks for, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths: list[str] = []
        self.tensors: list[NDArray[np.float32]] = []
        self.errors: list[object] = []
        self.metadata: dict[str, Any] = METADATA
        self.metadata_failure: tuple[int, bytes] | None = None
        self.infer_failure: tuple[int, bytes] | None = None
        self.detect: Callable[[NDArray[np.float32]], NDArray[np.float32]] = box_of_white

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):  # a client may leave at any time
            self.errors.append(error)

    def shapes(self) -> list[tuple[int, ...]]:
        return [tensor.shape for tensor in self.tensors]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        failure = self.server.metadata_failure
        self.reply(*(failure or (200, json.dumps(self.server.metadata).encode())))

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        header_bytes = int(self.headers["Inference-Header-Content-Length"])
        request, binary = json.loads(body[:header_bytes]), body[header_bytes:]
        assert len(request["inputs"]) == 1
        tensor = request["inputs"][0]
        assert tensor["name"] == "pixels"
        assert tensor["datatype"] == "FP32"
        assert tensor["parameters"] == {"binary_data_size": len(binary)}
        assert request["outputs"] == [{"name": "boxes", "parameters": {"binary_data": True}}]
        pixels = np.frombuffer(binary, np.float32).reshape(tensor["shape"])
        self.server.tensors.append(pixels)
        if self.server.infer_failure:
            self.reply(*self.server.infer_failure)
            return
        found = self.server.detect(pixels)
        output = {
            "name": "boxes",
            "datatype": "FP32",
            "shape": found.shape,
            "parameters": {"binary_data_size": found.nbytes},
        }
        head = json.dumps({"model_name": "finder", "outputs": [output]}).encode()
        self.reply(200, head + found.tobytes(), {"Inference-Header-Content-Length": len(head)})

    def reply(self, status: int, body: bytes, headers: dict[str, int] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        thread = threading.Thread(target=fake.serve_forever, args=(0.01,))
        thread.start()
        yield fake
        fake.shutdown()
        thread.join()
    assert fake.errors == []


@pytest.fixture
def refused_url() -> str:
    with FakeServer() as closed:
        return closed.url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "in"
    source.mkdir()
    return source


def scene(width: int, height: int, box: tuple[int, int, int, int] | None = None) -> Image:
    """A dark picture, every channel different, with a white rectangle x_min,y_min,x_max,y_max."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (10, 60, 120)
    image[:, : width // 4, 2] = 200
    if box:
        image[box[1] : box[3] + 1, box[0] : box[2] + 1] = 255
    return image


def picture(name: str, width: int, height: int) -> Picture:
    image = scene(width, height)
    return Picture(Path(name), image, image)


def run(url: str, folder: Path, *more: str) -> int:
    asked = ["--input-dir", str(folder), "--output-dir", str(folder.parent / "out")]
    return main([*asked, "--url", url, "--model", "finder", *more])


def names(groups: Iterator[list[Picture]]) -> list[str]:
    return ["".join(one.path.name for one in group) for group in groups]


def error_of(captured: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, with nothing on stdout."""
    out, err = captured.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err.rstrip("\n")


class TestBatches:
    def test_joins_pictures_of_equal_size_only(self) -> None:
        sizes = {"a": (8, 4), "b": (4, 8), "c": (8, 4), "d": (8, 4), "e": (4, 8), "f": (8, 4)}
        pictures = [picture(name, *size) for name, size in sizes.items()]
        assert names(batches(pictures, 2)) == ["ac", "be", "df"]

    def test_sends_incomplete_batches_at_the_end(self) -> None:
        pictures = [picture("a", 8, 4), picture("b", 4, 8), picture("c", 8, 4)]
        assert names(batches(pictures, 3)) == ["ac", "b"]

    def test_holds_a_bounded_number_of_pictures_back(self) -> None:
        taken = 0

        def endless() -> Iterator[Picture]:
            nonlocal taken
            while True:
                taken += 1
                yield picture("x", taken, 1)

        assert len(next(batches(endless(), 2))) == 1
        assert taken == 64

    def test_a_batch_may_be_larger_than_that_bound(self) -> None:
        pictures = [picture("x", 2, 1)] * 100
        assert [len(group) for group in batches(pictures, 100)] == [100]


class TestParseDetections:
    def test_ends_at_the_first_unused_row(self) -> None:
        output = detections([0, 1, 0.75, 0.1, 0.2, 0.3, 0.4])
        (found,) = parse_detections(output, 1, 0.5)
        assert found == [pytest.approx((0.75, 0.1, 0.2, 0.3, 0.4))]

    def test_sorts_rows_by_picture_and_keeps_those_without(self) -> None:
        output = detections([2, 1, 0.75, 0, 0, 1, 1], [0, 1, 0.5, 0, 0, 1, 1])
        assert parse_detections(output, 3, 0.5) == [[(0.5, 0, 0, 1, 1)], [], [(0.75, 0, 0, 1, 1)]]

    def test_leaves_out_what_is_below_the_threshold(self) -> None:
        output = detections([0, 1, 0.25, 0, 0, 1, 1], [0, 1, 0.75, 0, 0, 1, 1])
        assert parse_detections(output, 1, 0.5) == [[(0.75, 0, 0, 1, 1)]]

    def test_takes_an_output_that_is_full_to_its_last_row(self) -> None:
        output = np.array([[[[0, 1, 0.75, 0, 0, 1, 1]] * 200]], np.float32)
        assert [len(found) for found in parse_detections(output, 1, 0.5)] == [200]

    def test_refuses_a_picture_that_was_not_sent(self) -> None:
        with pytest.raises(ValueError, match="picture 2 of a batch of 2"):
            parse_detections(detections([2, 1, 0.75, 0, 0, 1, 1]), 2, 0.5)

    def test_refuses_rows_of_another_length(self) -> None:
        with pytest.raises(ValueError, match="reshape"):
            parse_detections(np.zeros((1, 1, 5, 6), np.float32), 1, 0.5)


class TestDrawBoxes:
    def test_draws_the_box_where_it_is(self) -> None:
        image = scene(401, 201)
        drawn = draw_boxes(image, [(0.9, 0.25, 0.5, 0.75, 0.9)])
        # (y, x) of the middle of the right and lower edges, then the inside
        assert tuple(drawn[150, 300]) == COLOUR
        assert tuple(drawn[180, 250]) == COLOUR
        assert (drawn[105:175, 105:295] == image[105:175, 105:295]).all()

    def test_labels_above_the_box(self) -> None:
        image = scene(400, 400)
        drawn = draw_boxes(image, [(0.9, 0.5, 0.5, 0.75, 0.75)])
        patch = label_patch("0.90", 400, 400)
        height, width = patch.shape[:2]
        assert (drawn[200 - height : 200, 200 : 200 + width] == patch).all()

    def test_leaves_the_original_alone(self) -> None:
        image = scene(100, 100)
        draw_boxes(image, [(0.9, 0, 0, 1, 1)])
        assert (image == scene(100, 100)).all()

    def test_changes_nothing_without_detections(self) -> None:
        assert (draw_boxes(scene(30, 20), []) == scene(30, 20)).all()

    def test_lines_and_text_grow_with_the_picture(self) -> None:
        def green(image: Image) -> int:
            return int((draw_boxes(image, [(0.9, 0.2, 0.5, 0.8, 0.8)]) == COLOUR).all(2).sum())

        def text_height(side: int) -> int:
            return len(label_patch("0.90", side, side))

        assert 4 * text_height(500) > text_height(2000) > 2 * text_height(500)
        assert green(scene(2000, 2000)) > 8 * green(scene(500, 500))

    @given(
        width=st.integers(1, 90),
        height=st.integers(1, 90),
        box=st.tuples(*[st.floats(-0.5, 1.5)] * 4),
    )
    def test_keeps_the_text_inside_whatever_the_box(
        self, width: int, height: int, box: tuple[float, float, float, float]
    ) -> None:
        image = scene(width, height)
        drawn = draw_boxes(image, [(0.5, *box)])
        assert drawn.shape == image.shape
        patch = label_patch("0.50", height, width)
        windows = np.lib.stride_tricks.sliding_window_view(drawn, patch.shape)
        assert (windows == patch).all(axis=(-1, -2, -3)).any()


def test_percentile_line() -> None:
    expected = "latency ms: mean 50.0  p50 50.0  p90 90.0  p95 95.0  p99 99.0"
    assert percentile_line([float(ms) for ms in range(101)]) == expected


def test_a_request_line_names_files_shape_time_and_boxes() -> None:
    batch = [picture("a.png", 30, 20), picture("b.png", 30, 20)]
    answer = Answer(batch, [[(0.9, 0, 0, 1, 1)], [(0.8, 0, 0, 1, 1)] * 2], 12.34)
    assert answer.line() == "a.png b.png  [2, 3, 20, 30]  12.3 ms  3 boxes"


class TestDetectorPorts:
    def test_finds_the_image_input_and_the_rows_of_seven(self) -> None:
        assert detector_ports(METADATA) == ["pixels", "boxes"]

    @pytest.mark.parametrize("kind", ["inputs", "outputs"])
    def test_refuses_a_model_that_is_no_detector(self, kind: str) -> None:
        other = {**METADATA, kind: [{"name": "x", "datatype": "FP32", "shape": [1, 1000]}]}
        with pytest.raises(ClientError, match="finder is no detector"):
            detector_ports(other)


class TestMain:
    def test_sends_the_resized_picture_and_draws_on_the_original(
        self, server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = scene(400, 200, (100, 80, 300, 160))
        cv2.imwrite(str(folder / "one.png"), image)
        assert run(server.url, folder, "--width", "100", "--height", "60") == 0
        sent = cv2.resize(image, (100, 60)).transpose(2, 0, 1)[np.newaxis].astype(np.float32)
        (received,) = server.tensors
        assert received.shape == (1, 3, 60, 100)
        assert (received == sent).all()
        drawn = cv2.imread(str(folder.parent / "out" / "one.png"))
        assert drawn is not None
        expected = draw_boxes(image, parse_detections(box_of_white(sent), 1, 0.5)[0])
        assert (drawn == expected).all()
        assert (drawn != image).any()
        out, err = capsys.readouterr()
        assert err == ""  # no progress bar when piped
        request, rate, latency = out.splitlines()
        assert request.startswith("one.png  [1, 3, 60, 100]  ")
        assert request.endswith(" ms  1 boxes")
        assert "pictures/s" in rate
        assert latency.startswith("latency ms: mean ")

    def test_sends_each_picture_at_its_own_size_without_width_and_height(
        self, server: FakeServer, folder: Path
    ) -> None:
        for name, size in {"a": (40, 20), "b": (20, 40), "c": (40, 20), "d": (40, 20)}.items():
            cv2.imwrite(str(folder / f"{name}.bmp"), scene(*size, (4, 4, 12, 12)))
        assert run(server.url, folder, "--batch-size", "2") == 0
        assert server.shapes() == [(2, 3, 20, 40), (1, 3, 40, 20), (1, 3, 20, 40)]

    def test_gives_each_picture_of_a_batch_its_own_boxes(
        self, server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        boxes = {"a": (10, 50, 40, 70), "b": None, "c": (60, 50, 90, 70)}
        for name, box in boxes.items():
            cv2.imwrite(str(folder / f"{name}.png"), scene(100, 100, box))
        assert run(server.url, folder, "--batch-size", "8") == 0
        assert "a.png b.png c.png  [3, 3, 100, 100]" in capsys.readouterr().out
        for name, box in boxes.items():
            drawn = cv2.imread(str(folder.parent / "out" / f"{name}.png"))
            assert drawn is not None
            ys, xs = np.nonzero((drawn == COLOUR).all(axis=2))
            assert (box is None) == (len(ys) == 0)
            if box:
                assert xs.min() == pytest.approx(box[0], abs=1)
                assert ys.max() == pytest.approx(box[3], abs=1)

    def test_uses_the_threshold(
        self, server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cv2.imwrite(str(folder / "a.png"), scene(40, 40, (10, 10, 30, 30)))
        assert run(server.url, folder, "--threshold", "0.99") == 0
        assert " 0 boxes" in capsys.readouterr().out

    def test_asks_for_the_version(self, server: FakeServer, folder: Path) -> None:
        cv2.imwrite(str(folder / "a.png"), scene(40, 40))
        assert run(server.url, folder, "--model-version", "3") == 0
        expected = ["/v2/models/finder/versions/3", "/v2/models/finder/versions/3/infer"]
        assert server.paths == expected

    def test_keeps_as_many_requests_under_way_as_asked(
        self, server: FakeServer, folder: Path
    ) -> None:
        together = threading.Barrier(3, timeout=20)

        def wait_for_the_others(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
            together.wait()
            return box_of_white(tensor)

        server.detect = wait_for_the_others
        for number in range(6):
            cv2.imwrite(str(folder / f"{number}.png"), scene(40, 40))
        assert run(server.url, folder, "--concurrency", "3") == 0
        assert len(server.tensors) == 6
        assert len(list((folder.parent / "out").iterdir())) == 6

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"not a picture", id="text"),
            pytest.param(b"", id="empty"),
            pytest.param(
                b"BM" + b"\0" * 8 + b"\x36\0\0\0\x28\0\0\0" + b"\xff\xff\x0f\0" * 2 + b"\1\0\x18"
                b"\0" * 26,
                id="a-header-of-a-million-by-a-million",
            ),
        ],
    )
    def test_names_and_skips_what_cannot_be_read(
        self,
        server: FakeServer,
        folder: Path,
        content: bytes,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (folder / "broken.jpg").write_bytes(content)
        (folder / "notes.txt").write_text("of no interest")
        cv2.imwrite(str(folder / "good.png"), scene(40, 40))
        assert run(server.url, folder) == 1
        out, err = capsys.readouterr()
        assert err == "skipped broken.jpg: not a readable picture\n"
        assert out.startswith("good.png ")
        assert [path.name for path in (folder.parent / "out").iterdir()] == ["good.png"]

    def test_takes_the_photographs(
        self, server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        photographs = people()
        server.detect = lambda tensor: detections([0, 1, 0.9, 0.4, 0.1, 0.6, 0.5])
        out = folder.parent / "out"
        asked = ["--input-dir", str(photographs[0].parent), "--output-dir", str(out)]
        assert main([*asked, "--url", server.url]) == 0
        assert [(1, 3, 800, 1200)] * 4 == server.shapes()
        assert server.paths[0] == "/v2/models/face-detection"
        assert [path.name for path in photographs] == sorted(path.name for path in out.iterdir())
        assert capsys.readouterr().out.count(" 1 boxes\n") == 4


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


class TestAsAProcess:
    def run_script(self, url: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
        asked = ["--input-dir", str(folder), "--output-dir", str(folder.parent / "out")]
        command = [sys.executable, str(SCRIPT), *asked, "--url", url, *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)

    def test_runs_from_anywhere_and_ends(self, server: FakeServer, folder: Path) -> None:
        for number in range(5):
            cv2.imwrite(str(folder / f"{number}.png"), scene(64, 48, (8, 30, 24, 40)))
        done = self.run_script(server.url, folder, "--concurrency", "2", "--batch-size", "2")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 5

    def test_ends_with_one_line_when_requests_under_way_fail(
        self, server: FakeServer, folder: Path
    ) -> None:
        for number in range(8):
            cv2.imwrite(str(folder / f"{number}.png"), scene(64, 48))
        server.infer_failure = 500, b'{"error": "out of order"}'
        failed = self.run_script(server.url, folder, "--concurrency", "4")
        assert failed.returncode == 1
        assert failed.stderr.endswith(".png: HTTP 500: out of order\n")
        assert failed.stderr.count("\n") == 1
