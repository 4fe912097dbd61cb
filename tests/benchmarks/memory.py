"""A process of its own that loads many rows, and says how long it took and how much memory."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import citykit
from tests.benchmarks.bench import forget, memory
from tests.benchmarks.loading import cities


async def main(kind: str, rows: int, path: Path) -> None:
    """Load from a frame in memory, or from a Parquet or CSV file in chunks."""
    if kind == "write":
        if path.suffix == ".csv":
            cities(rows).to_csv(path, index=False)
        else:
            cities(rows).to_parquet(path, index=False, row_group_size=100_000)
        return
    engine = await citykit.connect()
    await citykit.create_tables(engine, reset=True)
    source: citykit.Source = cities(rows) if kind == "frame" else path
    forget()
    before = memory("VmRSS")
    started = time.perf_counter()
    report = await citykit.load_cities(engine, source)
    seconds = time.perf_counter() - started
    assert report.inserted == rows
    figures = {"seconds": seconds, "before": before, "peak": memory("VmHWM"), "plan": report.plan}
    print(json.dumps(figures))  # noqa: T201  read by the benchmark
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
