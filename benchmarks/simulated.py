"""A cluster of model replicas and ingresses in simulated time, with Serve's real router classes.

Deterministic: the same arguments give the same figures. It simulates the cluster, not the routing:
each ingress has a router of the class under test. The router chooses among simulated replicas, and
knows only what it would know in a real cluster.

A replica has two cores. It answers requests in parallel, in the order of arrival. It compiles one
shape at a time on one of its cores, while the requests of the shape wait. It keeps the compiled
shapes that were used last.
"""

import asyncio
import heapq
import itertools
import random
from bisect import bisect
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
)
from ray.serve.request_router import PendingRequest, RequestRouter

from deployments.inference import ShapeKey, shape_number
from deployments.ingress.routing.affinity import ShapeAffinity
from deployments.ingress.routing.router import ShapeRouter
from deployments.transport.batches import BatchCall
from deployments.transport.routing_stats import RoutingStats, in_requests

CORES = 2
SLOTS = 2 * CORES
REVISION = "1-simulated"
DEPLOYMENT = DeploymentID("model", "simulated")
STATS_S = 5.0


@dataclass(frozen=True)
class Load:
    """The load of a cluster; `busy` is the part of all cores that the inferences alone take.

    The popularity of the shapes follows Zipf's law with exponent 1. An inference takes 0.5 to 1.5
    times `inference_s`, depending on its shape.
    """

    shapes: int = 500
    busy: float = 0.2
    inference_s: float = 0.008
    compile_s: float = 0.06
    kept: int = 64
    requests_per_replica: int = 1000


@dataclass(frozen=True)
class Outcome:
    """The figures of a run; `imbalance` is the busiest replica's work time over the mean."""

    requests: int
    compiles: int
    hit_rate: float
    p50_s: float
    p99_s: float
    imbalance: float


@dataclass(slots=True)
class _Job:
    shape: int
    arrived: float
    done: Callable[[], None]


class SimulatedReplica:
    """Has the attributes that routers use, and runs requests in simulated time."""

    max_ongoing_requests = 2**31
    node_id = "node"
    availability_zone = None
    multiplexed_model_ids = frozenset[str]()

    def __init__(self, number: int, cluster: "Cluster") -> None:
        self.replica_id = ReplicaID(f"replica-{number}", DEPLOYMENT)
        self.cluster = cluster
        self.compiled: OrderedDict[int, None] = OrderedDict()
        self.compiles = self.hits = self.ongoing = 0
        self.worked_s = 0.0
        self._free = CORES
        self._ready: deque[_Job] = deque()
        self._wanted: OrderedDict[int, list[_Job]] = OrderedDict()
        self._compiling = False

    @property
    def routing_stats(self) -> dict[str, Any]:
        load = self.cluster.load
        cost = in_requests(load.compile_s, load.inference_s, CORES)
        return RoutingStats(frozenset(self.compiled), SLOTS, cost).as_stats()

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.ongoing

    def take(self, job: _Job) -> None:
        self.ongoing += 1
        if job.shape in self.compiled:
            self.hits += 1
            self.compiled.move_to_end(job.shape)
            self._ready.append(job)
        else:
            self._wanted.setdefault(job.shape, []).append(job)
        self._go_on()

    def _go_on(self) -> None:
        if self._free and self._wanted and not self._compiling:
            self._compiling = True
            shape = next(iter(self._wanted))
            self._work(self.cluster.load.compile_s, lambda: self._compiled(shape))
        while self._free and self._ready:
            job = self._ready.popleft()
            self._work(self.cluster.seconds[job.shape], partial(self._answered, job))

    def _work(self, seconds: float, then: Callable[[], None]) -> None:
        self._free -= 1
        self.worked_s += seconds

        def over() -> None:
            self._free += 1
            then()
            self._go_on()

        self.cluster.after(seconds, over)

    def _compiled(self, shape: int) -> None:
        self._compiling = False
        self.compiles += 1
        while len(self.compiled) >= self.cluster.load.kept:
            self.compiled.popitem(last=False)
        self.compiled[shape] = None
        self._ready.extend(self._wanted.pop(shape))

    def _answered(self, job: _Job) -> None:
        self.ongoing -= 1
        job.done()


