import asyncio
import contextvars
import logging

import pytest

from deployments import timing
from deployments.ingress.routing import connections as module
from deployments.ingress.routing.connections import (
    Connection,
    ConnectionListener,
    ConnectionLost,
    ReplicaConnection,
)
from deployments.transport.connections import serve_connection
from tests.ingress.routing.connected_replicas import Replica, scene
from tests.loops import on_both_loops, settled, until
from tests.transport.connection_peers import Bomb, closed_by_peer, connected, echo, framed, hung_up


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "RECONNECT_S", 0.01)


# How connections come and go --------------------------------------------------------------------


@on_both_loops
async def test_a_replica_is_connected_before_the_first_call() -> None:
    async with scene() as at:
        connection = await at.connected()
        assert 1 == at.replica.attending == len(at.replica.tokens)
        call = await at.call(connection)
        at.answer()
        assert "reply" == await call


@on_both_loops
async def test_all_calls_share_the_connection() -> None:
    async with scene() as at:
        connection = await at.connected()
        calls = [await at.call(connection, number) for number in range(100)]
        for number in range(100):
            at.answer(-number)
        assert [-number for number in range(100)] == [await call for call in calls]
        assert 1 == len(at.replica.tokens)


@on_both_loops
async def test_a_lost_connection_comes_again() -> None:
    async with scene() as at:
        for count in (1, 2, 3):
            connection = await at.connected()
            assert count == len(at.replica.tokens)
            call = await at.call(connection)
            connection.close()
            with pytest.raises(ConnectionLost):
                await call
            at.answer()
            await until(lambda lost=connection: at.kept.usable is not lost)  # type: ignore[misc]


@on_both_loops
async def test_opening_runs_in_a_context_of_its_own() -> None:
    request = contextvars.ContextVar[str]("request")
    seen: list[str | None] = []

    async def attending(name: str, token: bytes) -> None:
        seen.append(request.get(None))
        await serve_connection(name, token, echo)

    listener = ConnectionListener()
    request.set("the first")
    kept = ReplicaConnection(listener, attending)
    await until(lambda: kept.usable is not None)
    kept.close()
    await listener.close()
    assert [None] == seen


@on_both_loops
async def test_a_retired_connection_ends_with_its_calls_and_for_good() -> None:
    async with scene() as at:
        connection = await at.connected()
        calls = [await at.call(connection) for _ in range(2)]
        at.kept.retire()
        assert at.kept.usable is None
        for call in calls:
            assert 1 == at.replica.attending
            at.answer()
            assert "reply" == await call
        await at.attending(0)
        await at.ended()
        assert 1 == len(at.replica.tokens)


@on_both_loops
async def test_an_idle_connection_that_retires_ends_at_once() -> None:
    async with scene() as at:
        await at.connected()
        at.kept.retire()
        await at.attending(0)
        await at.ended()


@on_both_loops
async def test_one_that_is_not_connected_yet_retires_at_once() -> None:
    async with scene() as at:
        at.replica.open.clear()
        await at.attending(1)
        at.kept.retire()
        await at.attending(0)
        await at.ended()
        assert at.kept.usable is None


@on_both_loops
async def test_closing_ends_calls_under_way() -> None:
    async with scene() as at:
        call = await at.call(await at.connected())
        at.kept.close()
        with pytest.raises(ConnectionLost):
            await call
        at.answer()
        await at.attending(0)
        await at.ended()


@on_both_loops
async def test_a_replica_that_connects_in_the_moment_of_closing_is_closed() -> None:
    class Listener(ConnectionListener):
        async def expect(self, token: bytes) -> "asyncio.Future[Connection]":
            connection = await super().expect(token)
            connection.add_done_callback(lambda _: kept.close())
            return connection

    listener, replica = Listener(), Replica()
    kept = ReplicaConnection(listener, replica.attend)
    await until(lambda: bool(replica.tokens))
    await until(lambda: not replica.attending)
    assert kept.usable is None
    await listener.close()


# Replicas that cannot connect, do not, or must not ----------------------------------------------


@on_both_loops
async def test_a_replica_that_says_why_it_cannot_connect_is_asked_again_much_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    module.logger.addHandler(handler)
    later = asyncio.get_running_loop().create_future()
    sleep = asyncio.sleep
    pauses: list[float] = []

    async def sleeping(seconds: float) -> None:
        if seconds >= 1:
            pauses.append(seconds)
            await later
        else:
            await sleep(seconds)

    async with scene() as at:
        at.replica.outcome = "it is elsewhere"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "sleep", sleeping)
            await until(lambda: bool(pauses))
            at.replica.outcome = None
            later.set_result(None)
            await at.connected()
    module.logger.removeHandler(handler)
    assert [60.0] == pauses
    assert ["no direct connection to a replica: it is elsewhere"] == records


@on_both_loops
async def test_a_replica_that_fails_to_attend_is_asked_again() -> None:
    async with scene() as at:
        at.replica.outcome = ValueError()
        await until(lambda: len(at.replica.tokens) >= 3)
        at.replica.outcome = None
        await at.connected()


@on_both_loops
async def test_a_replica_that_never_connects_is_given_up_and_refused_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scene() as at:
        at.replica.open.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(timing, "CONNECT_S", 0.01)
            await until(lambda: len(at.replica.tokens) >= 2)
        await serve_connection(at.listener.name, at.replica.tokens[0], echo)
        assert at.kept.usable is None
        at.replica.open.set()
        await at.connected()
        await at.attending(1)  # nor did the calls before it go on


@on_both_loops
async def test_a_process_that_cannot_listen_goes_on_without_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def broken(name: str) -> None:
        tried.append(name)
        raise OSError(24, "Too many open files")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "listening", broken)
        patch.setattr(timing, "RECONNECT_REFUSED_S", 0.01)
        async with scene() as at:
            await until(lambda: len(tried) >= 2)
            assert {at.listener.name} == set(tried)
            assert [] == at.replica.tokens
            patch.undo()
            await at.connected()


@on_both_loops
async def test_only_peers_that_are_expected_are_connected() -> None:
    before = Bomb.exploded
    listener = ConnectionListener()
    left, expected = await listener.expect(b"a" * 16), await listener.expect(b"b" * 16)
    left.cancel()
    attending = asyncio.create_task(serve_connection(listener.name, b"b" * 16, echo))
    connection = await expected
    for token in (b"a", b"b", b"c"):  # one that was cancelled, one that is there, one unknown
        reader, writer = await connected(listener.name)
        writer.write(token * 16 + framed(Bomb()))
        assert await closed_by_peer(reader)
        await hung_up(writer)
    assert 7 == await connection.call(7)
    connection.close()
    await attending
    await listener.close()
    await settled()
    assert before == Bomb.exploded
