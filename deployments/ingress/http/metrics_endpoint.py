"""`GET /metrics`: this server's metrics from Ray's agents, one on each node."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import httpx

from deployments import timing
from deployments.errors import MetricsUnavailable

_OURS: Final = re.compile(r"(?:# (?:HELP|TYPE) )?ray_anyshape_")
_HEADER: Final = re.compile(r"# (?:HELP|TYPE) (\S+)")


class MetricsEndpoint:
    """Collects the metrics from all agents, at most once a second."""

    def __init__(self, agents: Callable[[], Sequence[str]]) -> None:
        """`agents` returns the agents' URLs; it may block."""
        self._agents = agents
        self._text = ""
        self._at = float("-inf")
        self._turn = asyncio.Lock()

    async def text(self) -> str:
        """The metrics in Prometheus's text format. Raises MetricsUnavailable."""
        async with self._turn:
            if time.monotonic() - self._at > timing.METRICS_FRESH_S:
                self._text = merged(await self._exported())
                self._at = time.monotonic()
            return self._text

    async def _exported(self) -> list[str]:
        urls = await asyncio.to_thread(self._agents)
        timeout_s = timing.METRICS_CALL_S
        async with httpx.AsyncClient(timeout=timeout_s, trust_env=False, verify=False) as client:
            replies = await asyncio.gather(*(client.get(u) for u in urls), return_exceptions=True)
        answered = [r.text for r in replies if isinstance(r, httpx.Response) and r.is_success]
        if not answered:
            raise MetricsUnavailable(len(urls))
        return answered


def merged(texts: Iterable[str]) -> str:
    """Merges this server's metrics from several exports, each metric's header once."""
    headers: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        metric = ""
        for line in filter(_OURS.match, text.splitlines()):
            if (header := _HEADER.match(line)) is None:
                samples.setdefault(metric, []).append(line)
                continue
            metric = header[1]
            lines = headers.setdefault(metric, [])
            if line not in lines:
                lines.append(line)
    lines = [line for name in headers for line in (*headers[name], *samples.get(name, ()))]
    return "".join(f"{line}\n" for line in lines)
