"""Writes PaddlePaddle's model files field by field: its package has hundreds of megabytes.

Field numbers are those of Paddle's framework.proto.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from deployments.tensors import Array
from tests.formats.protobuf import Field, message

_FP32, _DENSE, _FEED, _FETCH = 5, 7, 9, 10  # of VarType.Type
_INT, _BOOLEAN = (0, 3), (6, 10)  # AttrType, and the field of its value


def write_paddle_model(path: Path, weights: Array) -> None:
    """Writes two files of a model: the product of x [N,L,I] and weights [I,O], and a ReLU."""
    rows, columns = weights.shape
    flags = {"trans_x": (_BOOLEAN, 0), "trans_y": (_BOOLEAN, 0)}
    block = message(
        (1, 0),
        (2, -1),
        _variable("feed", message((1, _FEED)), persistable=True),
        _variable("fetch", message((1, _FETCH)), persistable=True),
        _variable("x", _dense([-1, -1, rows])),
        _variable("weights", _dense([rows, columns]), persistable=True),
        _variable("product", _dense([-1, -1, columns])),
        _variable("y", _dense([-1, -1, columns])),
        _operator("feed", {"X": "feed"}, "x", {"col": (_INT, 0)}),
        _operator("matmul_v2", {"X": "x", "Y": "weights"}, "product", flags),
        _operator("relu", {"X": "product"}, "y", {}),
        _operator("fetch", {"X": "y"}, "fetch", {"col": (_INT, 0)}),
    )
    path.with_suffix(".pdmodel").write_bytes(message((1, block), (4, message((1, 2006001)))))
    description = _description([rows, columns])
    head = struct.pack("<IQIi", 0, 0, 0, len(description))  # versions, no levels of detail
    path.with_suffix(".pdiparams").write_bytes(head + description + weights.tobytes())


def _description(sizes: Sequence[int]) -> bytes:
    return message((1, _FP32), *((2, size) for size in sizes))


def _dense(sizes: Sequence[int]) -> bytes:
    return message((1, _DENSE), (3, message((1, _description(sizes)))))


def _variable(name: str, kind: bytes, *, persistable: bool = False) -> Field:
    return 3, message((1, name), (2, kind), (3, int(persistable)))


def _operator(
    kind: str,
    inputs: Mapping[str, str],
    output: str,
    attributes: Mapping[str, tuple[tuple[int, int], int]],
) -> Field:
    return 4, message(
        *((1, message((1, name), (2, variable))) for name, variable in inputs.items()),
        (2, message((1, "Out"), (2, output))),
        (3, kind),
        *(
            (4, message((1, name), (2, kind), (field, value)))
            for name, ((kind, field), value) in attributes.items()
        ),
    )
