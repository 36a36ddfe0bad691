"""The answers of a served version for numbers."""

from typing import Any

import numpy as np
import openvino as ov

from deployments.errors import NumberNotCarried
from deployments.model.versions.loaded import LoadedModel
from deployments.tensors import Array, Tensor
from tests.model.loading import array, loaded
from tests.model.serving import serving


async def answer(version: LoadedModel, *tensors: Tensor) -> Array | NumberNotCarried:
    async with serving(version) as served:
        (given,) = await served.ask(list(tensors))
    if isinstance(given, NumberNotCarried):
        return given
    assert isinstance(given, list), given
    return array(given[0])


async def check(model: ov.Model, expected: Any, *tensors: Tensor) -> None:
    for background in (True, False):
        got = await answer(loaded(model, background=background), *tensors)
        np.testing.assert_array_equal(np.asarray(expected), got, strict=True)