class Ingress:
    """One router, with the calls that an ingress makes to it."""

    def __init__(self, router_class: type[RequestRouter], cluster: "Cluster") -> None:
        self.router: Any = router_class(
            deployment_id=DEPLOYMENT,
            handle_source=DeploymentHandleSource.REPLICA,
            self_node_id="node",
            use_replica_queue_len_cache=True,
            get_curr_time_s=cluster.time,
        )
        self.cluster = cluster
        if isinstance(self.router, ShapeRouter):
            self.router.affinity = ShapeAffinity(cluster.time)

    def hear(self) -> None:
        """Updates the router with the replicas' reports, as the controller does at intervals."""
        self.router.update_replicas(self.cluster.replicas)

    def send(self, shape: int) -> None:
        arrived = self.cluster.time()
        replica = _now(self._choose(shape))
        self.router.on_send_request(replica.replica_id)
        if isinstance(self.router, ShapeRouter):
            self.router.affinity.sent(replica.replica_id.unique_id, shape)

        def done() -> None:
            self.cluster.latencies.append(self.cluster.time() - arrived)
            self.router.decrement_queue_len_cache(replica.replica_id)
            if isinstance(self.router, ShapeRouter):
                name = replica.replica_id.unique_id
                self.router.affinity.reported(name, replica.ongoing + 1)
                self.router.affinity.answered(name)

        replica.take(_Job(shape, arrived, done))
        self.router.on_new_queue_len_info(replica.replica_id, replica.ongoing)

    async def _choose(self, shape: int) -> SimulatedReplica:
        metadata = RequestMetadata("", str(shape), session_id=str(shape))
        call = BatchCall(REVISION, self.cluster.keys[shape], (), None)
        request = PendingRequest([call], {}, metadata, future=self.cluster.future)
        replicas = self.cluster.replicas
        candidates, *_ = await self.router.choose_replicas(replicas, request)
        for replica in candidates:  # asks for queue lengths that have expired
            if self.router.replica_queue_len_cache.get(replica.replica_id) is None:
                self.router.on_new_queue_len_info(replica.replica_id, replica.ongoing)
        chosen = await self.router._select_from_candidate_replicas(candidates, 0)
        assert isinstance(chosen, SimulatedReplica)
        return chosen


@dataclass
class Cluster:
    """Replicas and ingresses; an ingress knows of others only through the replicas' reports."""

    load: Load
    router_class: type[RequestRouter]
    size: int
    ingresses: int
    seed: int = 0
    latencies: list[float] = field(default_factory=list)

    async def run(self) -> Outcome:
        """Runs the simulation. It is a coroutine because Serve's routers need an event loop."""
        # Serve's default router draws from the module's generator.
        random.seed(self.seed)
        generator = random.Random(self.seed)
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = itertools.count()
        self._now = 0.0
        sides = range(64, 64 + self.load.shapes)
        keys: list[ShapeKey] = [((-1, 3, side, side),) for side in sides]
        generator.shuffle(keys)
        self.keys = {shape_number(REVISION, key): key for key in keys}
        self.seconds = {
            shape: self.load.inference_s * generator.uniform(0.5, 1.5) for shape in self.keys
        }
        self.replicas = [SimulatedReplica(number, self) for number in range(self.size)]
        ingresses = [Ingress(self.router_class, self) for _ in range(self.ingresses)]
        for ingress in ingresses:
            ingress.hear()
        await asyncio.sleep(0)
        count = self.size * self.load.requests_per_replica
        heard = STATS_S
        for at, shape in self._arrivals(generator, count):
            self._advance(at)
            if at >= heard:
                heard += STATS_S
                for ingress in ingresses:
                    ingress.hear()
            generator.choice(ingresses).send(shape)
        self._advance(float("inf"))
        return self._outcome()

    def time(self) -> float:
        return self._now

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._ticket), then))

    def _advance(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self._now, _, then = heapq.heappop(self._events)
            then()
        if until < float("inf"):
            self._now = until

    def _arrivals(self, generator: random.Random, count: int) -> Iterator[tuple[float, int]]:
        """Poisson arrivals of shapes by Zipf's law."""
        shapes = list(self.keys)
        weights = [1 / rank for rank in range(1, len(shapes) + 1)]
        sums = list(itertools.accumulate(weights))
        work = sum(w * self.seconds[s] for w, s in zip(weights, shapes, strict=True)) / sums[-1]
        rate = self.load.busy * CORES * self.size / work
        at = 0.0
        for _ in range(count):
            at += generator.expovariate(rate)
            yield at, shapes[min(bisect(sums, generator.uniform(0, sums[-1])), len(shapes) - 1)]

    def _outcome(self) -> Outcome:
        ordered = sorted(self.latencies)
        worked = [replica.worked_s for replica in self.replicas]
        return Outcome(
            requests=len(ordered),
            compiles=sum(replica.compiles for replica in self.replicas),
            hit_rate=sum(replica.hits for replica in self.replicas) / len(ordered),
            p50_s=ordered[len(ordered) // 2],
            p99_s=ordered[int(len(ordered) * 0.99)],
            imbalance=max(worked) * len(worked) / sum(worked),
        )


def _now(coroutine: Coroutine[Any, Any, SimulatedReplica]) -> SimulatedReplica:
    """The result of a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: SimulatedReplica = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a router waited for something")
