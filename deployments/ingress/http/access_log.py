"""Spares the records of Serve's access log while it is off."""

import logging
from typing import Any, Final

from ray.serve._private.logging_utils import log_access_log_filter

_MARK: Final = "serve_access_log"
"""The attribute by which Serve's handlers recognise records of the access log."""


def skip_dropped_records(logger: logging.Logger) -> None:
    """Makes the logger skip records of the access log that all handlers would drop.

    Serve makes a record of each request, which its handlers then drop. Whether they drop it may
    change while the replica runs.
    """
    info = logger.info

    def spared(message: object, *arguments: Any, **more: Any) -> None:
        if (more.get("extra") or {}).get(_MARK) and _drops(logger):
            return
        more["stacklevel"] = more.get("stacklevel", 1) + 1
        info(message, *arguments, **more)

    logger.info = spared  # type: ignore[assignment, method-assign]


def _drops(logger: logging.Logger) -> bool:
    return not logger.propagate and all(
        log_access_log_filter in handler.filters for handler in logger.handlers
    )
