"""Bodies placed by the kernel: the same requests as over plain uvicorn, in the memory we chose."""

import asyncio
import contextlib
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
import uvicorn
import uvloop
from uvicorn.protocols.http import auto

from deployments.ingress.http.body_reader import BODY, BodyReader, Placement, install
from deployments.transport.arena import ALIGNMENT, Arena
from tests.loops import closed

SMALLEST = 1000


class Application:
    """Answers with the length and the hash of each body, and notes where it lay."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.offsets: list[int | None] = []
        self.disconnects = asyncio.Event()
        self.reject = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while not self.reject:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects.set()
                return
            body += message["body"]
            if not message["more_body"]:
                break
        placed = scope.get(BODY)
        if placed is not None:
            assert b"" == body
            assert placed.complete or self.reject
            body = bytes(placed.memory)
        self.offsets.append(None if placed is None else self.arena.offset_of(placed.memory))
        answer = f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@contextlib.asynccontextmanager
async def serving(application: Any) -> AsyncIterator[int]:
    original = auto.AutoHTTPProtocol
    install(Placement(application.arena.allocate, b"x-lead", "/infer", SMALLEST))
    try:
        config = uvicorn.Config(application, port=0, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        config.load()
    finally:
        auto.AutoHTTPProtocol = original
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await server.shutdown()


async def exchange(port: int, *pieces: bytes, answers: int = 1) -> list[bytes]:
    """Sends the pieces one after the other over one connection; the answers' bodies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    got = []
    for _ in range(answers):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        got.append(await reader.readexactly(length))
    writer.close()
    await writer.wait_closed()
    return got


class Recording:
    """A transport that keeps what is written, piece by piece."""

    def __init__(self, transport: asyncio.Transport, written: list[bytes]) -> None:
        self._transport = transport
        self._written = written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._written.append(bytes(data))
        self._transport.write(data)


