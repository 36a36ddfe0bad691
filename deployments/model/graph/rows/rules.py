"""The rules of all operations that can keep rows apart; any other operation ends the proof."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from deployments.model.graph.rows.arithmetic import (
    along_attribute,
    along_input,
    attention,
    by_image,
    channels,
    deformable,
    detection_output,
    einsum,
    elementwise,
    embedding_bags,
    first_only,
    like,
    matmul,
    max_pool,
    mvn,
    of_shapes,
    off_images,
    planes,
    prelu,
    reduce,
)
from deployments.model.graph.rows.layout import LAYOUT_RULES, Rule
from deployments.model.graph.rows.operation import COUNTED, FREE, Operation, State
from deployments.model.graph.rows.outputs import Detections, RowsAlong

_ELEMENTWISE: Final = (
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseAnd",
    "BitwiseLeftShift",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseRightShift",
    "BitwiseXor",
    "Ceiling",
    "Clamp",
    "Convert",
    "Cos",
    "Cosh",
    "Divide",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Floor",
    "FloorMod",
    "Gelu",
    "Greater",
    "GreaterEqual",
    "HSigmoid",
    "HSwish",
    "HardSigmoid",
    "Identity",
    "IsFinite",
    "IsInf",
    "IsNaN",
    "Less",
    "LessEqual",
    "Log",
    "LogicalAnd",
    "LogicalNot",
    "LogicalOr",
    "LogicalXor",
    "Maximum",
    "Minimum",
    "Mish",
    "Mod",
    "Multiply",
    "Negative",
    "NotEqual",
    "Power",
    "Relu",
    "Round",
    "Select",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "SoftPlus",
    "SoftSign",
    "Sqrt",
    "SquaredDifference",
    "Subtract",
    "Swish",
    "Tan",
    "Tanh",
    "Xor",
)
_REDUCING: Final = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogicalAnd",
    "ReduceLogicalOr",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
)
_BY_IMAGE: Final = {
    "AdaptiveAvgPool": 1,
    "AvgPool": 1,
    "BinaryConvolution": 1,
    "Convolution": 1,
    "ConvolutionBackpropData": 1,
    "DepthToSpace": 1,
    "ExtractImagePatches": 1,
    "GRUCell": 2,
    "GRUSequence": 3,
    "GridSample": 2,
    "GroupConvolution": 1,
    "GroupConvolutionBackpropData": 1,
    "GroupNormalization": 1,
    "LSTMCell": 3,
    "LSTMSequence": 4,
    "RNNCell": 2,
    "RNNSequence": 3,
    "ReorgYolo": 1,
    "SpaceToDepth": 1,
}
"""The number of first inputs with rows on dimension 0; the other inputs are shared by all rows."""
_OF_SHAPES: Final = {"Eye", "PriorBox", "PriorBoxClustered", "Range"}
"""Operations that are allowed only on inputs without rows."""


RULES: Final[Mapping[str, Rule]] = {
    **LAYOUT_RULES,
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys(_REDUCING, reduce),
    **{kind: partial(by_image, count=count) for kind, count in _BY_IMAGE.items()},
    **dict.fromkeys(_OF_SHAPES, of_shapes),
    **dict.fromkeys(("I420toBGR", "I420toRGB", "NV12toBGR", "NV12toRGB"), planes),
    "BatchNormInference": channels,
    "Bucketize": first_only,
    "ConvertLike": like,
    "CumSum": along_input,
    "DFT": partial(along_input, complex_pairs=1),
    "DeformableConvolution": deformable,
    "DetectionOutput": detection_output,
    "Einsum": einsum,
    "EmbeddingBagPackedSum": embedding_bags,
    "FakeConvert": first_only,
    "FakeQuantize": first_only,
    "GRN": channels,
    "IDFT": partial(along_input, complex_pairs=1),
    "LRN": along_input,
    "LogSoftmax": along_attribute,
    "MVN": mvn,
    "MatMul": matmul,
    "MaxPool": max_pool,
    "NormalizeL2": along_input,
    "PRelu": prelu,
    "RDFT": along_input,
    "IRDFT": partial(along_input, complex_pairs=1),
    "RegionYolo": off_images,
    "Result": first_only,
    "ScaledDotProductAttention": attention,
    "ShuffleChannels": off_images,
    "Softmax": along_attribute,
    "TopK": along_attribute,
}
_REPEATING: Final = ("Broadcast", "Tile")


def states_after(operation: Operation) -> list[State]:
    """The states of the outputs. Raises NotProven unless the operation keeps rows apart."""
    rule = RULES.get(operation.kind)
    if rule is None:
        raise operation.not_known
    operation.check_sizes()
    states = _states(operation, rule)
    operation.check(states)
    return states


def _states(operation: Operation, rule: Rule) -> list[State]:
    inputs = [port.state for port in operation.inputs]
    if operation.kind == "Result":
        return inputs
    if any(isinstance(state, Detections) for state in inputs):
        raise operation.refusal("takes the output of a DetectionOutput")
    if any(isinstance(state, RowsAlong) for state in inputs):
        return rule(operation)
    if COUNTED not in inputs:
        return [FREE] * len(operation.outputs)
    if operation.kind in _REPEATING and inputs[0] is FREE and operation.grows:
        return rule(operation)
    return [COUNTED] * len(operation.outputs)
