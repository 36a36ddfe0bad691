from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from deployments.dimensions import Dim
from deployments.inference import InputSpec
from deployments.model.graph.rows.outputs import Detections, NotProven, RowsAlong
from deployments.model.openvino.compiled_model import CannotInfer
from deployments.model.tuning.trial_runs import prove
from deployments.tensors import Array, Tensor, bf16_to_float32
from tests.model.tuning.test_stacking import table

ANY = Dim(0, None)
ROWS = (RowsAlong(0, 1),)
PICTURES = InputSpec("x", "FP32", (ANY, Dim(3, 3), ANY, ANY), 0, "NCHW")


def of_values(compute: Callable[[Array], Array], datatype: str = "FP32") -> Any:
    """A stand-in for a model of one input and one output."""

    def infer(tensors: Sequence[Tensor]) -> list[Tensor]:
        values = compute(np.asarray(tensors[0].data))
        return [Tensor("y", datatype, values.shape, values)]

    return infer


def tried(infer: Any, datatype: str = "FP32", width: int = 20) -> None:
    prove(infer, [InputSpec("x", datatype, (ANY, ANY), 0)], [(1, width)], ROWS)


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda x: x * (2 if x.max() > 50 else 1), id="scaled by the largest"),
        pytest.param(lambda x: x * (2 if x.min() < -1000 else 1), id="scaled by the smallest"),
        pytest.param(lambda x: x / (255 if np.abs(x).max() > 10 else 1), id="told bytes by values"),
        pytest.param(lambda x: np.round(x / np.abs(x).max() * 127), id="quantized by tensor"),
        pytest.param(lambda x: x / len(x), id="divided by the number of rows"),
        pytest.param(lambda x: x[::-1].copy(), id="reversed rows"),
        pytest.param(lambda x: np.sort(x, axis=0), id="sorted rows"),
    ],
)
def test_rows_of_other_magnitudes_show_what_all_rows_decide(
    compute: Callable[[Array], Array],
) -> None:
    with pytest.raises(NotProven, match="output 'y' of stacked rows differs"):
        tried(of_values(compute))


@pytest.mark.parametrize("width", [1, 20])
def test_whole_numbers_of_rows_differ(width: int) -> None:
    infer = of_values(lambda x: np.broadcast_to(x.max(), x.shape).copy(), "INT64")
    with pytest.raises(NotProven, match="differs"):
        tried(infer, "INT64", width)


def test_each_row_by_itself_passes_at_all_magnitudes() -> None:
    tried(of_values(lambda x: x / np.abs(x).max(axis=1, keepdims=True)))


def test_what_a_model_does_not_answer_is_not_compared() -> None:
    largest: list[int] = []

    def of_a_table(x: Array) -> Array:
        largest.append(int(x.max()))
        if x.max() >= 5:
            raise CannotInfer("not in the table")
        return np.arange(5)[x]

    tried(of_values(of_a_table, "INT64"), "INT64")
    assert max(largest) >= 5, "larger numbers were tried"
    assert 1 == largest[-1], "then some that it takes"


def test_the_error_of_a_model_that_always_fails_is_raised() -> None:
    def fails(x: Array) -> Array:
        raise CannotInfer("never")

    with pytest.raises(CannotInfer, match="never"):
        tried(of_values(fails))


def test_outputs_of_other_shapes_than_the_graph_says_are_refused() -> None:
    with pytest.raises(
        NotProven, match=r"differ in output shapes.* output 'y' has shape \(4, 20\)"
    ):
        tried(of_values(lambda x: np.repeat(x, 2, axis=0)[: 2 * len(x) - 2]))


def detector(finds: int) -> Any:
    """A detector that finds a fixed number of objects in every picture."""

    def infer(tensors: Sequence[Tensor]) -> list[Tensor]:
        (pictures,) = tensors
        return [
            table(
                [
                    [image, 1, *np.asarray(pictures.data)[image, 0, 0, :5]]
                    for image in range(pictures.shape[0])
                    for _ in range(finds)
                ],
                10 * pictures.shape[0],
            )
        ]

    return infer


@pytest.mark.parametrize("finds", [3, 10])
def test_detections_are_compared_by_image(finds: int) -> None:
    prove(detector(finds), [PICTURES], [(1, 3, 8, 8)], (Detections(10),))
    with pytest.raises(NotProven):
        prove(detector(finds), [PICTURES], [(1, 3, 8, 8)], (RowsAlong(2, 10),))


def test_a_detector_that_finds_nothing_proves_nothing() -> None:
    with pytest.raises(NotProven, match="finds nothing"):
        prove(detector(finds=0), [PICTURES], [(1, 3, 8, 8)], (Detections(10),))


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16", "BF16"])
def test_rounding_is_no_difference_and_more_is(datatype: str) -> None:
    def with_error(error: float) -> Any:
        def compute(x: Array) -> Array:
            values = bf16_to_float32(x) if datatype == "BF16" else x
            scale = np.float32(1 + error * (len(x) > 1))
            return np.asarray((values * scale).astype(values.dtype))

        return of_values(compute, "FP32" if datatype == "BF16" else datatype)

    tried(with_error(2e-5), datatype)
    with pytest.raises(NotProven, match="differs"):
        tried(with_error(1e-2), datatype)
