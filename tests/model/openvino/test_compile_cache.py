import os
from pathlib import Path

import numpy as np
import pytest

from deployments.model.openvino.compile_cache import CompileCache
from deployments.model.openvino.runtime import Runtime
from tests.e2e.live import counting_model
from tests.model.loading import FLOAT32, assert_same, tensor
from tests.model.models import add_one


def put(blobs: CompileCache, shapes: str, size: int, age_s: int) -> Path:
    place = blobs.place(shapes)
    assert place is not None
    (place / "1.blob").write_bytes(b"x" * size)
    status = place.stat()
    os.utime(place, (status.st_atime - age_s, status.st_mtime - age_s))
    return place


def test_each_shape_has_a_place_of_its_own(tmp_path: Path) -> None:
    blobs = CompileCache(tmp_path / "new", 100)
    one, other = blobs.place("[1,3]"), blobs.place("[1,4]")
    assert one != other
    assert one == blobs.place("[1,3]")
    assert {one, other} == set((tmp_path / "new").iterdir())


def test_beyond_the_bound_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    blobs = CompileCache(tmp_path, 100)
    old, older, new = (put(blobs, s, 40, age) for s, age in (("a", 20), ("b", 30), ("c", 0)))
    blobs.prune()
    assert [True, False, True] == [place.exists() for place in (old, older, new)]
    blobs.place("a")
    put(blobs, "d", 60, 0)
    os.utime(new, (0, 0))
    blobs.prune()
    assert [True, False] == [place.exists() for place in (old, new)]


def test_within_the_bound_nothing_goes(tmp_path: Path) -> None:
    blobs = CompileCache(tmp_path, 100)
    places = [put(blobs, shape, 50, 10) for shape in "ab"]
    blobs.prune()
    assert all(place.exists() for place in places)


def test_a_directory_that_cannot_be_written_keeps_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert CompileCache(file, 100).place("a") is None
    assert "cannot keep compilations in cache_dir" in caplog.text


def test_compilations_are_kept_found_again_and_bounded(tmp_path: Path) -> None:
    blobs = CompileCache(tmp_path, 1)
    model = add_one((-1, 4))
    for _ in range(2):
        runtime = Runtime("CPU", FLOAT32, CompileCache(tmp_path, 10**9))
        compiled = runtime.compile(runtime.reshaped(model, [(2, 4)]))
        assert_same([np.full((2, 4), 2, np.float32)], compiled.infer([tensor([[1.0] * 4] * 2)]))
    files = list(tmp_path.glob("*/*"))
    assert 1 == len(files)
    runtime = Runtime("CPU", FLOAT32, blobs)
    runtime.compile(runtime.reshaped(model, [(3, 4)]))
    assert [] == list(tmp_path.glob("*/*"))


def test_other_weights_are_not_taken_for_what_was_kept(tmp_path: Path) -> None:
    for number in (2, 3, 2):
        runtime = Runtime("CPU", FLOAT32, CompileCache(tmp_path, 10**9))
        compiled = runtime.compile(runtime.reshaped(counting_model(number), [(1, 4)]))
        (answer,) = compiled.infer([tensor(np.zeros((1, 4)))])
        assert [[float(number)] * 4] == np.round(np.asarray(answer.data), 3).tolist()
    assert 2 == len(list(tmp_path.glob("*/*")))
