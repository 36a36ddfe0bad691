"""Runs the face client in the process of the test."""

from pathlib import Path

from examples.detect_faces import main


def run(url: str, folder: Path, *more: str) -> int:
    asked = ["--input-dir", str(folder), "--output-dir", str(folder.parent / "out")]
    return main([*asked, "--url", url, "--model", "finder", *more])
