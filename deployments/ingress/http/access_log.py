"""Spares the records of Serve's access log while it is off."""

import logging
from typing import Any

from deployments.ray_private import ACCESS_LOG_MARK, log_access_log_filter


def skip_dropped_records(logger: logging.Logger) -> None:
    """Makes the logger skip records of the access log that all handlers would drop.

    Serve makes a record of each request, which its handlers then drop. Whether they drop it may
    change while the replica runs.
    """
    info = logger.info

    def spared(message: object, *arguments: Any, **more: Any) -> None:
        if (more.get("extra") or {}).get(ACCESS_LOG_MARK) and _drops(logger):
            return
        more["stacklevel"] = more.get("stacklevel", 1) + 1
        info(message, *arguments, **more)

    logger.info = spared  # type: ignore[assignment, method-assign]


def _drops(logger: logging.Logger) -> bool:
    return not logger.propagate and all(
        log_access_log_filter in handler.filters for handler in logger.handlers
    )
