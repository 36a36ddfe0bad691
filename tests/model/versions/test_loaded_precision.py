"""In which precision a version computes where that is left to the processor."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from deployments.model.openvino.compiled_model import CannotInfer, CompiledShape
from deployments.model.openvino.runtime import KERNEL_CACHE, CannotReshape, Runtime
from deployments.model.tuning import precision as precision_module
from deployments.model.versions import loaded as version_module
from deployments.model.versions.loaded import LoadedModel
from tests.model import models
from tests.model.loading import FLOAT32, loaded

OWN, LARGER = (1, 3, 8, 8), (1, 3, 16, 16)
BOTH = (OWN, LARGER)


class Processor:
    """Chooses a precision, and lets float32 be quicker for shapes; remembers how all was
    compiled."""

    def __init__(
        self, chosen: str = "bf16", quicker: Exception | Collection[tuple[int, ...]] = BOTH
    ) -> None:
        self.chosen, self.quicker = chosen, quicker
        self.compiled: list[dict[str, Any]] = []
        self.compared: list[tuple[str, str, tuple[int, ...]]] = []
        self.refuses_float32 = False

    def compares(self, one: CompiledShape, other: CompiledShape, row: Any) -> bool:
        (shape,) = (tensor.shape for tensor in row)
        self.compared.append((one.computes_in, other.computes_in, shape))
        one.infer(row)
        other.infer(row)
        if isinstance(self.quicker, Exception):
            raise self.quicker
        return shape in self.quicker

    @contextmanager
    def there(self) -> Iterator[None]:
        compile_it, precisions = Runtime.compile, dict[CompiledShape, str]()

        def compiled(runtime: Runtime, model: Any, **more: Any) -> CompiledShape:
            in_float32 = more.keys() >= FLOAT32.keys()
            if in_float32 and self.refuses_float32:
                raise CannotReshape("no")
            self.compiled.append(more)
            compilation = compile_it(runtime, model, **more)
            precisions[compilation] = "f32" if in_float32 else self.chosen
            return compilation

        with (
            patch.object(Runtime, "compile", compiled),
            patch.object(CompiledShape, "computes_in", property(lambda own: precisions[own])),
            patch.object(precision_module, "clearly_quicker", self.compares),
        ):
            yield

    def version(self, **settings: Any) -> LoadedModel:
        with self.there():
            return loaded(models.convolution(), **{"plugin_config": {}, **settings})


def test_all_is_compiled_in_float32_where_that_is_quicker() -> None:
    processor = Processor()
    version = processor.version()
    assert [("f32", "bf16", OWN), ("f32", "bf16", LARGER)] == processor.compared
    assert "f32" == version.computes_in
    del processor.compiled[:]
    with processor.there():
        version.reshape(version.key_of([(1, 3, 5, 6)]))()
    assert [FLOAT32] == processor.compiled


def test_of_a_fixed_shape_no_other_size_is_compared() -> None:
    processor = Processor()
    version = processor.version(shape="(1,3,8,8)")
    assert [("f32", "bf16", OWN)] == processor.compared
    assert "f32" == version.computes_in
    trial, *others = processor.compiled
    assert {} == trial
    assert [FLOAT32] * 3 == others, "what was compared, the trial again, the dynamic one"


@pytest.mark.parametrize(
    ("quicker", "compared"),
    [((), 1), ((OWN,), 2), (CannotInfer("no"), 1)],
    ids=["slower", "slower for larger ones", "fails"],
)
def test_what_the_processor_chose_is_kept_where_float32_is_not(
    quicker: Exception | Collection[tuple[int, ...]], compared: int
) -> None:
    processor = Processor(quicker=quicker)
    version = processor.version()
    assert compared == len(processor.compared)
    assert "bf16" == version.computes_in
    assert {KERNEL_CACHE} == processor.compiled[-1].keys(), "the dynamic one"
    with processor.there():
        version.reshape(version.key_of([(1, 3, 5, 6)]))()
    assert {} == processor.compiled[-1]


def test_what_the_processor_chose_is_kept_where_float32_cannot_be_compiled() -> None:
    processor = Processor()
    processor.refuses_float32 = True
    version = processor.version()
    assert "bf16" == version.computes_in
    assert [] == processor.compared
    assert isinstance(version.dynamic, CompiledShape)
    trial, *dynamic = [set(more) for more in processor.compiled]
    assert set() == trial
    assert [set(), {KERNEL_CACHE}] == dynamic, "to measure its kernels, and to keep them"


@pytest.mark.parametrize(
    "settings",
    [
        {"plugin_config": {"INFERENCE_PRECISION_HINT": "bf16"}},
        {"plugin_config": {"EXECUTION_MODE_HINT": "PERFORMANCE"}},
        {"device": "AUTO:CPU"},
    ],
    ids=["the precision", "what matters", "another device"],
)
def test_nothing_is_compared_where_the_settings_say(settings: dict[str, Any]) -> None:
    processor = Processor()
    version = processor.version(**settings)
    assert [] == processor.compared
    assert version.computes_in == (None if "device" in settings else "bf16")


def test_nothing_is_compared_where_the_processor_chose_float32() -> None:
    processor = Processor("f32")
    assert "f32" == processor.version().computes_in
    assert [] == processor.compared


def test_a_model_with_many_weights_is_not_compiled_twice() -> None:
    weights = 2 * 3 * 3 * 3 * 4  # in float32; what a convolution has besides is an attribute
    for most, compared in ((weights, 2), (weights - 1, 0)):
        processor = Processor()
        with patch.object(version_module, "MOST_COMPARED_BYTES", most):
            processor.version()
        assert compared == len(processor.compared)
