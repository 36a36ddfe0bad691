"""Calls over one connection."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deployments.ingress.routing import connections as module
from deployments.ingress.routing.connections import (
    CallFailed,
    Connection,
    ConnectionListener,
    ConnectionLost,
)
from deployments.transport.connections import serve_connection
from tests.loops import on_both_loops, settled, until
from tests.transport.connection_peers import Answers, Streams, connected, echo, hung_up

TOKEN = b"t" * 16


@asynccontextmanager
async def attended(answers: Answers) -> AsyncIterator[tuple[Connection, "asyncio.Task[None]"]]:
    listener = ConnectionListener()
    expected = await listener.expect(TOKEN)
    attending = asyncio.create_task(serve_connection(listener.name, TOKEN, answers))
    connection = await expected
    yield connection, attending
    connection.close()
    await asyncio.wait([attending])
    await listener.close()


@asynccontextmanager
async def bare() -> AsyncIterator[tuple[Connection, Streams]]:
    """A connection to a peer that does nothing by itself."""
    listener = ConnectionListener()
    expected = await listener.expect(TOKEN)
    streams = await connected(listener.name)
    streams[1].write(TOKEN)
    yield await expected, streams
    await hung_up(streams[1])
    await listener.close()


@pytest.mark.parametrize("size", [1, 5_000_000])
@on_both_loops
async def test_calls_of_all_sizes_are_answered(size: int) -> None:
    listener = ConnectionListener()
    expected = await listener.expect(TOKEN)
    attending = asyncio.create_task(serve_connection(listener.name, TOKEN, echo))
    connection = await expected
    for _ in range(3):
        message = os.urandom(size)
        assert message == await connection.call(message)
    connection.close()
    await attending
    await listener.close()


@on_both_loops
async def test_replies_reach_their_callers_in_whatever_order_they_come() -> None:
    held: dict[str, asyncio.Future[str]] = {}

    async def answer(call: str) -> str:
        held[call] = asyncio.get_running_loop().create_future()
        return await held[call]

    listener = ConnectionListener()
    expected = await listener.expect(TOKEN)
    attending = asyncio.create_task(serve_connection(listener.name, TOKEN, answer))
    connection = await expected
    calls = {name: asyncio.create_task(connection.call(name)) for name in "abc"}
    await until(lambda: len(held) == 3)
    for name in "cab":
        held[name].set_result(name.upper())
        assert name.upper() == await calls[name]
    connection.close()
    await attending
    await listener.close()


@on_both_loops
async def test_ids_begin_anew_after_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_ID", 3)
    answers = Answers()
    async with attended(answers) as (connection, _):
        for number in range(7):
            answers.replies.put_nowait(number)
            assert number == await connection.call("call")


@on_both_loops
async def test_a_replica_that_dies_loses_all_calls_in_flight() -> None:
    async with bare() as (connection, (reader, writer)):
        calls = [asyncio.create_task(connection.call("call")) for _ in range(3)]
        await reader.read(1)
        writer.transport.abort()
        for call in calls:
            with pytest.raises(ConnectionLost):
                await call
        assert not connection.usable
        with pytest.raises(ConnectionLost):
            await connection.call("another")


@on_both_loops
async def test_a_replica_that_dies_inside_its_reply_loses_the_call() -> None:
    async with bare() as (connection, (reader, writer)):
        call = asyncio.create_task(connection.call("call"))
        await reader.read(1)
        writer.write(b"\xff\0\0\0\1\0\0\0\0half of it")
        await settled()
        await hung_up(writer)
        with pytest.raises(ConnectionLost):
            await call


@on_both_loops
async def test_a_replica_that_dies_while_the_call_is_written_loses_it() -> None:
    async with bare() as (connection, (reader, writer)):
        call = asyncio.create_task(connection.call(bytes(5_000_000)))
        await reader.read(1)
        writer.transport.abort()
        with pytest.raises(ConnectionLost):
            await call


@on_both_loops
async def test_a_replica_that_has_died_meanwhile_loses_the_next_call() -> None:
    async with bare() as (connection, (_, writer)):
        writer.transport.abort()
        with pytest.raises(ConnectionLost):
            await connection.call("call")
        await until(lambda: not connection.usable)


@on_both_loops
async def test_an_answer_that_raises_fails_its_call_and_no_other() -> None:
    answers = Answers()
    async with attended(answers) as (connection, attending):
        answers.replies.put_nowait(ZeroDivisionError())
        with pytest.raises(CallFailed):
            await connection.call("call")
        answers.replies.put_nowait("reply")
        assert "reply" == await connection.call("call")
        assert not attending.done()


@on_both_loops
async def test_a_caller_that_is_cancelled_leaves_the_other_calls_alone() -> None:
    answers = Answers()
    async with attended(answers) as (connection, _):
        left, stays = (asyncio.create_task(connection.call(name)) for name in ("a", "b"))
        assert ["a", "b"] == [await answers.asked.get() for _ in range(2)]
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        for reply in ("late", "reply"):
            answers.replies.put_nowait(reply)
        assert "reply" == await stays
        assert connection.usable


@on_both_loops
async def test_a_call_that_cannot_be_sent_leaves_the_connection_as_it_was() -> None:
    answers = Answers()
    async with attended(answers) as (connection, _):
        with pytest.raises(TypeError):
            await connection.call(echo.__code__)
        answers.replies.put_nowait("reply")
        assert "reply" == await connection.call("call")


@on_both_loops
async def test_what_a_replica_sends_unasked_is_dropped() -> None:
    answers = Answers()
    async with attended(answers) as (connection, _):
        connection._wire.send(9, "unasked")  # its reply has the id of no call
        for reply in ("unasked", "reply"):
            answers.replies.put_nowait(reply)
        assert "unasked" == await answers.asked.get()
        assert "reply" == await connection.call("call")


@pytest.mark.parametrize("busy", [True, False])
@on_both_loops
async def test_a_retired_connection_closes_once_its_calls_are_over(busy: bool) -> None:
    answers = Answers()
    async with attended(answers) as (connection, attending):
        if busy:
            calls = [asyncio.create_task(connection.call("call")) for _ in range(2)]
            for _ in calls:
                await answers.asked.get()
            connection.retire()
            assert not connection.usable
            for call in calls:
                assert not attending.done()
                answers.replies.put_nowait("reply")
                assert "reply" == await call
        else:
            connection.retire()
        await attending
