import copy
import pickle
import re

import pytest

from deployments import errors
from deployments.errors import ServingError, dims
from deployments.settings import Limits

BAD, GONE, METHOD, LARGE, OURS = 400, 404, 405, 413, 500

# One row for every class: an error of it, its HTTP status, its gRPC code and its whole text.
ERRORS: list[tuple[ServingError, int, str, str]] = [
    (ServingError("anything"), OURS, "INTERNAL", "anything"),
    (errors.InvalidRequest("anything"), BAD, "INVALID_ARGUMENT", "anything"),
    (
        errors.MalformedBody("it ends early"),
        BAD,
        "INVALID_ARGUMENT",
        "malformed request: it ends early",
    ),
    (
        errors.InvalidParameter("limit", "many", 0, 100),
        BAD,
        "INVALID_ARGUMENT",
        "parameter 'limit' is 'many', not a number from 0 to 100",
    ),
    (
        errors.UnknownInput("faces", "dat", ["data", "size"]),
        BAD,
        "INVALID_ARGUMENT",
        "model 'faces' has no input 'dat', its inputs are data, size",
    ),
    (
        errors.MissingInput("faces", "data"),
        BAD,
        "INVALID_ARGUMENT",
        "request lacks input 'data' of model 'faces'",
    ),
    (
        errors.DuplicateName("output", "boxes"),
        BAD,
        "INVALID_ARGUMENT",
        "request names output 'boxes' more than once",
    ),
    (
        errors.UnknownOutput("faces", "box", ["boxes", "labels"]),
        BAD,
        "INVALID_ARGUMENT",
        "model 'faces' has no output 'box', its outputs are boxes, labels",
    ),
    (
        errors.UnknownDatatype("data", "FP8"),
        BAD,
        "INVALID_ARGUMENT",
        "input 'data' has unknown datatype 'FP8'",
    ),
    (
        errors.WrongDatatype("data", "FP16", "FP32"),
        BAD,
        "INVALID_ARGUMENT",
        "input 'data' has datatype FP16, the model takes FP32",
    ),
    (
        errors.WrongRank("data", (1, 1, 3, 300, 300), ["1", "3", "-1", "200:500"]),
        BAD,
        "INVALID_ARGUMENT",
        "input 'data' has 5 dimensions [1,1,3,300,300], the model takes 4 [1,3,-1,200:500]",
    ),
    (
        errors.WrongDimension("data", 1, (1, 4), ["1", "3"]),
        BAD,
        "INVALID_ARGUMENT",
        "input 'data' has shape [1,4], dimension 1 is 4, the model takes [1,3]",
    ),
    (
        errors.InvalidShape("data", [1, -3]),
        BAD,
        "INVALID_ARGUMENT",
        "input 'data' has shape [1, -3], not a list of integers >= 0",
    ),
    (
        errors.WrongElementCount("data", 5, (2, 3), 6),
        BAD,
        "INVALID_ARGUMENT",
        "input 'data' has 5 values, its shape [2,3] needs 6",
    ),
    (
        errors.WrongByteCount("data", 23, (2, 3), 24),
        BAD,
        "INVALID_ARGUMENT",
        "input 'data' has 23 bytes, its shape [2,3] needs 24",
    ),
    (
        errors.ValueOutOfRange("data", "UINT8", "256"),
        BAD,
        "INVALID_ARGUMENT",
        "input 'data' has a value that does not fit UINT8: 256",
    ),
    (
        errors.NumberNotCarried("input 'ids' (INT64, computed in INT32) has", 2**31, 0, 2**31 - 1),
        BAD,
        "INVALID_ARGUMENT",
        (
            "input 'ids' (INT64, computed in INT32) has 2147483648, "
            "the device computes only with 0 to 2147483647"
        ),
    ),
    (
        errors.InvalidImage("data", 2, "it is no JPEG"),
        BAD,
        "INVALID_ARGUMENT",
        "input 'data', image 2: it is no JPEG",
    ),
    (
        errors.ShapeNotSupported("faces", "data [1,3,2,2]", "it is too small"),
        BAD,
        "INVALID_ARGUMENT",
        "model 'faces' cannot run at data [1,3,2,2]: it is too small",
    ),
    (
        errors.ModelNotFound("cats", ["faces", "spots"]),
        GONE,
        "NOT_FOUND",
        "model 'cats' is not served here, known: faces, spots",
    ),
    (
        errors.VersionNotFound("faces", "4", ["2", "3"]),
        GONE,
        "NOT_FOUND",
        "model 'faces' has no version '4', known: 2, 3",
    ),
    (
        errors.LabelNotFound("faces", "stable", []),
        GONE,
        "NOT_FOUND",
        "model 'faces' has no version label 'stable', known: none",
    ),
    (errors.PathNotFound("/v3"), GONE, "UNIMPLEMENTED", "no such path: /v3"),
    (
        errors.MethodNotAllowed("PUT", "/v2", ["GET", "HEAD"]),
        METHOD,
        "UNIMPLEMENTED",
        "/v2 does not take PUT, it takes GET, HEAD",
    ),
    (
        errors.LimitExceeded("request body", 73400320, "body_bytes", 67108864),
        LARGE,
        "RESOURCE_EXHAUSTED",
        "request body of 73400320 exceeds limits.body_bytes (67108864)",
    ),
    (
        errors.ModelUnavailable("faces", "no internet"),
        503,
        "UNAVAILABLE",
        "model 'faces' is not available: no internet",
    ),
    (
        errors.MetricsUnavailable(3),
        503,
        "UNAVAILABLE",
        "none of Ray's 3 metrics agents answers",
    ),
    (
        errors.ControlDisabled(),
        403,
        "PERMISSION_DENIED",
        "the API does not load or unload models on this server: model_control is false",
    ),
    (
        errors.VersionChanged("faces", "2"),
        503,
        "UNAVAILABLE",
        "version '2' of model 'faces' changed while the request was in flight, send it again",
    ),
    (
        errors.QueueFull("faces", 4096, 4096),
        503,
        "RESOURCE_EXHAUSTED",
        "queue of model 'faces' is full: 4096 requests wait, limits.queue_length is 4096",
    ),
    (
        errors.DeadlineExceeded("faces", 0.25),
        504,
        "DEADLINE_EXCEEDED",
        "model 'faces' did not answer within 0.25 s",
    ),
    (
        errors.InferenceFailed("faces", "OpenVINO reports an error"),
        OURS,
        "INTERNAL",
        "inference of model 'faces' failed: OpenVINO reports an error",
    ),
]
EVERY_ERROR = pytest.mark.parametrize(
    "error", [row[0] for row in ERRORS], ids=lambda error: type(error).__name__
)


