"""Replicas that cannot connect, do not, or must not."""

import asyncio
import logging

import pytest

from deployments.ingress.routing import connections as module
from deployments.ingress.routing.connections import ConnectionListener
from deployments.transport.connections import serve_connection
from tests.ingress.routing.connected_replicas import Clock, scene
from tests.loops import on_both_loops, settled, until
from tests.transport.connection_peers import Bomb, closed_by_peer, connected, echo, framed, hung_up


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@on_both_loops
async def test_after_a_replica_that_cannot_connect_there_is_a_pause(clock: Clock) -> None:
    async with scene() as at:
        at.replica.outcome = "it is elsewhere"
        for _ in range(2):
            at.lanes.idle()
        await at.opened()
        at.replica.outcome = None
        clock.passes(59)
        for _ in range(6):
            assert at.lanes.idle() is None
        await settled()
        assert 1 == len(at.replica.tokens)
        clock.passes(1.01)
        await at.lane()


@on_both_loops
async def test_a_replica_that_fails_to_attend_is_asked_again_after_a_second(clock: Clock) -> None:
    async with scene() as at:
        at.replica.outcome = ValueError()
        for count in (1, 2, 3):
            for _ in range(3):
                assert at.lanes.idle() is None
                await at.opened()
            assert count == len(at.replica.tokens)
            clock.passes(1.01)
        at.replica.outcome = None
        await at.lane()


@on_both_loops
async def test_a_replica_that_never_connects_is_given_up_and_refused_later() -> None:
    async with scene() as at:
        at.replica.open.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_CONNECT_S", 0.01)
            for _ in range(2):
                at.lanes.idle()
            await until(lambda: bool(at.replica.tokens))
            await at.opened()
        await at.attending(0)  # nor does its call go on
        await serve_connection(at.meeting.name, at.replica.tokens[0], echo)
        assert 0 == len(at.lanes)
        at.replica.open.set()
        await at.lane()


@on_both_loops
async def test_a_process_that_cannot_listen_goes_on_without_lanes(clock: Clock) -> None:
    tried: list[str] = []

    def broken(name: str) -> None:
        tried.append(name)
        raise OSError(24, "Too many open files")

    async with scene() as at:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "listening", broken)
            for _ in range(5):
                assert at.lanes.idle() is None
                await at.opened()
        assert [at.meeting.name] == tried
        assert [] == at.replica.tokens
        clock.passes(60.01)
        await at.lane()


@on_both_loops
async def test_it_is_logged_why_there_are_no_lanes() -> None:
    async with scene() as at:
        at.replica.outcome = "it is elsewhere"
        records: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
        module.logger.addHandler(handler)
        for _ in range(2):
            at.lanes.idle()
        await at.opened()
        module.logger.removeHandler(handler)
        assert ["no direct connection: it is elsewhere"] == records


@on_both_loops
async def test_only_who_is_expected_gets_a_lane() -> None:
    before = Bomb.exploded
    meeting = ConnectionListener()
    left, expected = await meeting.expect(b"a" * 16), await meeting.expect(b"b" * 16)
    left.cancel()
    attending = asyncio.create_task(serve_connection(meeting.name, b"b" * 16, echo))
    lane = await expected
    for token in (b"a", b"b", b"c"):  # who has left, who is there, who never was
        reader, writer = await connected(meeting.name)
        writer.write(token * 16 + framed(Bomb()))
        assert await closed_by_peer(reader)
        await hung_up(writer)
    assert 7 == await lane.call(7)
    lane.close()
    await attending
    await meeting.close()
    assert before == Bomb.exploded
