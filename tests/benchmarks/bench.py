"""Jobs and contenders, timed in turns, and the table of their ratios."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import inspect
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from tests.benchmarks.servers import Processes

MANY_ROUNDS = 100  # of what takes so little that giving free memory back would be most of a round

Contender = Callable[[], Awaitable[Any] | Any]


@dataclass(frozen=True)
class Target:
    """A bound on citykit's time, as a multiple of another contender's; "best": of the fastest peer's."""

    peer: str
    ratio: float


@dataclass
class Job:
    """One piece of work that several contenders do, each after `prepare`."""

    name: str
    contenders: dict[str, Contender]
    targets: list[Target]
    prepare: Callable[[], Awaitable[Any]] | None = None
    peers: tuple[str, ...] = ()  # among which "best" is looked for; empty: all but citykit
    rounds: int = 3
    limit: float | None = None  # of citykit's time, in seconds
    server: Processes | None = None  # whose use of the processors is shown, beside that of this process
    source: float | None = None  # MiB of what is loaded
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # of the client, of the server
    peak: dict[str, float] = field(default_factory=dict)  # MiB above what this process held before, at most
    result: float | None = None  # MiB of the frame that citykit returned
    failed: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Time every contender in turns, so that a noisy minute meets all of them.

        Every other round goes backwards, so that nobody always works in the caches that one other has left.
        """
        for number in range(self.rounds):
            turns = list(self.contenders.items())
            for name, contender in reversed(turns) if number % 2 else turns:
                if name in self.failed:
                    continue
                if self.prepare:
                    await self.prepare()
                if self.rounds < MANY_ROUNDS:
                    forget()
                held = memory("VmRSS")
                server = self.server.seconds() if self.server else 0.0
                client, started = time.process_time(), time.perf_counter()
                try:
                    result = await called(contender)
                except Exception as exc:
                    if name == "citykit":
                        raise
                    self.failed[name] = " ".join(str(exc).split())[:100]
                    continue
                self.seconds.setdefault(name, []).append(time.perf_counter() - started)
                client = time.process_time() - client
                await asyncio.sleep(0.05 if self.server else 0)  # until the postmaster has seen who ended
                server = self.server.seconds() - server if self.server else 0.0
                self.cpu.setdefault(name, []).append((client, server))
                if self.rounds < MANY_ROUNDS:
                    self.peak[name] = max(self.peak.get(name, 0.0), memory("VmHWM") - held)
                if name == "citykit" and isinstance(result, pd.DataFrame):
                    self.result = mebibytes(result)
                del result

    def median(self, name: str) -> float:
        """Return the median time of a contender, in seconds."""
        return statistics.median(self.seconds[name])

    def outcomes(self) -> list[tuple[Target, str, float]]:
        """Return each target, the peer that it came to, and citykit's ratio to it."""
        found = []
        for target in self.targets:
            peers = self.peers or tuple(name for name in self.seconds if name != "citykit")
            peer = min(peers, key=self.median) if target.peer == "best" else target.peer
            if peer in self.seconds:
                found.append((target, peer, self.median("citykit") / self.median(peer)))
        return found

    def lines(self) -> list[str]:
        """Return the job as lines of Markdown."""
        lines = [
            f"### {self.name}",
            "",
            "| contender | median | least | most | client CPU | server CPU | memory | citykit is |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        ours = self.median("citykit")
        for name in sorted(self.seconds, key=self.median):
            times = self.seconds[name]
            ratio = "" if name == "citykit" else f"{ours / self.median(name):.2f} times"
            client, server = (statistics.median(each) for each in zip(*self.cpu[name], strict=True))
            figures = [*map(shown, (self.median(name), min(times), max(times), client))]
            figures.append(shown(server) if self.server else "")
            figures.append(f"{self.peak[name]:.0f} MiB" if name in self.peak else "")
            lines.append(f"| {name} | {' | '.join(figures)} | {ratio} |")
        lines += [f"| {name} | cannot: {reason} | | | | | | |" for name, reason in self.failed.items()]
        lines.append("")
        for target, peer, times_as_long in self.outcomes():
            verdict = "reached" if times_as_long <= target.ratio else "**missed**"
            lines.append(f"- {times_as_long:.2f} times {peer}; the target is {target.ratio:g}: {verdict}")
        if self.limit is not None:
            verdict = "reached" if ours <= self.limit else "**missed**"
            lines.append(f"- {shown(ours)}; the target is {shown(self.limit)}: {verdict}")
        bound, of = None, ""
        if self.source is not None:
            bound, of = 64 + 0.1 * self.source, f"beside a frame of {self.source:.0f} MiB"
        elif self.result is not None and self.server:
            bound, of = 2 * self.result, f"with a result of {self.result:.0f} MiB"
        if bound is not None:
            verdict = "reached" if self.peak["citykit"] <= bound else "**missed**"
            lines.append(f"- {self.peak['citykit']:.0f} MiB {of}; the target is {bound:.0f} MiB: {verdict}")
        return [*lines, ""]


async def called(contender: Contender) -> Any:
    """Call a contender, in a thread where it blocks; return what it does."""
    if inspect.iscoroutinefunction(contender):
        return await contender()
    result = await asyncio.to_thread(contender)
    return await result if inspect.isawaitable(result) else result


def shown(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 0.01 else f"{seconds * 1e6:.0f} µs"


def memory(word: str) -> float:
    """Return a figure of this process, in MiB: VmRSS now, VmHWM at most since `forget`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{word}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def forget() -> None:
    """Begin the peak anew at what is used now; what is free goes back to the system before."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def mebibytes(rows: pa.Table | pd.DataFrame) -> float:
    """Return what the rows hold in memory."""
    if isinstance(rows, pa.Table):
        return float(rows.nbytes) / 2**20
    return float(rows.memory_usage(deep=True).sum()) / 2**20
