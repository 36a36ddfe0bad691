"""Clients that send requests to the nodes of a cluster all the time, and check each answer.

Half of them use KServe v2 over HTTP, half over gRPC, each with a tensor of its own size. A client
has one address and one connection, like a simple client. When that fails it goes on at the next
address, without a retry of the lost request.
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
"""Columns of a client's tensor. The largest one travels in shared memory or, between nodes, by
reference, the others in messages."""
_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_PAUSE_S: Final = 0.1
_FEW: Final = 5

Outcome: TypeAlias = Literal["right", "wrong", "failed", "refused"]
"""`refused`: the client could not connect, so it sent nothing. `failed`: the answer was an error,
the connection ended, or the request timed out after 30 s."""


def plus_one() -> ov.Model:
    """A model that adds one to [N,L]."""
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
    """Counts the outcomes of requests since the last `begin`.

    A client sends the same request all the time, so the one after a failure is a retry: `again`
    counts retries that failed too. `longest_s` is the longest time of an answered request.
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
        """Waits until `count` requests were answered."""
        while self.outcomes["right"] < count:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def crowd(addresses: Sequence[Address]) -> AsyncIterator[Account]:
    """Runs the clients during the context; each pair starts at the next address."""
    account = Account()
    clients = [
        asyncio.ensure_future(
            (_over_grpc if number % 2 else _over_http)(account, addresses, number)
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


async def _over_http(account: Account, addresses: Sequence[Address], number: int) -> None:
    for address in itertools.cycle(_from(number, addresses)):
        async with httpx.AsyncClient(
            base_url=address.http, timeout=PATIENCE_S, verify=False
        ) as client:
            while await _counted(account, number, _send_http(client, number)):
                pass
        await asyncio.sleep(_PAUSE_S)


async def _over_grpc(account: Account, addresses: Sequence[Address], number: int) -> None:
    for address in itertools.cycle(_from(number, addresses)):
        async with grpc.aio.insecure_channel(address.grpc) as channel:
            while await _counted(account, number, _send_grpc(channel, number)):
                pass
        await asyncio.sleep(_PAUSE_S)


async def _counted(account: Account, number: int, request: Awaitable[tuple[Outcome, str]]) -> bool:
    """Counts the outcome of a request; returns whether the answer was right."""
    began = time.monotonic()
    outcome, reason = await request
    account.note(number, outcome, time.monotonic() - began, f"client {number}: {reason}")
    return outcome == "right"


async def ask_http(address: Address, number: int) -> Outcome:
    """Sends one request of the client with this number."""
    async with httpx.AsyncClient(base_url=address.http, timeout=PATIENCE_S, verify=False) as client:
        return (await _send_http(client, number))[0]


async def ask_grpc(address: Address, number: int) -> Outcome:
    """Sends one request of the client with this number."""
    async with grpc.aio.insecure_channel(address.grpc) as channel:
        return (await _send_grpc(channel, number))[0]


async def _send_http(client: httpx.AsyncClient, number: int) -> tuple[Outcome, str]:
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


async def _send_grpc(channel: grpc.aio.Channel, number: int) -> tuple[Outcome, str]:
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
    """The addresses, starting with the client's own."""
    start = number // 2 % len(addresses)
    return [*addresses[start:], *addresses[:start]]


def _checked(sums: bytes, tensor: Any) -> tuple[Outcome, str]:
    right = sums == (tensor + 1).tobytes()
    return ("right", "") if right else ("wrong", f"{len(sums)} bytes that are not the sums")
