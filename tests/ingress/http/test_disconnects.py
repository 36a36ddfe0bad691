"""Disconnected clients: their work is cancelled, and other work continues."""

import asyncio
from typing import Any

import pytest

from deployments.errors import CLIENT_LEFT
from deployments.ingress.http.disconnects import CLIENT, Client
from deployments.ray_private import NO_DISCONNECT_TASK
from deployments.transport.arena import Arena
from tests.ingress.http.test_body_reader import on_both_loops, request, serving


class Application:
    """An application that answers when the test lets it; `ended` has each request's outcome."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.statuses: list[int] = []
        self.unwatched: list[bool] = []
        self.after_answer = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.unwatched.append(NO_DISCONNECT_TASK in scope["headers"])
        client = scope.get(CLIENT)

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])
            await send(message)

        try:
            if client is None:
                await self._answer(told)
            else:
                await client.served(lambda: self._answer(told), told)
        except asyncio.CancelledError:
            self.ended.put_nowait("cancelled")
        else:
            self.ended.put_nowait("answered")

    async def _answer(self, send: Any) -> None:
        self.began.set()
        await self.go_on.wait()
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})
        await asyncio.sleep(self.after_answer)


def on_loops(test: Any) -> Any:
    return on_both_loops(test, Application)


@pytest.fixture
def application() -> Application:
    """A placeholder for the object that `on_loops` makes for each loop."""
    return Application(Arena(1 << 12))


@pytest.mark.parametrize("size", [10, 300_000], ids=["small", "placed"])
@on_loops
async def test_the_work_for_a_client_that_leaves_ends(application: Application, size: int) -> None:
    free = application.arena.free_bytes
    async with serving(application) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(bytes(size)))
        await application.began.wait()
        writer.close()
        assert "cancelled" == await application.ended.get()
    assert [CLIENT_LEFT] == application.statuses
    assert [True] == application.unwatched
    assert free == application.arena.free_bytes


@on_loops
async def test_others_go_on(application: Application) -> None:
    async with serving(application) as port:
        reader, stays = await asyncio.open_connection("127.0.0.1", port)
        _, leaves = await asyncio.open_connection("127.0.0.1", port)
        for writer in (stays, leaves):
            writer.write(request(b"body"))
            await application.began.wait()
            application.began.clear()
        leaves.close()
        assert "cancelled" == await application.ended.get()
        application.go_on.set()
        assert b"HTTP/1.1 200 OK" == (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
        assert "answered" == await application.ended.get()
        stays.close()


@on_loops
async def test_a_client_that_disconnects_with_its_answer_was_answered(
    application: Application,
) -> None:
    application.go_on.set()
    application.after_answer = 0.2
    async with serving(application) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"body"))
        await reader.readuntil(b"ok")
        writer.close()
        assert "answered" == await application.ended.get()
    assert [200] == application.statuses


@on_loops
async def test_requests_other_than_inferences_are_left_to_serve(application: Application) -> None:
    async with serving(application) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"body", path="/v2/health/live"))
        await application.began.wait()
        writer.close()
        application.go_on.set()
        assert "answered" == await application.ended.get()
    assert [False] == application.unwatched


async def test_a_client_that_has_left_before_is_not_worked_for() -> None:
    client, worked, sent = Client(), [], []
    client.leave()

    async def work() -> None:
        worked.append(True)

    async def send(message: Any) -> None:
        sent.append(message["status"])

    with pytest.raises(asyncio.CancelledError):
        await client.served(work, send)
    assert ([], [CLIENT_LEFT]) == (worked, sent)


async def test_a_request_that_somebody_else_cancels_has_no_status() -> None:
    client, began, sent = Client(), asyncio.Event(), []

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    task = asyncio.create_task(client.served(work, send))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [] == sent


async def test_the_end_of_one_request_does_not_forget_the_next() -> None:
    """The first request's work continues when the client has its answer and sends the next."""
    client, first_ends, second_began = Client(), asyncio.Event(), asyncio.Event()

    async def second() -> None:
        second_began.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        pass

    async def first() -> None:
        await first_ends.wait()

    before = asyncio.create_task(client.served(first, send))
    await asyncio.sleep(0)
    after = asyncio.create_task(client.served(second, send))
    await second_began.wait()
    first_ends.set()
    await before
    client.leave()
    with pytest.raises(asyncio.CancelledError):
        await after
