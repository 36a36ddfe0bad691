from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from deployments.model.openvino.spots import spots_model
from examples.spots_picture import random_spots, spots_picture

Floats = NDArray[np.float32]
Spots = Sequence[tuple[int, int, int]]

CORE = ov.Core()
PLAIN = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
SIZES = [(300, 300, 5), (600, 400, 8), (333, 641, 8)]


def compiled(shape: Sequence[int], **config: object) -> ov.CompiledModel:
    model = spots_model()
    model.reshape({"data": list(shape)})
    return CORE.compile_model(model, "CPU", {**PLAIN, **config})


@pytest.fixture(scope="module")
def any_shape() -> ov.CompiledModel:
    return compiled([-1, 3, -1, -1])


def planes(picture: NDArray[np.uint8]) -> Floats:
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[np.newaxis], np.float32)


def scene(width: int, height: int, count: int, seed: int) -> tuple[Spots, Floats]:
    spots = random_spots(width, height, count, seed)
    return spots, planes(spots_picture(width, height, spots, seed=seed))


def rows(model: ov.CompiledModel, data: Floats) -> Floats:
    """The used rows of the output: those before the first -1."""
    out = np.array(model(data)["detection_out"], np.float32).reshape(-1, 7)
    unused = np.flatnonzero(out[:, 0] == -1.0)
    return out[: unused[0]] if unused.size else out


def sure(model: ov.CompiledModel, data: Floats) -> Floats:
    """Confidence and pixel box of every detection over one half."""
    found = rows(model, data)
    height, width = data.shape[2:]
    scale = np.array([1.0, width, height, width, height], np.float32)
    return np.asarray(found[found[:, 2] > 0.5][:, 2:] * scale, np.float32)


def overlaps(spots: Spots, boxes: Floats) -> NDArray[np.float64]:
    """Intersection over union of each spot's true box (rows) with each box found (columns)."""
    true = np.array([(x - r, y - r, x + r, y + r) for x, y, r in spots], np.float64)[:, np.newaxis]
    low, high = np.maximum(true[..., :2], boxes[:, :2]), np.minimum(true[..., 2:], boxes[:, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(axis=-1) for each in (true, boxes)]
    return np.asarray(shared / (areas[0] + areas[1] - shared), np.float64)


def assert_found_exactly(spots: Spots, found: Floats) -> None:
    assert len(spots) == len(found)
    assert found[:, 0].min() > 0.9
    best = overlaps(spots, found[:, 1:]).argmax(axis=1)
    assert set(range(len(spots))) == set(best.tolist())
    assert overlaps(spots, found[:, 1:]).max(axis=1).min() > 0.75


def test_its_contract_is_that_of_face_detection_retail_0004() -> None:
    model = spots_model()
    assert {"data"} == model.input(0).names
    assert {"detection_out"} == model.output(0).names
    assert [1, 3, 300, 300] == list(model.input(0).shape)
    assert [1, 1, 200, 7] == list(model.output(0).shape)
    assert ov.Type.f32 == model.input(0).element_type == model.output(0).element_type
    kinds = [operation.get_type_name() for operation in model.get_ops()]
    assert 1 == kinds.count("DetectionOutput")
    assert "PriorBoxClustered" in kinds


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 641, 333), (2, 17, 2000), (1, 2000, 31)])
def test_it_reshapes_to_any_size_and_batch(shape: tuple[int, int, int]) -> None:
    batch, height, width = shape
    model = compiled([batch, 3, height, width])
    assert [1, 1, 200 * batch, 7] == list(model.output(0).shape)
    assert 0 == len(rows(model, np.zeros((batch, 3, height, width), np.float32)))


