"""The number of kernels that a compilation keeps, by the memory of a shape."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from deployments.model.openvino import kernel_cache
from deployments.model.openvino.compiled_model import CompiledShape
from deployments.model.openvino.kernel_cache import FEWEST_SHAPES, KernelCache, sized
from deployments.model.openvino.runtime import Runtime
from deployments.tensors import Tensor
from tests.model import models
from tests.model.loading import dynamic, loaded, tensor

MB = 1 << 20
KINDS = Counter({"Convolution": 10, "Eltwise": 16})
KERNELS, WEIGHT, KIND_WEIGHTS = 10, 12, 1.125
"""Kernels of a kind, of a shape and of all kinds; a small one counts an eighth of a large one."""
STREAMS = 2


class Grows:
    """A compilation for which the process grows by a fixed size at each shape after the first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int, other: int) -> None:
        self.kernels, self.streams = KINDS, STREAMS
        self.resident, self._first, self._other = 500 * MB, first, other
        self.ran = 0
        monkeypatch.setattr(kernel_cache, "_resident_bytes", lambda: self.resident)

    def infer(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self.resident += self._other if self.ran else self._first
        self.ran += 1
        return []


def rows(count: int) -> list[list[Tensor]]:
    return [[tensor([0.0] * (1 + n))] for n in range(count)]


def of(grows: Grows, count: int, bound: int) -> KernelCache:
    return sized(grows, rows(count), bound)  # type: ignore[arg-type]


def test_it_holds_as_many_shapes_as_fit_into_all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    grows, kernel_bytes = Grows(monkeypatch, 100 * MB, WEIGHT * (128 << 10)), 128 << 10
    bound = int(STREAMS * 25 * KERNELS * kernel_bytes * KIND_WEIGHTS)
    assert KernelCache(25, 25 * KERNELS, WEIGHT * kernel_bytes) == of(grows, 7, bound)
    assert 7 == grows.ran


@pytest.mark.parametrize(
    ("other", "shape_bytes"),
    [(-5 * MB, WEIGHT * (16 << 10)), (900 * MB, WEIGHT * (512 << 10))],
    ids=["others gave memory back", "others took memory"],
)
def test_what_others_did_to_memory_counts_within_bounds(
    monkeypatch: pytest.MonkeyPatch, other: int, shape_bytes: int
) -> None:
    assert shape_bytes == of(Grows(monkeypatch, 0, other), 5, 64 * MB).shape_bytes


def test_where_nothing_can_be_measured_kernels_have_their_usual_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grows = Grows(monkeypatch, 0, 0)
    assert WEIGHT * (64 << 10) == of(grows, 1, 64 * MB).shape_bytes
    assert 0 == grows.ran


def test_of_small_kernels_alone_as_many_are_kept_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    grows = Grows(monkeypatch, 0, 16 * (32 << 10))
    grows.kernels = Counter({"Eltwise": 16})
    assert KernelCache(8, 128, 16 * (32 << 10)) == of(grows, 5, STREAMS * 8 * 16 * (32 << 10))


def test_some_shapes_are_remembered_however_little_memory_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert FEWEST_SHAPES == of(Grows(monkeypatch, 0, 4 * MB), 5, MB).shapes


def test_no_more_are_kept_than_openvino_would(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 5000 == of(Grows(monkeypatch, 0, MB), 5, 1 << 40).kernels


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The number of kernels set for each compilation, None if not set."""
    asked, compile_it = list[object](), Runtime.compile

    def compiled(runtime: Runtime, model: Any, **more: Any) -> CompiledShape:
        asked.append(more.get("CPU_RUNTIME_CACHE_CAPACITY"))
        return compile_it(runtime, model, **more)

    monkeypatch.setattr(Runtime, "compile", compiled)
    return asked


def test_a_version_keeps_the_kernels_of_as_many_shapes_as_it_says(asked_for: list[object]) -> None:
    version = loaded(models.convolution())
    cache = version.kernel_cache
    assert cache is not None
    compiled = dynamic(version)
    assert [None, cache.kernels] == asked_for[-2:], "to measure, and to keep"
    assert not compiled.knows(((1, 3, 5, 6),))
    compiled.infer([tensor([[[[1.0] * 6] * 5] * 3])])
    assert compiled.knows(((1, 3, 5, 6),))


@pytest.mark.parametrize("settings", [{"shape": "(1,3,5,6)"}, {"background": False}])
def test_what_has_one_shape_in_a_compilation_keeps_none(settings: dict[str, object]) -> None:
    assert loaded(models.convolution(), **settings).kernel_cache is None  # type: ignore[arg-type]


def test_what_the_settings_say_is_not_measured(asked_for: list[object]) -> None:
    version = loaded(models.convolution(), plugin_config={"CPU_RUNTIME_CACHE_CAPACITY": 7})
    assert version.kernel_cache is None
    assert {None} == set(asked_for)
