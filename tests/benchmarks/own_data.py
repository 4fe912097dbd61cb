"""What belongs to people's own data, beside a load of a frame: files, new tables, other names."""

from __future__ import annotations

from typing import Any

import citykit
from tests.benchmarks.bench import Job, Target
from tests.benchmarks.loading import Server, cities
from tests.benchmarks.reading import FOUND

KEY = ["name", "country", "region"]


def jobs(server: Server, rows: int) -> list[Job]:
    """Return the jobs over so many rows."""
    engine, many = server.engine, f"{rows:,}"
    frame, path = cities(rows), server.disk / "cities.csv"
    frame.to_csv(path, index=False)
    searched = False

    def load(source: Any) -> Any:
        async def loaded() -> None:
            assert (await citykit.load_cities(engine, source)).inserted == rows

        return loaded

    async def empty() -> None:
        await server.fill(None)

    async def load_frame() -> None:
        await citykit.load_frame(engine, frame, citykit.City.__table__)

    async def new_table() -> None:
        await citykit.create_table(engine, "made", frame, key=KEY)
        await citykit.load_frame(engine, frame, "made")

    async def there() -> None:
        await citykit.load_frame(engine, frame, "there")

    async def one_table() -> None:
        await server.execute("DROP TABLE IF EXISTS made")
        await citykit.create_table(engine, "there", frame, key=KEY, if_exists="replace")
        await server.execute("CHECKPOINT")

    async def world() -> None:
        nonlocal searched
        if not searched:
            await server.fill(citykit.world_cities(500))
            await citykit.find_cities(engine, "a city")  # makes the indexes
            await server.execute("VACUUM ANALYZE")
            searched = True

    async def find() -> None:
        for name in FOUND:
            await citykit.find_cities(engine, name)

    return [
        Job(
            f"Load {many} rows of a CSV file", {"citykit": load(path), "the same as a frame": load(frame)},
            [Target("the same as a frame", 1.25)], empty, rounds=5,
        ),
        Job(
            f"Load {many} cities without other names",
            {"citykit": load(frame), "load_frame, which knows of none": load_frame},
            [Target("load_frame, which knows of none", 1.03)], empty, rounds=5,
        ),
        Job(
            f"create_table and load {many} rows", {"citykit": new_table, "load alone": there},
            [Target("load alone", 1.1)], one_table, rounds=5,
        ),
        Job(
            f"find_cities for {len(FOUND)} names, with other names", {"citykit": find}, [],
            world, rounds=9, limit=0.01 * len(FOUND),
        ),
    ]  # fmt: skip
