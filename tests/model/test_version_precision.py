"""In which precision a version computes where that is left to the processor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from deployments.model import version as version_module
from deployments.model.compiled_shape import CannotInfer, CompiledShape
from deployments.model.runtime import CannotReshape, Runtime
from deployments.model.version import Version
from tests.model import models
from tests.model.loading import FLOAT32, loaded


class Processor:
    """Chooses a precision, and lets float32 be quicker or not; remembers how all was compiled."""

    def __init__(self, chosen: str = "bf16", quicker: bool | Exception = True) -> None:
        self.chosen, self.quicker = chosen, quicker
        self.compiled: list[dict[str, Any]] = []
        self.compared: list[tuple[str, str]] = []
        self.refuses_float32 = False

    def compares(self, one: CompiledShape, other: CompiledShape, row: Any) -> bool:
        self.compared.append((one.computes_in, other.computes_in))
        assert [(1, 3, 8, 8)] == [tensor.shape for tensor in row]
        if isinstance(self.quicker, Exception):
            raise self.quicker
        return self.quicker

    @contextmanager
    def there(self) -> Iterator[None]:
        compile_it, precisions = Runtime.compile, dict[CompiledShape, str]()

        def compiled(runtime: Runtime, model: Any, **more: Any) -> CompiledShape:
            if more and self.refuses_float32:
                raise CannotReshape("no")
            self.compiled.append(more)
            compilation = compile_it(runtime, model, **more)
            precisions[compilation] = "f32" if more else self.chosen
            return compilation

        with (
            patch.object(Runtime, "compile", compiled),
            patch.object(CompiledShape, "computes_in", property(lambda own: precisions[own])),
            patch.object(version_module, "clearly_quicker", self.compares),
        ):
            yield

    def version(self, **settings: Any) -> Version:
        with self.there():
            return loaded(models.convolution(), **{"plugin_config": {}, **settings})


def test_all_is_compiled_in_float32_where_that_is_quicker() -> None:
    processor = Processor()
    version = processor.version()
    assert [("f32", "bf16")] == processor.compared
    assert "f32" == version.computes_in
    with processor.there():
        version.reshape(version.key_of([(1, 3, 5, 6)]))()
    chosen, *others = processor.compiled
    assert {} == chosen
    assert [FLOAT32] * 3 == others, "what was compared, the dynamic one, that of a shape"


def test_processes_for_new_shapes_compute_in_float32_too() -> None:
    processor = Processor()
    with patch.object(version_module, "where_it_pays", return_value=None) as measured:
        processor.version(new_shape_processes=1)
    _, recipe, _, in_float32, _ = measured.call_args.args
    assert "f32" == recipe.plugin_config["INFERENCE_PRECISION_HINT"]
    assert in_float32 is None, "it is no other precision"


@pytest.mark.parametrize("quicker", [False, CannotInfer("no")], ids=["slower", "fails"])
def test_what_the_processor_chose_is_kept_where_float32_is_not(quicker: bool | Exception) -> None:
    processor = Processor(quicker=quicker)
    version = processor.version()
    assert "bf16" == version.computes_in
    with processor.there():
        version.reshape(version.key_of([(1, 3, 5, 6)]))()
    assert [{}, FLOAT32, {}, {}] == processor.compiled


def test_what_the_processor_chose_is_kept_where_float32_cannot_be_compiled() -> None:
    processor = Processor()
    processor.refuses_float32 = True
    assert "bf16" == processor.version().computes_in
    assert [] == processor.compared


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


def test_what_takes_long_to_compile_is_not_compiled_twice() -> None:
    processor = Processor()
    with patch.object(version_module, "_MEASURING_S", 0.0):
        assert "bf16" == processor.version().computes_in
    assert [] == processor.compared
