"""The datatypes of tensors, in one table with their names in every protocol and the runtime.

The names are those of the Open Inference Protocol (KServe v2, "Tensor Data Types").
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

BYTES: Final = "BYTES"
BF16: Final = "BF16"


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype under all of its names.

    `openvino` is the attribute of `openvino.Type`. `numpy` is little-endian, as in the binary
    tensor data extension; strings have none. numpy has no bfloat16, so a BF16 array holds the bit
    patterns as uint16 everywhere in the server. `tensorflow` is the name in types.proto and
    `values` the field of tensor.proto (tensorflow/core/framework). `contents` is the field of
    KServe's InferTensorContents; a datatype without one travels in raw_input_contents only.
    `computed_in` is the datatype to which OpenVINO's plugins narrow it before they compute.
    """

    name: str
    openvino: str
    numpy: str | None
    tensorflow: str
    values: str
    contents: str | None
    computed_in: str | None = None

    @property
    def converts(self) -> bool:
        """Whether a model's graph can convert it, see the setting `precision`."""
        return self.name not in (BYTES, "BOOL")

    @property
    def triton(self) -> str:
        """Its name in Triton's model_config.proto."""
        return "TYPE_STRING" if self.name == BYTES else f"TYPE_{self.name}"


_TABLE: Final = (
    Datatype("BOOL", "boolean", "?", "DT_BOOL", "bool_val", "bool_contents"),
    Datatype("UINT8", "u8", "<u1", "DT_UINT8", "int_val", "uint_contents"),
    Datatype("UINT16", "u16", "<u2", "DT_UINT16", "int_val", "uint_contents"),
    Datatype("UINT32", "u32", "<u4", "DT_UINT32", "uint32_val", "uint_contents", "INT32"),
    Datatype("UINT64", "u64", "<u8", "DT_UINT64", "uint64_val", "uint64_contents", "INT32"),
    Datatype("INT8", "i8", "<i1", "DT_INT8", "int_val", "int_contents"),
    Datatype("INT16", "i16", "<i2", "DT_INT16", "int_val", "int_contents"),
    Datatype("INT32", "i32", "<i4", "DT_INT32", "int_val", "int_contents"),
    Datatype("INT64", "i64", "<i8", "DT_INT64", "int64_val", "int64_contents", "INT32"),
    Datatype("FP16", "f16", "<f2", "DT_HALF", "half_val", None),
    Datatype(BF16, "bf16", "<u2", "DT_BFLOAT16", "half_val", None),
    Datatype("FP32", "f32", "<f4", "DT_FLOAT", "float_val", "fp32_contents"),
    Datatype("FP64", "f64", "<f8", "DT_DOUBLE", "double_val", "fp64_contents", "FP32"),
    Datatype(BYTES, "string", None, "DT_STRING", "string_val", "bytes_contents"),
)

DATATYPES: Final = {datatype.name: datatype for datatype in _TABLE}

NUMPY_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    datatype.name: np.dtype(datatype.numpy) for datatype in _TABLE if datatype.numpy is not None
}
"""For all datatypes but BYTES."""

COMPUTED_IN: Final = {
    datatype.name: datatype.computed_in for datatype in _TABLE if datatype.computed_in is not None
}
"""Maps each datatype that OpenVINO's plugins narrow to the narrower one."""
