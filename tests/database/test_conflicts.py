"""A transaction of a helper's own that conflicts with another is made again; exactly one has an effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.load.loading import load_rows
from citykit.load.plan import FEW_ROWS
from tests.load.test_every_plan import PLANS
from tests.support.database import scalar, stored

SERIALIZABLE = {"server_settings": {"default_transaction_isolation": "serializable"}}
COUNTED = "citykit_conflict_attempts"
ATTEMPTS = f"SELECT last_value FROM {COUNTED}"  # noqa: S608
Helper = Callable[[Any], Coroutine[Any, Any, Any]]


def frame(count: int) -> pd.DataFrame:
    return pd.DataFrame({"name": [f"n{n}" for n in range(count)], "population": 5})


HELPERS: dict[str, Helper] = {
    "add_city": lambda bind: citykit.add_city(bind, "n0", 5),
    "load_cities of few": lambda bind: citykit.load_cities(bind, frame(10), on_conflict="update"),
    "load_cities of many": lambda bind: citykit.load_cities(bind, frame(FEW_ROWS), on_conflict="update"),
    "load_cities, straight": lambda bind: citykit.load_cities(bind, frame(10)),
    "load_cities of many, straight": lambda bind: citykit.load_cities(bind, frame(FEW_ROWS)),
    "read_frame": lambda bind: citykit.read_frame(
        bind, "INSERT INTO cities (name, population) VALUES ('n0', 5) RETURNING name, now()"
    ),
    "stream_frames": lambda bind: streamed(bind),
}


async def streamed(bind: Any) -> None:
    sql = "INSERT INTO cities (name, population) VALUES ('n0', 5) RETURNING name"
    assert [len(frame) async for frame in citykit.stream_frames(bind, sql)] == [1]


async def refused(engine: AsyncEngine, code: str, times: int, *, deferred: bool) -> None:
    """Let the server refuse that many transactions which write to the table, as it refuses a conflict."""
    when = "CONSTRAINT TRIGGER refusing AFTER INSERT OR UPDATE ON cities DEFERRABLE INITIALLY DEFERRED"
    if not deferred:
        when = "TRIGGER refusing BEFORE INSERT OR UPDATE ON cities"
    async with engine.begin() as connection:
        await connection.execute(text(f"DROP SEQUENCE IF EXISTS {COUNTED} CASCADE"))
        await connection.execute(text(f"CREATE SEQUENCE {COUNTED}"))  # which no rollback sets back
        await connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION refuse_conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"IF nextval('{COUNTED}') <= {times} THEN "
                f"RAISE 'a conflict' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$"
            )
        )
        await connection.execute(text("DROP TRIGGER IF EXISTS refusing ON cities"))
        await connection.execute(text(f"CREATE {when} FOR EACH ROW EXECUTE FUNCTION refuse_conflict()"))


AT_THE_COMMIT = [helper for helper in HELPERS if helper != "stream_frames"]
CASES = [(helper, False) for helper in HELPERS] + [(helper, True) for helper in AT_THE_COMMIT]


@pytest.mark.parametrize("code", ["40001", "40P01"])
@pytest.mark.parametrize(
    ("helper", "deferred"), CASES, ids=[f"{h}{' at the COMMIT' * deferred}" for h, deferred in CASES]
)
async def test_a_conflict_is_tried_again_and_has_its_effect_once(
    engine: AsyncEngine, helper: str, code: str, deferred: bool
) -> None:
    await refused(engine, code, 2, deferred=deferred)
    await HELPERS[helper](engine)
    rows = await stored(engine)
    assert {name for name, *_ in rows} == {"n0", *frame(len(rows))["name"]}
    await refused(engine, code, 10**6, deferred=deferred)
    with pytest.raises(citykit.CitykitError, match=r"a conflict; .*run it again"):
        await citykit.load_cities(engine, frame(10).assign(population=6), on_conflict="update")
    assert await scalar(engine, ATTEMPTS) == 3
    assert await stored(engine) == rows


@pytest.mark.parametrize("source", ["frame", "generator"])
@pytest.mark.parametrize("count", [10, FEW_ROWS])
async def test_a_conflict_of_another_table_at_the_commit_itself_is_tried_again(
    engine: AsyncEngine, count: int, source: str
) -> None:
    """The load does not know of that constraint, and leaves it to the COMMIT."""
    logs = "CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (1); "
    await refused(engine, "40001", 2, deferred=True)
    async with engine.begin() as connection:
        for statement in (
            "DROP TRIGGER refusing ON cities",
            "DROP TABLE IF EXISTS log",
            "DROP FUNCTION IF EXISTS logs",
            "CREATE TABLE log (n int)",
            f"{logs} RETURN NULL; END $$",
            "CREATE TRIGGER logs AFTER INSERT ON cities FOR EACH STATEMENT EXECUTE FUNCTION logs()",
            "CREATE CONSTRAINT TRIGGER refusing AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION refuse_conflict()",
        ):
            await connection.exec_driver_sql(statement)
    if source == "frame":
        assert (await citykit.load_cities(engine, frame(count))).inserted == count
        assert await scalar(engine, "SELECT count(*) FROM log") == 1
    else:
        with pytest.raises(citykit.CitykitError, match="a conflict"):
            await citykit.load_cities(engine, iter([frame(count)]))
    stored_now = await stored(engine)
    assert len(stored_now) == (count if source == "frame" else 0)


@pytest.mark.parametrize("deferred", [False, True], ids=["at once", "at the COMMIT"])
@pytest.mark.parametrize("policy", ["error", "skip", "update"])
@pytest.mark.parametrize("plan", [plan for plan, (_, streamed) in PLANS.items() if not streamed])
async def test_a_conflict_under_every_plan_is_tried_again(
    engine: AsyncEngine, plan: str, policy: Any, deferred: bool
) -> None:
    options: dict[str, Any] = {"key": None, "on_conflict": policy, "on_invalid": "error"}
    await citykit.add_city(engine, "n0", 1)
    given = frame(10)[int(policy == "error") :]
    await refused(engine, "40001", 2, deferred=deferred)
    report = await load_rows(engine, given, citykit.City, limits=PLANS[plan][0], **options)
    assert report.inserted == 9
    assert await scalar(engine, ATTEMPTS) >= 3
    assert {name for name, *_ in await stored(engine)} == set(frame(10)["name"])


@pytest.mark.parametrize("helper", HELPERS)
async def test_a_conflict_in_a_callers_transaction_is_raised_at_once(
    engine: AsyncEngine, helper: str
) -> None:
    await refused(engine, "40001", 1, deferred=False)
    async with engine.connect() as connection:
        with pytest.raises(citykit.CitykitError, match="a conflict"):
            await HELPERS[helper](connection)
        assert await connection.scalar(text(ATTEMPTS)) == 1
        await connection.commit()
    assert await stored(engine) == {}


async def test_the_conflict_of_a_source_that_cannot_be_read_twice_is_raised(engine: AsyncEngine) -> None:
    await refused(engine, "40001", 1, deferred=False)
    with pytest.raises(citykit.CitykitError, match="a conflict"):
        await citykit.load_cities(engine, iter([frame(10)]))
    assert await stored(engine) == {}


async def test_a_conflict_after_a_frame_was_handed_over_is_raised(engine: AsyncEngine) -> None:
    await refused(engine, "40001", 1, deferred=True)
    with pytest.raises(citykit.CitykitError, match="a conflict"):
        await HELPERS["stream_frames"](engine)
    assert await stored(engine) == {}


async def test_serializable_sessions_that_add_up_at_once_all_succeed(engine: AsyncEngine) -> None:
    other = await citykit.connect(engine.url, connect_args=SERIALIZABLE)
    await citykit.add_city(engine, "n0", 0)
    # Each reads what the other writes: one of two at once has to be made again.
    sql = "INSERT INTO cities (name, population) SELECT :name, count(*) FROM cities RETURNING now(), name"
    both = [citykit.read_frame(other, sql, {"name": f"added {n}"}) for n in range(2)]
    await asyncio.gather(*both)
    assert sorted(row[0] for row in (await stored(engine)).values()) == [0, 1, 2]
    await other.dispose()
