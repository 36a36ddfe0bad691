"""The files in `../shared`; tests that need them are skipped without them."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"
FACE_MODEL = SHARED / "models" / "face-detection" / "1" / "face-detection-retail-0004.xml"
PEOPLE = SHARED / "images" / "people"
FACES_AT_300 = SHARED / "reference" / "face-detection-300x300.json"

needs_shared = pytest.mark.skipif(
    not FACE_MODEL.exists(), reason="needs the face detector and the photographs in ../shared"
)
