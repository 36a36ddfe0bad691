"""The face client as a person runs it, for what only a process shows."""

import subprocess
import sys
from pathlib import Path

import cv2

from tests.examples.detector_server import FakeServer
from tests.examples.scenes import scene

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "detect_faces.py"


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
