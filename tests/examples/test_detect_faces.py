"""The face client, whole, against a small KServe server that lives in the test.

`main()` runs in this process: tritonclient and gevent import without warnings, which are errors
here.
"""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from examples.detect_faces import COLOUR, draw_boxes, main, parse_detections
from tests.examples.detector_server import FakeServer, box_of_white, detections
from tests.examples.face_client import run
from tests.examples.scenes import scene

ROOT = Path(__file__).parents[2]


def people() -> list[Path]:
    folder = ROOT.parent / "shared" / "images" / "people"
    if not folder.is_dir():
        pytest.skip("needs the photographs of ../shared/images/people")
    return sorted(folder.iterdir())


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
