"""The fields of log lines about requests. In a server's log: tests/e2e/test_watching.py."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from deployments.observability.logs import log, logger, printable, request_ids, set_request_ids


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("4120ef6e-6a0d", "4120ef6e-6a0d"),
        ("", ""),
        ("a\r\nERROR forged\x1b[0m", "a??ERROR forged?[0m"),
        ("é\u2028", "??"),
        ("x" * 1000, "x" * 128),
    ],
)
def test_an_id_is_one_short_word_of_a_line(sent: str, expected: str) -> None:
    assert expected == printable(sent)


async def test_a_task_and_what_it_starts_work_for_the_same_requests() -> None:
    async def told() -> tuple[str, ...]:
        return request_ids()

    async def work(request_id: str) -> tuple[str, ...]:
        set_request_ids(request_id)
        await asyncio.sleep(0)
        return await asyncio.create_task(told())

    assert [("a",), ("b",)] == list(await asyncio.gather(work("a"), work("b")))
    assert () == request_ids()


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((), {}),
        (("",), {}),
        (("a",), {"request_id": "a"}),
        (("a", "", "b"), {"request_ids": ["a", "b"]}),
    ],
)
async def test_a_line_carries_the_ids_that_it_is_about(
    lines: list[logging.LogRecord], ids: tuple[str, ...], expected: dict[str, object]
) -> None:
    set_request_ids(*ids)
    log(logging.ERROR, "%s %d", "text", 1, model="m")
    set_request_ids("other")
    log(logging.ERROR, "text 1", about=ids, model="m")

    for line in lines:
        fields = {k: v for k, v in line.__dict__.items() if k.startswith("request_id")}
        assert expected == fields
        assert ("text 1", "m") == (line.getMessage(), line.__dict__["model"])
        assert "test_logs.py" == line.filename
    assert 2 == len(lines)
