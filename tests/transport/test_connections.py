import asyncio
import os
import pickle
import socket
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.transport.connections import TOKEN_BYTES, Wire, serve_connection
from tests.loops import on_both_loops, settled
from tests.transport.connection_peers import (
    Bomb,
    closed_by_peer,
    connected,
    echo,
    framed,
    hosting,
    hung_up,
)

TOKEN = b"t" * TOKEN_BYTES

# Messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 255, 65_536, 5_000_000])
@on_both_loops
async def test_calls_and_replies_of_all_sizes_arrive_as_they_were(size: int) -> None:
    message = os.urandom(size)
    async with hosting() as host:
        attending = asyncio.create_task(serve_connection(host.name, host.token, echo))
        wire = await host.wires.get()
        for _ in range(3):
            wire.send(1, message)
            assert message == await host.messages.get()
        wire.close()
        await attending


@on_both_loops
async def test_everything_may_come_in_one_piece() -> None:
    async with hosting() as host:
        _, writer = await connected(host.name)
        writer.write(host.token + b"".join(map(framed, range(100))))
        assert list(range(100)) == [await host.messages.get() for _ in range(100)]
        await hung_up(writer)
        await host.lost.wait()


@on_both_loops
async def test_everything_may_come_byte_by_byte() -> None:
    async with hosting() as host:
        reader, writer = await connected(host.name)
        for byte in host.token + framed("one") + framed("two"):
            writer.write(bytes([byte]))
            await settled()
        assert ["one", "two"] == [await host.messages.get() for _ in range(2)]
        (await host.wires.get()).close()
        assert await closed_by_peer(reader)
        await hung_up(writer)


class Transport(asyncio.Transport):
    """Is open until it is closed; the loop has not told the protocol yet."""

    closed = False

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    close = abort


@given(st.lists(st.binary(max_size=70_000)), st.lists(st.integers(0, 200_000)))
def test_it_does_not_matter_where_the_pieces_end(messages: list[bytes], cuts: list[int]) -> None:
    got: list[Any] = []

    def greeted(token: bytes, wire: Wire) -> bool:
        wire.received = lambda number, message, failed: got.append((number, message, failed))
        return TOKEN == token

    wire = Wire(greeted)
    wire.connection_made(Transport())
    stream = TOKEN + b"".join(framed(m, number) for number, m in enumerate(messages))
    for start, end in pairwise([0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]):
        wire.data_received(stream[start:end])
    assert [(number, m, False) for number, m in enumerate(messages)] == got


@on_both_loops
async def test_a_wire_that_closes_over_a_message_takes_no_more_of_them() -> None:
    got: list[Any] = []
    async with hosting() as host:
        reader, writer = await connected(host.name)
        writer.write(host.token)
        wire = await host.wires.get()

        def received(number: int, message: Any, failed: bool) -> None:
            got.append(message)
            wire.close()

        wire.received = received
        writer.write(framed("first") + framed("second"))
        assert await closed_by_peer(reader)
        assert ["first"] == got
        await hung_up(writer)


@on_both_loops
async def test_a_wire_sends_nothing_before_it_is_connected_or_after_it_was_lost() -> None:
    unconnected = Wire()
    unconnected.send(1, "nothing")
    unconnected.greet(TOKEN)
    unconnected.close()
    assert not unconnected.open
    async with hosting() as host:
        _, writer = await connected(host.name)
        writer.write(host.token)
        wire = await host.wires.get()
        assert wire.open
        await hung_up(writer)
        await host.lost.wait()
        assert not wire.open
        wire.send(1, "nothing")


@on_both_loops
async def test_closing_does_not_wait_for_a_peer_that_reads_nothing() -> None:
    async with hosting() as host:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.connect(f"\0{host.name}")
        peer.sendall(host.token)
        wire = await host.wires.get()
        wire.send(1, bytes(5_000_000))
        wire.close()
        await host.lost.wait()
        peer.close()


@on_both_loops
async def test_a_message_that_cannot_be_unpickled_ends_the_connection() -> None:
    complaints: list[Any] = []
    async with hosting() as host:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        reader, writer = await connected(host.name)
        writer.write(host.token + struct.pack("<II?", 4, 1, False) + b"junk")
        assert await closed_by_peer(reader)
        await host.lost.wait()
        assert isinstance(complaints[0]["exception"], pickle.UnpicklingError)
        await hung_up(writer)


# Who may connect --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        TOKEN + framed(Bomb()),
        framed(Bomb()) * 10,
        TOKEN + framed(Bomb()) * 5000,
        bytes(TOKEN_BYTES) + framed(Bomb()),
        b"\xff" * 100_000,
    ],
    ids=["wrong", "none", "wrong-long", "zeros", "garbage"],
)
@on_both_loops
async def test_nothing_is_unpickled_of_a_peer_without_the_token(first: bytes) -> None:
    before = Bomb.exploded
    async with hosting() as host:
        reader, writer = await connected(host.name)
        writer.write(first)
        assert await closed_by_peer(reader)
        assert 1 == host.refused
        await hung_up(writer)
        assert host.messages.empty()
    assert before == Bomb.exploded


@on_both_loops
async def test_with_the_token_the_same_bytes_are_unpickled() -> None:
    before = Bomb.exploded
    async with hosting() as host:
        _, writer = await connected(host.name)
        writer.write(host.token + framed(Bomb()))
        assert await host.messages.get() is None
        await hung_up(writer)
        await host.lost.wait()
    assert before + 1 == Bomb.exploded


@pytest.mark.parametrize("first", [b"", b"t", TOKEN[:-1], framed(Bomb())[: TOKEN_BYTES - 1]])
@on_both_loops
async def test_peers_that_leave_before_their_token_disturb_nobody(first: bytes) -> None:
    before = Bomb.exploded
    async with hosting() as host:
        for _ in range(5):
            _, writer = await connected(host.name)
            writer.write(first)
            await hung_up(writer)
        attending = asyncio.create_task(serve_connection(host.name, host.token, echo))
        wire = await host.wires.get()
        wire.send(1, "call")
        assert "call" == await host.messages.get()
        wire.close()
        await attending
        assert 0 == host.refused
    assert before == Bomb.exploded
