"""Log lines about requests, which carry the requests' ids in the ingress and in the model.

Serve adds to each line the id of the call that writes it. A batch's call is no client's request, so
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
    """A client's request id, shortened and in printable ASCII, for a log line."""
    request_id = request_id[:_ID_LENGTH]
    if request_id.isascii() and request_id.isprintable():
        return request_id
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in request_id)


def set_request_ids(*request_ids: str) -> None:
    """Sets the requests that this task, and the tasks that it starts, work for."""
    _about.set(request_ids)


def request_ids() -> tuple[str, ...]:
    """The ids of the requests that this task works for."""
    return _about.get()


def log(
    level: int, message: str, *arguments: Any, about: Sequence[str] | None = None, **fields: Any
) -> None:
    """Logs a line `about` these requests, or about those that this task works for.

    A JSON log has the `fields` by their names, and the `request_id`, or `request_ids` in a line
    about several requests.
    """
    ids = [request_id for request_id in (_about.get() if about is None else about) if request_id]
    if len(ids) == 1:
        fields["request_id"] = ids[0]
    elif ids:
        fields["request_ids"] = ids
    # Logged in an empty context, or Serve would add the id of its own call.
    contextvars.Context().run(logger.log, level, message, *arguments, extra=fields, stacklevel=2)
