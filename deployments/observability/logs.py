"""Lines in the log that are about requests carry their ids, wherever they are written.

Serve puts the id of the call that a line is written in on it. That of a batch's call is nobody's:
the ids of its requests travel with them.
"""

import contextvars
import logging
from collections.abc import Sequence
from typing import Any, Final

logger: Final = logging.getLogger("ray.serve")

_ID_LENGTH: Final = 128
_about: Final[contextvars.ContextVar[tuple[str, ...]]] = contextvars.ContextVar(
    "requests", default=()
)


def printable(request_id: str) -> str:
    """An id as a client sent it, fit for a line of a log."""
    request_id = request_id[:_ID_LENGTH]
    if request_id.isascii() and request_id.isprintable():
        return request_id
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in request_id)


def set_request_ids(*request_ids: str) -> None:
    """From here on, this task and those that it starts work for these requests."""
    _about.set(request_ids)


def request_ids() -> tuple[str, ...]:
    """Whom this task works for."""
    return _about.get()


def log(
    level: int, message: str, *arguments: Any, about: Sequence[str] | None = None, **fields: Any
) -> None:
    """A line `about` these requests, or about those that this task works for.

    `fields` are there by their names where the log is JSON; so is the `request_id`, or in a line
    about several, `request_ids`.
    """
    ids = [request_id for request_id in (_about.get() if about is None else about) if request_id]
    if len(ids) == 1:
        fields["request_id"] = ids[0]
    elif ids:
        fields["request_ids"] = ids
    # Outside of every call, or Serve would put its id there.
    contextvars.Context().run(logger.log, level, message, *arguments, extra=fields, stacklevel=2)
