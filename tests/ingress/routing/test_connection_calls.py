"""Calls over one lane."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deployments.ingress.routing.connections import Connection, ConnectionListener, ConnectionLost
from deployments.transport.connections import serve_connection
from tests.loops import on_both_loops, settled, until
from tests.transport.connection_peers import Answers, Streams, connected, echo, hung_up

TOKEN = b"t" * 16


@asynccontextmanager
async def attended(answers: Answers) -> AsyncIterator[tuple[Connection, "asyncio.Task[None]"]]:
    meeting = ConnectionListener()
    expected = await meeting.expect(TOKEN)
    attending = asyncio.create_task(serve_connection(meeting.name, TOKEN, answers))
    lane = await expected
    yield lane, attending
    lane.close()
    await asyncio.wait([attending])
    await meeting.close()


@asynccontextmanager
async def bare() -> AsyncIterator[tuple[Connection, Streams]]:
    """A lane to a peer that does nothing by itself."""
    meeting = ConnectionListener()
    expected = await meeting.expect(TOKEN)
    streams = await connected(meeting.name)
    streams[1].write(TOKEN)
    yield await expected, streams
    await hung_up(streams[1])
    await meeting.close()


@pytest.mark.parametrize("size", [1, 5_000_000])
@on_both_loops
async def test_calls_are_answered_one_after_the_other(size: int) -> None:
    meeting = ConnectionListener()
    expected = await meeting.expect(TOKEN)
    attending = asyncio.create_task(serve_connection(meeting.name, TOKEN, echo))
    lane = await expected
    for _ in range(3):
        message = os.urandom(size)
        assert message == await lane.call(message)
        assert not lane.busy
    lane.close()
    await attending
    await meeting.close()


@on_both_loops
async def test_a_replica_that_dies_in_a_call_loses_the_lane() -> None:
    async with bare() as (lane, (reader, writer)):
        call = asyncio.create_task(lane.call("call"))
        await reader.read(1)
        assert lane.busy
        writer.transport.abort()
        with pytest.raises(ConnectionLost):
            await call
        assert not lane.busy
        assert not lane.open
        with pytest.raises(ConnectionLost):
            await lane.call("another")


@on_both_loops
async def test_a_replica_that_dies_inside_its_reply_loses_the_lane() -> None:
    async with bare() as (lane, (reader, writer)):
        call = asyncio.create_task(lane.call("call"))
        await reader.read(1)
        writer.write(b"\xff\0\0\0half of it")
        await settled()
        await hung_up(writer)
        with pytest.raises(ConnectionLost):
            await call


@on_both_loops
async def test_a_replica_that_dies_while_the_call_is_written_loses_the_lane() -> None:
    async with bare() as (lane, (reader, writer)):
        call = asyncio.create_task(lane.call(bytes(5_000_000)))
        await reader.read(1)
        writer.transport.abort()
        with pytest.raises(ConnectionLost):
            await call


@on_both_loops
async def test_a_replica_that_has_died_meanwhile_loses_the_lane_or_closes_it() -> None:
    async with bare() as (lane, (_, writer)):
        writer.transport.abort()
        with pytest.raises(ConnectionLost):
            await lane.call("call")
        await until(lambda: not lane.open)


@on_both_loops
async def test_an_answer_that_fails_loses_the_lane() -> None:
    answers = Answers()
    answers.replies.put_nowait(ZeroDivisionError())
    async with attended(answers) as (lane, attending):
        with pytest.raises(ConnectionLost):
            await lane.call("call")
        with pytest.raises(ZeroDivisionError):
            await attending


@on_both_loops
async def test_a_caller_that_leaves_ends_the_lane_and_attending_ends_with_its_call() -> None:
    answers = Answers()
    async with attended(answers) as (lane, attending):
        call = asyncio.create_task(lane.call("call"))
        await answers.asked.get()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not lane.open
        assert not lane.busy
        answers.replies.put_nowait("late")
        await attending


@on_both_loops
async def test_a_caller_that_leaves_a_peer_that_reads_nothing_ends_the_lane() -> None:
    async with bare() as (lane, (reader, _)):
        call = asyncio.create_task(lane.call(bytes(5_000_000)))
        await settled()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(await reader.read()) < 5_000_000


@on_both_loops
async def test_a_call_that_cannot_be_sent_leaves_the_lane_as_it_was() -> None:
    answers = Answers()
    async with attended(answers) as (lane, _):
        with pytest.raises(TypeError):
            await lane.call(echo.__code__)
        answers.replies.put_nowait("reply")
        assert "reply" == await lane.call("call")


@on_both_loops
async def test_what_a_replica_sends_unasked_or_twice_is_dropped() -> None:
    meeting = ConnectionListener()
    expected = await meeting.expect(TOKEN)
    seen: list[str] = []

    async def twice(call: str) -> str:
        seen.append(call)
        return call

    attending = asyncio.create_task(serve_connection(meeting.name, TOKEN, twice))
    lane = await expected
    lane._wire.send("unasked")  # its answer comes while nobody waits
    await until(lambda: ["unasked"] == seen)
    await settled()
    assert not lane.busy
    lane.close()
    await attending
    await meeting.close()


@pytest.mark.parametrize("busy", [True, False])
@on_both_loops
async def test_a_retired_lane_closes_once_its_call_is_over(busy: bool) -> None:
    answers = Answers()
    async with attended(answers) as (lane, attending):
        if busy:
            call = asyncio.create_task(lane.call("call"))
            await answers.asked.get()
            lane.retire()
            assert lane.open
            answers.replies.put_nowait("reply")
            assert "reply" == await call
        else:
            lane.retire()
        assert not lane.open
        await attending
