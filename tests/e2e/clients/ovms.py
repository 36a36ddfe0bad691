"""Calls the unmodified `ovmsclient` 2023.1 in the virtual environment that it needs."""

import base64
from functools import partial
from typing import Any

import numpy as np
import ovmsclient

from tests.e2e.clients.answering import answer

ROWS = np.arange(20, dtype=np.float32).reshape(2, 10)


def predict(client: Any, protocol: str) -> None:
    for version in (0, 1):
        rows = client.predict({"data": ROWS}, "add-one", model_version=version)
        np.testing.assert_array_equal(ROWS + 1, rows)
        assert protocol == "http" or rows.dtype == np.float32


def predict_several(client: Any, protocol: str) -> None:
    inputs = {"numbers": np.array([[1, -(2**52)]], np.int64), "words": [b"one", b"two"]}
    answers = client.predict(inputs, "echo")
    assert [[1, -(2**52)]] in [values.tolist() for values in answers.values()]
    words = next(a for a in answers.values() if a.dtype.kind in "SU")
    assert [b"one", b"two"] == [w if isinstance(w, bytes) else w.encode() for w in words.tolist()]


def predict_picture(client: Any, protocol: str, png: str) -> None:
    """Sends an encoded picture (here in base64), which the server decodes."""
    table = client.predict({"data": [base64.b64decode(png)]}, "spots")
    assert (1, 1, 200, 7) == table.shape
    assert table[0, 0, 0, 2] > 0.5, "no spot was found"


def status(client: Any, protocol: str) -> None:
    available = {1: {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}
    assert available == client.get_model_status("add-one")
    assert available == client.get_model_status("add-one", model_version=1)
    (missing,) = client.get_model_status("missing").values()
    assert ("END", 14) == (missing["state"], missing["error_code"])
    assert "127.0.0.1" in missing["error_message"]


def metadata(client: Any, protocol: str) -> None:
    assert {
        "model_version": 1,
        "inputs": {"data": {"shape": [-1, 10], "dtype": "DT_FLOAT"}},
        "outputs": {"sum": {"shape": [-1, 10], "dtype": "DT_FLOAT"}},
    } == client.get_model_metadata("add-one")


def refused(client: Any, protocol: str) -> None:
    from ovmsclient.tfs_compat.base import errors

    cases: list[tuple[str, Any, Any]] = [
        ("not served here", errors.ModelNotFoundError, lambda: client.get_model_status("no")),
        ("not served here", errors.ModelNotFoundError, lambda: client.predict({"data": 1}, "no")),
        (
            "has no version '9'",
            errors.ModelNotFoundError,
            lambda: client.predict({"data": ROWS}, "add-one", model_version=9),
        ),
        (
            "dimension 1 is 9",
            errors.InvalidInputError,
            lambda: client.predict({"data": ROWS[:, :9]}, "add-one"),
        ),
    ]
    for words, kind, call in cases:
        try:
            call()
        except kind as error:
            assert words in str(error), error
        else:
            raise AssertionError(words)


CALLS = (predict, predict_several, predict_picture, status, metadata, refused)
MAKE = {"grpc": ovmsclient.make_grpc_client, "http": ovmsclient.make_http_client}


def call(function: Any, protocol: str, address: str, *more: str) -> None:
    function(MAKE[protocol](address), protocol, *more)


if __name__ == "__main__":
    answer({function.__name__: partial(call, function) for function in CALLS})