@pytest.mark.parametrize(("width", "height", "count"), SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_it_finds_every_spot_and_nothing_else(
    any_shape: ov.CompiledModel, width: int, height: int, count: int, seed: int
) -> None:
    spots, data = scene(width, height, count, seed)
    assert_found_exactly(spots, sure(any_shape, data))


@pytest.mark.parametrize(("width", "height", "count"), SIZES)
def test_it_finds_them_at_the_default_precision_too(width: int, height: int, count: int) -> None:
    model = spots_model()
    model.reshape({"data": [1, 3, height, width]})
    spots, data = scene(width, height, count, seed=7)
    assert_found_exactly(spots, sure(CORE.compile_model(model, "CPU"), data))


@pytest.mark.parametrize("radius", [5, 7, 9, 13, 18, 26, 37, 40])
def test_it_finds_a_spot_wherever_its_centre_falls_between_the_prior_boxes(
    any_shape: ov.CompiledModel, radius: int
) -> None:
    for shift in range(0, 16, 3):
        spots = [(60 + shift, 75 - shift, radius)]
        data = planes(spots_picture(150, 140, spots, seed=shift))
        assert_found_exactly(spots, sure(any_shape, data))


def test_it_finds_more_spots_than_a_hundred(any_shape: ov.CompiledModel) -> None:
    spots = [(x, y, 6) for x in range(20, 280, 24) for y in range(20, 280, 24)]
    assert_found_exactly(spots, sure(any_shape, planes(spots_picture(280, 280, spots))))


@pytest.mark.parametrize("size", [(16, 16), (61, 97), (300, 300)])
@pytest.mark.parametrize("grey", [0.0, 40.0, 128.0, 255.0])
@pytest.mark.parametrize("noise", [0.0, 10.0])
def test_a_flat_background_holds_nothing(
    any_shape: ov.CompiledModel, size: tuple[int, int], grey: float, noise: float
) -> None:
    chance = np.random.default_rng(0)
    data = np.clip(grey + chance.normal(0.0, noise, (1, 3, *size)), 0.0, 255.0).astype(np.float32)
    assert 0 == len(sure(any_shape, data))


def test_edges_corners_and_gradients_are_no_spots(any_shape: ov.CompiledModel) -> None:
    edge, corner = np.zeros((2, 1, 3, 120, 160), np.float32)
    edge[..., :80] = corner[..., :60, :80] = 230.0
    gradient = np.zeros_like(edge) + np.linspace(0.0, 255.0, 160, dtype=np.float32)
    for data in (edge, corner, gradient):
        assert 0 == len(sure(any_shape, data))


@pytest.mark.parametrize(("width", "height", "count"), SIZES)
def test_a_batch_gives_each_picture_the_rows_it_gets_alone(
    width: int, height: int, count: int
) -> None:
    pictures = [scene(width, height, count - image, seed=20 + image)[1] for image in range(3)]
    stacked = rows(compiled([3, 3, height, width]), np.concatenate(pictures))
    single = compiled([1, 3, height, width])
    for image, picture in enumerate(pictures):
        alone = rows(single, picture)
        assert len(alone) >= count - image
        np.testing.assert_array_equal(alone[:, 1:], stacked[stacked[:, 0] == image][:, 1:])


@pytest.mark.parametrize("dynamic", [[-1, 3, -1, -1], [-1, 3, 400, 600]])
def test_dynamic_and_fixed_compilations_agree(dynamic: list[int]) -> None:
    data = scene(600, 400, 8, seed=3)[1]
    expected = rows(compiled([1, 3, 400, 600]), data)
    np.testing.assert_allclose(expected, rows(compiled(dynamic), data), rtol=0.0, atol=1e-5)


def test_saved_and_read_back_it_is_the_same(tmp_path: Path) -> None:
    ov.save_model(spots_model(), tmp_path / "spots.xml", compress_to_fp16=False)
    data = scene(300, 300, 5, seed=4)[1]
    read_back = CORE.compile_model(tmp_path / "spots.xml", "CPU", PLAIN)
    np.testing.assert_array_equal(rows(compiled([1, 3, 300, 300]), data), rows(read_back, data))


def test_a_picture_too_small_for_its_spots_is_refused() -> None:
    with pytest.raises(ValueError, match="no room for 9 spots in a picture of 30x30 pixels"):
        random_spots(30, 30, 9, seed=0)
