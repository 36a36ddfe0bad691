"""Decodes request bodies, for the hand-written servers of the arms."""

import asyncio
import json
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

HEADER: Final = "inference-header-content-length"
DTYPES: Final = {"FP32": np.float32, "UINT8": np.uint8}


async def received(body: bytes | bytearray, header_length: str) -> NDArray[Any]:
    """The tensor of a request with one input.

    Numbers are a view of the body, which may not be aligned. A worker thread decodes a JPEG, the
    only element of a BYTES tensor, to float32 [1,3,H,W], BGR, 0 to 255, with the library and the
    order of this project.
    """
    length = int(header_length)
    entry = json.loads(body[:length])["inputs"][0]
    if entry["datatype"] == "BYTES":
        return await asyncio.to_thread(_picture, memoryview(body)[length + 4 :])
    dtype = DTYPES[entry["datatype"]]
    return np.frombuffer(body, dtype, offset=length).reshape(entry["shape"])


def _picture(raw: memoryview) -> NDArray[Any]:
    picture = np.asarray(cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR))
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[np.newaxis], np.float32)
