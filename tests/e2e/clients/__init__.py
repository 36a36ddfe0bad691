"""Clients that need a separate interpreter, which `tests.e2e.calling` starts."""

TRITON_GRPC = [
    "describes",
    "infers",
    "infers_compressed",
    "infers_async",
    "infers_aio",
    "streams",
    "sends_strings",
    "sends_pictures",
    "sends_typed_contents",
    "is_refused",
    "is_too_late",
    "is_too_large",
    "is_healthy",
    "is_reflected",
    "leaves",
]
"""The functions of `triton_grpc`."""
