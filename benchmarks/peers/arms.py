"""The arms of the comparison with Python servers; each yields a URL and its wire format."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from benchmarks.peers.environments import InstallError, environment
from benchmarks.peers.servers import PEERS, started
from benchmarks.peers.wire import KSERVE_BINARY, Wire

Start: TypeAlias = Callable[[Path, Path], AbstractContextManager[str]]
OURS: Final = ("careful", "anyshape")


@dataclass(frozen=True)
class Arm:
    name: str
    wire: Wire
    start: Start


def peer_arms(names: list[str]) -> tuple[list[Arm], dict[str, str]]:
    """The peers whose environments exist or could be installed, and the errors of the others."""
    arms, left_out = [], {}
    for peer in PEERS:
        if peer.name not in names:
            continue
        try:
            commands = environment(peer.name)
        except InstallError as error:
            left_out[peer.name] = str(error)
            print(error, flush=True)
        else:
            arms.append(Arm(peer.name, peer.wire, partial(started, peer, commands)))
    return arms, left_out


def our_arms(names: list[str]) -> list[Arm]:
    """The careful one-process server and this project, as in the main benchmark."""
    return [Arm(name, KSERVE_BINARY, partial(_ours, name)) for name in OURS if name in names]


@contextmanager
def _ours(name: str, model: Path, directory: Path) -> Iterator[str]:
    from benchmarks.arms import SERVING
    from benchmarks.workloads import ONE_SHAPE

    with SERVING[name](model, ONE_SHAPE, directory) as target:
        yield target.url
