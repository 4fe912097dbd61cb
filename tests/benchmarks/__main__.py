"""Measure citykit against its peers on this machine, in one run.

``python -m tests.benchmarks`` needs the extra ``bench`` and one or two hours. It starts servers in a
directory of its own and writes ``tests/benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import psutil
import typer
from sqlalchemy import text

import citykit
from tests.benchmarks import lineitem, loading, own_data, reading, servers, shapes, web
from tests.benchmarks.bench import Job, shown

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = (
    "sqlalchemy", "asyncpg", "pandas", "pyarrow",
    "adbc-driver-postgresql", "polars", "sqlspec", "psycopg", "pangres", "connectorx", "duckdb",
)  # fmt: skip


def machine(server: str) -> list[str]:
    """Return what the figures depend on."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    memory = psutil.virtual_memory().total / 2**30
    return [
        f"- {datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, {memory:.0f} GiB; load before: {os.getloadavg()[0]:.1f}",
        f"- Python {platform.python_version()}, PostgreSQL {server} (embedded), {versions}",
    ]


def large(rows: int, seconds_per_row: float, disk: Path) -> list[str]:
    """Load many rows in processes of their own, whose memory is theirs alone."""

    def measured(kind: str, name: str = "rows.parquet") -> dict[str, float]:
        command = [sys.executable, "-m", "tests.benchmarks.memory", kind, str(rows), str(disk / name)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return dict(json.loads(printed)) if printed else {}

    frame = measured("frame")
    measured("write")
    file = measured("file")
    measured("write", "large.csv")
    csv = measured("file", "large.csv")
    added = frame["peak"] - frame["before"]
    ratio = frame["seconds"] / rows / seconds_per_row
    return [
        f"### {rows:,} rows into the empty table",
        "",
        f"- {shown(frame['seconds'])}; a row takes {ratio:.2f} times as long as above; the target is 1.5: "
        + ("reached" if ratio <= 1.5 else "**missed**"),
        f"- {added:.0f} MiB above the frame (of {frame['before']:.0f} MiB); the target is 256 MiB: "
        + ("reached" if added <= 256 else "**missed**"),
        f"- from a Parquet file in chunks: {shown(file['seconds'])}, {file['peak']:.0f} MiB in all; "
        "the target is 512 MiB: " + ("reached" if file["peak"] <= 512 else "**missed**"),
        f"- from a CSV file: {shown(csv['seconds'])}, {csv['peak']:.0f} MiB in all; the target is 400 MiB: "
        + ("reached" if csv["peak"] <= 400 else "**missed**"),
        "",
    ]


async def measure(rows: int, only: str, disk: Path, many: int) -> list[str]:
    """Run the jobs whose name has `only` in it, and return them as Markdown."""
    engine = await citykit.connect()
    server = loading.Server(engine, disk)
    async with engine.connect() as connection:
        version = str(await connection.scalar(text("SHOW server_version")))
    lines = machine(version)
    lines.append("")

    async def run(jobs: Iterable[Job]) -> list[Job]:
        chosen = []
        for job in jobs:
            if only.lower() in job.name.lower():
                await job.run()
                typer.echo("\n".join(job.lines()))
                lines.extend(job.lines())
                chosen.append(job)
        return chosen

    jobs = await run(loading.jobs(server, rows, 0.25))
    first = next((job for job in jobs if "empty table" in job.name and f"{rows:,}" in job.name), None)
    if many and first is not None:
        lines += await asyncio.to_thread(large, many, first.median("citykit") / rows, disk)
        typer.echo("\n".join(lines[-7:]))
    await run(own_data.jobs(server, rows))
    await run(await reading.jobs(server, rows, many))
    if only.lower() in "web":
        lines += (of_web := await web.lines(server, rows))
        typer.echo("\n".join(of_web))
    await engine.dispose()
    items = await asyncio.to_thread(lineitem.rows_of, rows, disk)
    ways = {"embedded": ("the embedded server's settings", servers.EMBEDDED), "stock": ("stock settings", {})}
    for folder, (where, settings) in ways.items():
        with servers.started(disk / folder, settings) as (uri, processes):
            engine = await citykit.connect(uri)
            await run(lineitem.jobs(engine, uri, processes, items, where))
            if settings:
                await run(shapes.jobs(engine, uri, processes, rows))
            else:
                of_cities = loading.jobs(loading.Server(engine, disk, uri), rows, 0.35)[:2]
                await run([dataclasses.replace(job, name=f"{job.name} ({where})") for job in of_cities])
            await engine.dispose()
    return lines


def main(
    rows: Annotated[int, typer.Option(help="Rows of the table.")] = 1_000_000,
    many: Annotated[int, typer.Option(help="Rows of the largest load; 0: leave it out.")] = 10_000_000,
    only: Annotated[str, typer.Option(help="Only the jobs named so, or web; writes no file.")] = "",
) -> None:
    """Measure citykit against its peers."""
    with tempfile.TemporaryDirectory(prefix="citykit-bench-") as directory:
        disk = Path(directory)
        disk.chmod(0o755)
        os.environ["CITYKIT_HOME"] = str(disk / "home")
        os.environ.pop("CITYKIT_URL", None)
        lines = asyncio.run(measure(rows, only, disk, many))
    if not only and rows == 1_000_000:
        RESULTS.write_text(
            "\n".join(["# Results", "", "`python -m tests.benchmarks`", "", *lines]), encoding="utf-8"
        )


if __name__ == "__main__":
    typer.run(main)