def family(root: type[ServingError]) -> set[type[ServingError]]:
    """The class and its subclasses of this module only, because tests may define others."""
    below = [family(child) for child in root.__subclasses__()]
    return {cls for cls in {root}.union(*below) if cls.__module__ == errors.__name__}


def test_the_table_lists_every_class_once() -> None:
    assert family(ServingError) == {type(row[0]) for row in ERRORS}
    assert len(family(ServingError)) == len(ERRORS)


@pytest.mark.parametrize(("error", "http_status", "grpc_code", "text"), ERRORS)
def test_every_error_has_its_codes_and_names_thing_value_and_limit(
    error: ServingError, http_status: int, grpc_code: str, text: str
) -> None:
    assert (http_status, grpc_code) == (error.http_status, error.grpc_code)
    assert text == error.message == str(error)


@EVERY_ERROR
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_keeps_type_and_text_across_processes(
    error: ServingError, protocol: int
) -> None:
    for again in (
        pickle.loads(pickle.dumps(error, protocol)),
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error, protocol)), protocol)),
        copy.copy(error),
        copy.deepcopy(error),
    ):
        assert type(error) is type(again)
        assert (error.message, str(error), error.args) == (again.message, str(again), again.args)
        assert (error.http_status, error.limit) == (again.http_status, again.limit)


@EVERY_ERROR
def test_every_class_says_when_it_is_raised(error: ServingError) -> None:
    says = type(error).__doc__ or ""
    assert type(error) is ServingError or re.match(r"Raised when .+\.$", says)


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "error",
    [
        errors.ModelNotFound(LONG, ["faces"]),
        errors.VersionNotFound("faces", LONG, ["1"]),
        errors.LabelNotFound("faces", LONG, ["stable"]),
        errors.PathNotFound(LONG),
        errors.MethodNotAllowed("GET", LONG, ["POST"]),
        errors.InvalidShape("data", LONG),
        errors.InvalidShape("data", [LONG] * 8),
        errors.InvalidShape("data", [1.5] * 100_000),
        errors.InvalidShape("data", {LONG: LONG}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_client_wrote_at_length_is_cut(error: ServingError) -> None:
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("shape", "expected"), [((), "[]"), ((1,), "[1]"), ([1, 3, 300, 300], "[1,3,300,300]")]
)
def test_shapes_are_written_as_clients_write_them(shape: list[int], expected: str) -> None:
    assert expected == dims(shape)


def test_what_ends_a_request_over_a_limit_names_the_setting() -> None:
    limits = {type(row[0]): row[0].limit for row in ERRORS if row[0].limit}

    assert {errors.LimitExceeded, errors.QueueFull, errors.DeadlineExceeded} == limits.keys()
    assert set(limits.values()) <= Limits.model_fields.keys()
