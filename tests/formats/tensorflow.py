"""Writes TensorFlow's model files field by field: its packages have hundreds of megabytes.

Field numbers are those of TensorFlow's graph.proto, node_def.proto, attr_value.proto,
tensor.proto, meta_graph.proto, saved_model.proto and tensor_bundle.proto.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deployments.tensors import Array
from tests.formats.protobuf import Field, message, varint

_FLOAT = 1  # DT_FLOAT
_FOOTER = 0xDB4775248B80FB57  # of a LevelDB table, the format of variables.index


def write_frozen_graph(path: Path, kernel: Array) -> None:
    """Writes a model: the convolution of x [N,H,W,I] with a kernel [H,W,I,O], and a ReLU."""
    nodes = [
        _node("x", "Placeholder", [], dtype=_type(), shape=_shape_attribute([-1, -1, -1, 3])),
        _node("kernel", "Const", [], dtype=_type(), value=message((8, _tensor(kernel)))),
        _node(
            "sums",
            "Conv2D",
            ["x", "kernel"],
            T=_type(),
            strides=message((1, message(*[(3, 1)] * 4))),
            padding=message((2, "VALID")),
            data_format=message((2, "NHWC")),
        ),
        _node("y", "Relu", ["sums"], T=_type()),
    ]
    path.write_bytes(_graph(nodes))


def write_saved_model(directory: Path, weights: Array) -> None:
    """Writes a model: the product of x [N,I] and weights [I,O], a variable, and a ReLU."""
    nodes = [
        _node("x", "Placeholder", [], dtype=_type(), shape=_shape_attribute([-1, 4])),
        _node(
            "weights",
            "VarHandleOp",
            [],
            dtype=_type(),
            shape=_shape_attribute(weights.shape),
            shared_name=message((2, "weights")),
        ),
        _node("weights/Read", "ReadVariableOp", ["weights"], dtype=_type()),
        _node("product", "MatMul", ["x", "weights/Read"], T=_type()),
        _node("y", "Relu", ["product"], T=_type()),
    ]
    signature = message(
        (1, _entry("x", _tensor_info("x:0", [-1, 4]))),
        (2, _entry("y", _tensor_info("y:0", [-1, weights.shape[1]]))),
        (3, "tensorflow/serving/predict"),
    )
    graph = message(
        (1, message((4, "serve"), (5, "2.17.0"))),
        (2, _graph(nodes)),
        (5, _entry("serving_default", signature)),
    )
    variables = directory / "variables"
    variables.mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(message((1, 1), (2, graph)))
    (variables / "variables.data-00000-of-00001").write_bytes(weights.tobytes())
    header = message((1, 1), (3, message((1, 1))))
    entry = message((1, _FLOAT), (2, _shape(weights.shape)), (5, weights.nbytes))
    index = _table({b"": header, b"weights": entry})
    (variables / "variables.index").write_bytes(index)


def _graph(nodes: Sequence[Field]) -> bytes:
    return message(*nodes, (4, message((1, 1900))))


def _node(name: str, operation: str, inputs: Sequence[str], **attributes: bytes) -> Field:
    fields: list[Field] = [(1, name), (2, operation), *((3, source) for source in inputs)]
    return 1, message(*fields, *((5, _entry(key, value)) for key, value in attributes.items()))


def _entry(key: str, value: bytes) -> bytes:
    return message((1, key), (2, value))


def _type() -> bytes:
    return message((6, _FLOAT))


def _shape(sizes: Sequence[int]) -> bytes:
    return message(*((2, message((1, size))) for size in sizes))


def _shape_attribute(sizes: Sequence[int]) -> bytes:
    return message((7, _shape(sizes)))


def _tensor(values: Array) -> bytes:
    raw = values.astype(np.float32).tobytes()
    return message((1, _FLOAT), (2, _shape(values.shape)), (4, raw))


def _tensor_info(name: str, sizes: Sequence[int]) -> bytes:
    return message((1, name), (2, _FLOAT), (3, _shape(sizes)))


def _table(entries: Mapping[bytes, bytes]) -> bytes:
    """A LevelDB table: one block of entries, an empty one of metadata, and their index."""
    table = bytearray()

    def append(block: bytes) -> bytes:
        handle = varint(len(table)) + varint(len(block))
        table.extend(block + bytes(5))  # not compressed, no checksum
        return handle

    data = append(_block(entries))
    metadata = append(_block({}))
    index = append(_block({max(entries): data}))
    return bytes(table) + (metadata + index).ljust(40, b"\0") + struct.pack("<Q", _FOOTER)


def _block(entries: Mapping[bytes, bytes]) -> bytes:
    """A block whose keys share no prefixes; the only restart point is the first entry."""
    lengths = ((0, len(key), len(value), key + value) for key, value in entries.items())
    rows = (varint(a) + varint(b) + varint(c) + content for a, b, c, content in lengths)
    return b"".join(rows) + struct.pack("<II", 0, 1)
