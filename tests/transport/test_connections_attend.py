"""The replica's side of a connection."""

import asyncio
import contextlib
import os
import socket

import pytest

from deployments.transport.connections import CannotConnect, serve_connection
from tests.loops import on_both_loops, settled
from tests.transport.connection_peers import Answers, Host, echo, framed, hosting

NAME = f"anyshape-test-{os.getpid()}"


def attending(host: Host, answers: Answers) -> "asyncio.Task[None]":
    return asyncio.create_task(serve_connection(host.name, host.token, answers))


@on_both_loops
async def test_attending_ends_when_the_ingress_closes_the_connection() -> None:
    async with hosting() as host:
        task = asyncio.create_task(serve_connection(host.name, host.token, echo))
        wire = await host.wires.get()
        await settled()
        assert not task.done()
        wire.close()
        await task


@on_both_loops
async def test_attending_ends_when_the_ingress_does_not_take_the_token() -> None:
    async with hosting() as host:
        await serve_connection(host.name, bytes(len(host.token)), echo)
        assert 1 == host.refused


@on_both_loops
async def test_calls_are_answered_as_their_answers_come() -> None:
    async with hosting() as host:
        answers = Answers()
        task = attending(host, answers)
        wire = await host.wires.get()
        for number, call in enumerate("abc", 7):
            wire.send(number, call)
        assert ["a", "b", "c"] == [await answers.asked.get() for _ in range(3)]
        assert host.messages.empty()
        for reply in "xyz":
            answers.replies.put_nowait(reply)
        assert ["x", "y", "z"] == [await host.messages.get() for _ in range(3)]
        assert ([7, 8, 9], []) == (host.numbers, host.failed)
        wire.close()
        await task


@on_both_loops
async def test_an_ingress_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(CannotConnect, match="Connection refused"):
        await serve_connection(NAME, bytes(16), echo)


def fill_backlog(name: str, sockets: contextlib.ExitStack) -> None:
    while True:
        peer = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        peer.setblocking(False)
        peer.connect(f"\0{name}")


@on_both_loops
async def test_an_ingress_that_accepts_nobody_is_an_os_error_and_does_not_block_the_loop() -> None:
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(f"\0{NAME}")
        listener.listen(0)
        with pytest.raises(BlockingIOError):
            fill_backlog(NAME, sockets)
        with pytest.raises(CannotConnect, match="temporarily unavailable"):
            await serve_connection(NAME, bytes(16), echo)


@on_both_loops
async def test_an_ingress_that_hangs_up_before_the_token_ends_attending() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"\0{NAME}")
        listener.listen()
        task = asyncio.create_task(serve_connection(NAME, bytes(16), echo))
        connection, _ = await asyncio.to_thread(listener.accept)
        connection.close()
        await task


@pytest.mark.parametrize(
    "reply",
    [ZeroDivisionError("no"), echo.__code__, asyncio.CancelledError()],
    ids=["raised", "local", "cancelled"],
)
@on_both_loops
async def test_a_call_whose_answer_raises_or_cannot_be_sent_fails_alone(reply: object) -> None:
    async with hosting() as host:
        answers = Answers()
        task = attending(host, answers)
        wire = await host.wires.get()
        for number, answer in ((1, reply), (2, "reply")):
            wire.send(number, "call")
            answers.replies.put_nowait(answer)
            assert (None if number == 1 else answer) == await host.messages.get()
        assert ([1, 2], [1]) == (host.numbers, host.failed)
        wire.close()
        await task


@on_both_loops
async def test_when_the_connection_ends_a_call_under_way_is_waited_for() -> None:
    async with hosting() as host:
        answers = Answers()
        task = attending(host, answers)
        wire = await host.wires.get()
        wire.send(1, "call")
        await answers.asked.get()
        wire.close()
        await host.lost.wait()
        await settled()
        assert not task.done()
        answers.replies.put_nowait("nobody's")
        await task
        assert host.messages.empty()


@on_both_loops
async def test_cancelled_in_a_call_it_closes_the_connection_and_waits_for_the_call() -> None:
    async with hosting() as host:
        answers = Answers()
        task = attending(host, answers)
        (await host.wires.get()).send(1, "call")
        await answers.asked.get()
        task.cancel()
        await host.lost.wait()
        assert not task.done()
        answers.replies.put_nowait("nobody's")
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("by_ingress", [True, False])
@on_both_loops
async def test_cancelled_while_it_waits_for_a_call_it_ends_at_once(by_ingress: bool) -> None:
    async with hosting() as host:
        answers = Answers()
        task = attending(host, answers)
        wire = await host.wires.get()
        wire.send(1, "call")
        await answers.asked.get()
        end = wire.close if by_ingress else task.cancel
        end()
        await host.lost.wait()
        await settled()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        answers.replies.put_nowait("nobody's")


@on_both_loops
async def test_an_ingress_that_dies_while_a_reply_is_on_its_way_ends_attending() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"\0{NAME}")
        listener.listen()
        answers = Answers()
        task = asyncio.create_task(serve_connection(NAME, bytes(16), answers))
        connection, _ = await asyncio.to_thread(listener.accept)
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        assert bytes(16) == await reader.readexactly(16)
        writer.write(framed(None))
        assert await answers.asked.get() is None
        answers.replies.put_nowait(bytes(5_000_000))
        await reader.readexactly(1000)
        writer.transport.abort()
        await task
