"""Clients that ask the nodes of a cluster all the time, check each answer, and keep the account.

Half of them speak KServe v2 over HTTP, half over gRPC, each with a tensor of its own size. A client
has one address and one connection, as a simple one has. When that fails it goes on at the next
address, and does not ask again for what it lost.
"""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import grpc
import httpx
import numpy as np
import openvino as ov
import openvino.opset15 as op

from benchmarks.bodies import HEADER, head
from deployments.ingress.protos import kserve_v2_pb2 as kserve

MODEL: Final = "plus-one"
CLIENTS: Final = 16
PATIENCE_S: Final = 30.0
SIZES: Final = (10, 100, 1_000, 60_000)
"""Columns of a client's tensor: messages, and one that is handed over in shared memory or, between
nodes, by reference."""
_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_PAUSE_S: Final = 0.1
_FEW: Final = 5

Outcome: TypeAlias = Literal["right", "wrong", "failed", "refused"]
"""`refused`: no connection could be made, so nothing was asked. `failed`: an error was answered, or
the connection ended, or there was no answer within 30 s."""


def plus_one() -> ov.Model:
    """[N,L] in, the same plus one out."""
    data = op.parameter([-1, -1], ov.Type.f32, name="data")
    data.output(0).set_names({"data"})
    total = op.add(data, op.constant(np.float32(1)))
    total.output(0).set_names({"sum"})
    return ov.Model([op.result(total)], [data], MODEL)


@dataclass(frozen=True)
class Address:
    http: str
    grpc: str


@dataclass
class Account:
    """What became of the requests since the last `begin`.

    A client sends the same request all the time, so one after a failure is that one's repetition:
    `again` counts those that failed too. `longest_s` is of what was answered.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    again: int = 0
    longest_s: float = 0.0
    reasons: list[str] = field(default_factory=list)
    _last: dict[int, Outcome] = field(default_factory=dict)

    def begin(self) -> None:
        self.outcomes.clear()
        self.again, self.longest_s = 0, 0.0
        self.reasons.clear()
        self._last.clear()

    def note(self, client: int, outcome: Outcome, seconds: float = 0.0, reason: str = "") -> None:
        self.outcomes[outcome] += 1
        if outcome == "refused":
            return
        if outcome == "right":
            self.longest_s = max(self.longest_s, seconds)
        elif len(self.reasons) < _FEW:
            self.reasons.append(reason)
        self.again += outcome == "failed" == self._last.get(client)
        self._last[client] = outcome

    async def answered(self, count: int) -> None:
        """When so many were answered."""
        while self.outcomes["right"] < count:  # noqa: ASYNC110 - the clients have other things to do
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def crowd(addresses: Sequence[Address], pause_s: float = 0.0) -> AsyncIterator[Account]:
    """Clients at work for the time of the context; they start one after the other at an address.

    Each pauses after an answer: what recovers on the same processors is not to wait for clients.
    """
    account = Account()
    clients = [
        asyncio.ensure_future(
            (_over_grpc if number % 2 else _over_http)(account, addresses, number, pause_s)
        )
        for number in range(CLIENTS)
    ]
    try:
        yield account
    finally:
        for client in clients:
            client.cancel()
        ended = await asyncio.gather(*clients, return_exceptions=True)
        broken = [error for error in ended if not isinstance(error, asyncio.CancelledError)]
        if broken:
            raise RuntimeError(f"clients broke: {broken}")


def _tensor(number: int) -> Any:
    return np.full((1, SIZES[number // 2 % len(SIZES)]), number, np.float32)


async def _over_http(
    account: Account, addresses: Sequence[Address], number: int, pause_s: float
) -> None:
    for address in itertools.cycle(_from(number, addresses)):
        async with httpx.AsyncClient(
            base_url=address.http, timeout=PATIENCE_S, verify=False
        ) as client:
            while await _noted(account, number, _asked_http(client, number), pause_s):
                pass
        await asyncio.sleep(_PAUSE_S)


async def _over_grpc(
    account: Account, addresses: Sequence[Address], number: int, pause_s: float
) -> None:
    for address in itertools.cycle(_from(number, addresses)):
        async with grpc.aio.insecure_channel(address.grpc) as channel:
            while await _noted(account, number, _asked_grpc(channel, number), pause_s):
                pass
        await asyncio.sleep(_PAUSE_S)


async def _noted(
    account: Account, number: int, asked: Awaitable[tuple[Outcome, str]], pause_s: float
) -> bool:
    """Whether the answer was right; after the pause."""
    began = time.monotonic()
    outcome, reason = await asked
    account.note(number, outcome, time.monotonic() - began, f"client {number}: {reason}")
    await asyncio.sleep(pause_s)
    return outcome == "right"


async def ask_http(address: Address, number: int) -> Outcome:
    """What the client of this number gets, once."""
    async with httpx.AsyncClient(base_url=address.http, timeout=PATIENCE_S, verify=False) as client:
        return (await _asked_http(client, number))[0]


async def ask_grpc(address: Address, number: int) -> Outcome:
    """What the client of this number gets, once."""
    async with grpc.aio.insecure_channel(address.grpc) as channel:
        return (await _asked_grpc(channel, number))[0]


async def _asked_http(client: httpx.AsyncClient, number: int) -> tuple[Outcome, str]:
    tensor = _tensor(number)
    start = head("FP32", tensor.shape, tensor.nbytes)
    try:
        reply = await client.post(
            f"/v2/models/{MODEL}/infer",
            content=start + tensor.tobytes(),
            headers={HEADER: str(len(start))},
        )
    except httpx.ConnectError as error:
        return "refused", str(error)
    except httpx.TransportError as error:
        return "failed", f"{error!r} from {client.base_url}"
    if reply.status_code != 200:
        return "failed", f"{reply.status_code} {reply.text[:200]} from {client.base_url}"
    return _checked(reply.content[int(reply.headers[HEADER]) :], tensor)


async def _asked_grpc(channel: grpc.aio.Channel, number: int) -> tuple[Outcome, str]:
    tensor = _tensor(number)
    request = kserve.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="data", datatype="FP32", shape=tensor.shape)
    request.raw_input_contents.append(tensor.tobytes())
    infer: Any = channel.unary_unary(_INFER)
    try:
        reply = await infer(request.SerializeToString(), timeout=PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        unasked = "failed to connect" in str(error.details())
        return "refused" if unasked else "failed", f"{error.code().name} {error.details()}"
    return _checked(kserve.ModelInferResponse.FromString(reply).raw_output_contents[0], tensor)


def _from(number: int, addresses: Sequence[Address]) -> list[Address]:
    """The client's own address first."""
    start = number // 2 % len(addresses)
    return [*addresses[start:], *addresses[:start]]


def _checked(sums: bytes, tensor: Any) -> tuple[Outcome, str]:
    right = sums == (tensor + 1).tobytes()
    return ("right", "") if right else ("wrong", f"{len(sums)} bytes that are not the sums")
