import logging
from collections.abc import Iterator
from typing import Any

import pytest
from ray.serve._private.logging_utils import log_access_log_filter

from deployments.ingress.http.access_log import skip_dropped_records

ACCESS = {"serve_access_log": True}


class Handler(logging.Handler):
    """Keeps records, except those that its filters drop."""

    def __init__(self, *filters: Any) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        for filter_ in filters:
            self.addFilter(filter_)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def made() -> Iterator[list[str]]:
    """The messages of all records that are made, dropped or not."""
    messages: list[str] = []
    factory = logging.getLogRecordFactory()

    def noting(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = factory(*arguments, **more)
        messages.append(record.msg)
        return record

    logging.setLogRecordFactory(noting)
    yield messages
    logging.setLogRecordFactory(factory)


def a_logger(*handlers: Handler) -> logging.Logger:
    logger = logging.Logger("serve")
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    skip_dropped_records(logger)
    return logger


def test_no_record_is_made_of_what_all_handlers_drop(made: list[str]) -> None:
    handlers = Handler(log_access_log_filter), Handler(logging.Filter(), log_access_log_filter)
    logger = a_logger(*handlers)
    logger.info("GET / 200", extra=ACCESS)
    assert [] == made
    for extra in (None, {}, {"other": True}, {"serve_access_log": False}):
        logger.info("something else", extra=extra)
    assert ["something else"] * 4 == made == handlers[0].lines == handlers[1].lines


def test_an_access_log_that_one_handler_keeps_is_written() -> None:
    off, on = Handler(log_access_log_filter), Handler()
    logger = a_logger(off, on)
    logger.info("%s / %d", "GET", 200, extra=ACCESS)
    assert ([], ["GET / 200"]) == (off.lines, on.lines)


def test_the_access_log_may_be_turned_on_and_off() -> None:
    logger = a_logger(Handler(log_access_log_filter))
    logger.handlers = [on := Handler()]
    logger.info("first", extra=ACCESS)
    on.addFilter(log_access_log_filter)
    logger.info("second", extra=ACCESS)
    assert ["first"] == on.lines


def test_what_goes_on_to_other_loggers_is_made() -> None:
    logger = a_logger(Handler(log_access_log_filter))
    logger.propagate, logger.parent = True, (parent := logging.Logger("parent"))
    parent.addHandler(handler := Handler())
    logger.info("GET / 200", extra=ACCESS)
    assert ["GET / 200"] == handler.lines


def test_a_record_says_where_it_is_from() -> None:
    logger = a_logger(handler := Handler())
    logger.info("here")
    (record,) = handler.records
    assert ("test_a_record_says_where_it_is_from", __file__) == (record.funcName, record.pathname)