def request(body: bytes, path: str = "/infer", **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def answer(body: bytes) -> bytes:
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()


def some_bytes(count: int) -> bytes:
    return np.random.default_rng(count).bytes(count)


def on_both_loops(
    test: Callable[..., Coroutine[Any, Any, None]], new: Callable[[Arena], Any] = Application
) -> Callable[..., None]:
    """Runs a test on asyncio's event loop and on uvloop, which Ray's replicas use."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
            arguments["application"] = new(Arena(1 << 22))
            with closed(new_loop()) as loop:
                loop.run_until_complete(test(**arguments))

    return run


@pytest.fixture
def application() -> Application:
    """Stands for the one that `on_both_loops` makes anew for each loop."""
    return Application(Arena(1 << 12))


@pytest.mark.parametrize("size", [SMALLEST, 60_000, 65_536, 1_080_137])
@pytest.mark.parametrize("lead", [0, 1, 137])
@on_both_loops
async def test_a_large_body_lies_in_the_arena_aligned_behind_its_lead(
    application: Application, size: int, lead: int
) -> None:
    body = some_bytes(size)
    async with serving(application) as port:
        assert [answer(body)] == await exchange(port, request(body, x_lead=str(lead)))

    (offset,) = application.offsets
    assert offset is not None
    assert 0 == (offset + lead) % ALIGNMENT


@pytest.mark.parametrize("cut", [1, 40, 70, 100, 5000])
@on_both_loops
async def test_it_does_not_matter_where_the_packets_end(application: Application, cut: int) -> None:
    body = some_bytes(200_000)
    raw = request(body)
    async with serving(application) as port:
        assert [answer(body)] == await exchange(port, raw[:cut], raw[cut : 3 * cut], raw[3 * cut :])


@on_both_loops
async def test_a_connection_is_used_again_for_bodies_of_all_sizes(
    application: Application,
) -> None:
    bodies = [some_bytes(n) for n in (300_000, 10, 0, 70_000, 999, 1_000_000)]
    async with serving(application) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in bodies:
            writer.write(request(body))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert answer(body) == await reader.readexactly(length)
        writer.close()

    assert [True, False, False, True, False, True] == [o is not None for o in application.offsets]


@on_both_loops
async def test_pipelined_requests_are_answered_in_order(application: Application) -> None:
    bodies = [some_bytes(n) for n in (2000, 90_000, 5, 40_000)]
    async with serving(application) as port:
        answers = await exchange(port, b"".join(map(request, bodies)), answers=4)

    assert list(map(answer, bodies)) == answers


@on_both_loops
async def test_chunked_and_packed_bodies_go_the_usual_way(application: Application) -> None:
    body = some_bytes(5000)
    chunked = b"POST /infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with serving(application) as port:
        assert [answer(body)] == await exchange(port, chunked)
        assert [answer(body)] == await exchange(port, request(body, content_encoding="gzip"))

    assert [None, None] == application.offsets


@on_both_loops
async def test_a_full_arena_sends_bodies_the_usual_way(application: Application) -> None:
    held = application.arena.allocate(application.arena.free_bytes - 4096)
    body = some_bytes(100_000)
    async with serving(application) as port:
        assert [answer(body)] == await exchange(port, request(body))

    assert held is not None
    assert [None] == application.offsets


@on_both_loops
async def test_a_client_that_hangs_up_inside_its_body_leaves_nothing_behind(
    application: Application,
) -> None:
    free = application.arena.free_bytes
    async with serving(application) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(some_bytes(200_000))[:150_000])
        await writer.drain()
        writer.close()
        await application.disconnects.wait()

    assert free == application.arena.free_bytes


@on_both_loops
async def test_an_answer_before_the_body_has_come_does_not_stop_the_connection(
    application: Application,
) -> None:
    application.reject = True
    body = some_bytes(150_000)
    async with serving(application) as port:
        answers = await exchange(port, request(body), request(body), answers=2)

    assert 2 == len(answers)


@on_both_loops
async def test_an_idle_connection_holds_no_memory_of_its_last_body(
    application: Application,
) -> None:
    free = application.arena.free_bytes
    body = some_bytes(500_000)
    async with serving(application) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(body))
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(answer(body)))
        del body

        assert free == application.arena.free_bytes
        writer.close()


@on_both_loops
async def test_only_bodies_for_inference_are_given_memory_before_they_come(
    application: Application,
) -> None:
    body = some_bytes(100_000)
    async with serving(application) as port:
        assert [answer(body)] == await exchange(port, request(body, path="/v2/health/live"))

    assert [None] == application.offsets


@on_both_loops
async def test_a_response_is_written_in_one_piece(application: Application) -> None:
    written: list[bytes] = []
    made = BodyReader.connection_made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            BodyReader,
            "connection_made",
            lambda self, transport: made(self, Recording(transport, written)),  # type: ignore[arg-type]
        )
        async with serving(application) as port:
            bodies = [b"", some_bytes(SMALLEST - 1), some_bytes(SMALLEST)]
            answers = await exchange(port, *map(request, bodies), answers=3)
    assert [answer(body) for body in bodies] == answers
    assert [b"HTTP/1.1 200 OK"] * 3 == [piece[:15] for piece in written]
    assert answers == [piece.split(b"\r\n\r\n")[1] for piece in written]


@pytest.mark.parametrize("size", [5, SMALLEST])
@on_both_loops
async def test_a_client_that_waits_for_continue_gets_it_first(
    application: Application, size: int
) -> None:
    body = some_bytes(size)
    head, _, _ = request(body, expect="100-continue").partition(b"\r\n\r\n")
    async with serving(application) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"\r\n\r\n")
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await reader.readuntil(b"\r\n\r\n")
        writer.write(body)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        assert answer(body) == await reader.readexactly(len(answer(body)))
        writer.close()


@on_both_loops
async def test_the_whole_response_comes_before_the_connection_is_closed(
    application: Application,
) -> None:
    body = some_bytes(SMALLEST)
    async with serving(application) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(body, connection="close"))
        assert (await reader.read()).endswith(b"\r\n\r\n" + answer(body))
        writer.close()
