"""Serve's access log, where it is off: no record is made of a request."""

import logging
from typing import Any

from deployments.ray_private import ACCESS_LOG_MARK, log_access_log_filter


def skip_dropped_records(logger: logging.Logger) -> None:
    """Makes no record for the access log while all handlers would drop it.

    Serve makes one of each request and leaves it to its handlers to drop it. Whether they do may
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
