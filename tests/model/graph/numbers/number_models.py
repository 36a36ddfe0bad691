"""Models that compute with numbers, and tensors for them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from deployments.datatypes import NUMPY_DTYPES
from deployments.tensors import Tensor
from tests.model import models
from tests.model.loading import tensor

BILLION = 10**9
INT32 = np.iinfo(np.int32)
FLOAT32 = float(np.finfo(np.float32).max)


def constant(values: Any, datatype: str = "INT64") -> Any:
    return ops.constant(np.array(values, NUMPY_DTYPES[datatype]))


def one_input(of: Callable[[Any], Any], datatype: str = "INT64", shape: Any = (-1, -1)) -> ov.Model:
    x = models.parameter(shape, models.DATATYPES[datatype])
    return models.model((of(x), "y"), inputs=[x])


def sum_of_two(datatype: str) -> ov.Model:
    return models.agreeing((-1, -1), models.DATATYPES[datatype])


def two(a: Any, b: Any, datatype: str) -> list[Tensor]:
    return [tensor(a, datatype, "a"), tensor(b, datatype, "b")]
