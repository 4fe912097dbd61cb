"""Loading, adding and asking, against a real server."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import citykit
from citykit.load.plan import FEW_ROWS
from citykit.load.source import CHUNK_ROWS
from tests.support.database import scalar, stored

Policy = Literal["error", "skip", "update"]


def many(count: int) -> pd.DataFrame:
    return pd.DataFrame({"name": [f"city {i}" for i in range(count)], "population": np.arange(count)})


# Conflict rules: loading equals adding one by one


class Model:
    """The rule in plain Python: rows are added one by one, in order, to a dict."""

    def __init__(self, rows: dict[tuple[str, ...], dict[str, Any]] | None = None) -> None:
        self.rows = {key: dict(row) for key, row in (rows or {}).items()}
        self.counts = {"inserted": 0, "updated": 0, "skipped": 0}
        self.duplicates: list[tuple[str, ...]] = []

    def add(self, row: dict[str, Any], policy: Policy) -> None:
        key = (row["name"], row.get("country", ""), row.get("region", ""))
        values = {name: value for name, value in row.items() if name not in ("name", "country", "region")}
        if key not in self.rows:
            self.rows[key] = {"population": None, "latitude": None, "longitude": None, **values}
            self.counts["inserted"] += 1
            return
        if policy == "error":
            self.duplicates.append(key)
        changed = {**self.rows[key], **values}
        if policy == "update" and changed != self.rows[key]:
            self.rows[key] = changed
            self.counts["updated"] += 1
        else:
            self.counts["skipped"] += 1


FEW = st.sampled_from(["a", "b"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": FEW,
    "country": FEW,
    "region": FEW,
    "population": st.integers(0, 2),
    "latitude": st.sampled_from([None, 0.5, 1.5]),
    "longitude": st.sampled_from([None, 0.5]),
}


@st.composite
def loads(draw: st.DrawFn) -> tuple[list[str], list[dict[str, Any]]]:
    optional = draw(st.lists(st.sampled_from(["country", "region", "latitude", "longitude"]), unique=True))
    columns = ["name", "population", *optional]
    return columns, draw(
        st.lists(st.fixed_dictionaries({name: VALUES[name] for name in columns}), max_size=8)
    )


@settings(max_examples=150)
@given(st.lists(st.tuples(loads(), st.sampled_from(get_args(Policy))), min_size=1, max_size=4))
async def test_loading_a_frame_equals_adding_its_rows_one_by_one(
    engine: AsyncEngine, steps: list[tuple[tuple[list[str], list[dict[str, Any]]], Policy]]
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE cities"))
    model = Model()
    for (columns, rows), policy in steps:
        after = Model(model.rows)
        for row in rows:
            after.add(row, policy)
        frame = pd.DataFrame(rows, columns=columns)
        if after.duplicates:
            with pytest.raises(citykit.DuplicateCityError) as caught:
                await citykit.load_cities(engine, frame, on_conflict=policy)
            assert sorted(caught.value.keys) == sorted(set(after.duplicates))
        else:
            report = await citykit.load_cities(engine, frame, on_conflict=policy)
            assert {word: getattr(report, word) for word in after.counts} == after.counts
            model = after
        assert await stored(engine) == {key: tuple(row.values()) for key, row in model.rows.items()}


# What is loaded is what is stored


async def test_what_is_loaded_is_what_is_stored(engine: AsyncEngine, three_cities: pd.DataFrame) -> None:
    report = await citykit.load_cities(engine, three_cities)
    assert (report.inserted, report.updated, report.skipped) == (3, 0, 0)
    assert report.rejects.empty
    assert report.seconds > 0
    assert await stored(engine) == {
        ("Reykjavík", "IS", "39"): (118_918, 64.13548, -21.89541),
        ("London", "GB", "ENG"): (8_961_989, 51.50853, -0.12574),
        ("London", "CA", "08"): (422_324, None, None),
    }


async def test_text_is_stored_as_given(engine: AsyncEngine) -> None:
    names = [
        " ", " a ", '"', "a,b", "a\tb", "a\nb", "a\r\nb", "\\.", "x\n\\.\ny", "\\N", "NULL", "null",
        "'; DROP TABLE cities; --", "$1",
        ":name", "%s", "東京", "Zürich", "Zu\u0308rich", "🏙", "İstanbul", "\u202eabc", "\u200b", "ﬁ",
    ]  # fmt: skip
    await citykit.load_cities(engine, pd.DataFrame({"name": names, "population": 1}))
    assert {name for name, *_ in await stored(engine)} == set(names)
    for name in names:
        with pytest.raises(citykit.DuplicateCityError):
            await citykit.add_city(engine, name, 1)


async def test_a_missing_country_is_empty_text_and_namibia_stays(engine: AsyncEngine) -> None:
    frame = pd.DataFrame(
        {"name": ["Windhoek", "Atlantis"], "country": ["NA", None], "population": [268_132, 0]}
    )
    await citykit.load_cities(engine, frame)
    assert set(await stored(engine)) == {("Windhoek", "NA", ""), ("Atlantis", "", "")}


async def test_a_frame_of_no_rows_loads_and_reports_zero(engine: AsyncEngine) -> None:
    for frame in (pd.DataFrame({"name": [], "population": []}), citykit.world_cities().head(0)):
        for policy in get_args(Policy):
            report = await citykit.load_cities(engine, frame, on_conflict=policy)
            assert (report.inserted, report.updated, report.skipped) == (0, 0, 0)


async def test_more_rows_than_one_chunk(engine: AsyncEngine) -> None:
    frame = many(CHUNK_ROWS + 10)
    assert (await citykit.load_cities(engine, frame)).inserted == len(frame)
    assert await scalar(engine, "SELECT sum(population) FROM cities") == frame["population"].sum()


async def test_update_leaves_columns_that_the_frame_lacks(
    engine: AsyncEngine, three_cities: pd.DataFrame
) -> None:
    await citykit.load_cities(engine, three_cities)
    newer = pd.DataFrame(
        {"name": ["Reykjavík"], "country": ["IS"], "region": ["39"], "population": [140_000]}
    )
    report = await citykit.load_cities(engine, newer, on_conflict="update")
    assert (report.inserted, report.updated, report.skipped) == (0, 1, 0)
    assert (await stored(engine))["Reykjavík", "IS", "39"] == (140_000, 64.13548, -21.89541)


async def test_rows_that_do_not_change_are_not_rewritten(
    engine: AsyncEngine, three_cities: pd.DataFrame
) -> None:
    await citykit.load_cities(engine, three_cities)
    before = await scalar(engine, "SELECT string_agg(ctid::text || xmin::text, ',' ORDER BY id) FROM cities")
    report = await citykit.load_cities(engine, three_cities, on_conflict="update")
    assert report.skipped == 3
    after = await scalar(engine, "SELECT string_agg(ctid::text || xmin::text, ',' ORDER BY id) FROM cities")
    assert before == after


# Refusals


async def test_a_duplicate_refuses_the_whole_frame_and_names_the_keys(
    engine: AsyncEngine, three_cities: pd.DataFrame
) -> None:
    await citykit.load_cities(engine, three_cities.head(1))
    frame = pd.concat([three_cities, three_cities.tail(1)])
    with pytest.raises(citykit.DuplicateCityError, match="nothing was loaded") as caught:
        await citykit.load_cities(engine, frame)
    assert caught.value.keys == [("Reykjavík", "IS", "39"), ("London", "CA", "08")]
    assert "('Reykjavík', 'IS', '39')" in str(caught.value)
    assert "on_conflict='skip'" in str(caught.value)
    assert len(await stored(engine)) == 1
    assert (await citykit.load_cities(engine, frame, on_conflict="skip")).inserted == 2


async def test_many_duplicates_are_counted_and_not_all_printed(engine: AsyncEngine) -> None:
    frame = many(1_000)
    await citykit.load_cities(engine, frame)
    with pytest.raises(
        citykit.DuplicateCityError, match=r"1,000 rows are already there.* and 995 more"
    ) as caught:
        await citykit.load_cities(engine, frame)
    assert len(caught.value.keys) == 1_000
    assert len(str(caught.value)) < 500


async def test_a_bad_row_at_the_very_end_refuses_the_whole_frame(engine: AsyncEngine) -> None:
    frame = many(100_000)
    frame.loc[99_999, "population"] = -1
    with pytest.raises(citykit.InvalidFrameError, match="row label 99999: -1"):
        await citykit.load_cities(engine, frame)
    assert await stored(engine) == {}


async def test_bad_rows_can_be_left_out(engine: AsyncEngine) -> None:
    frame = pd.DataFrame(
        {"name": ["a", "b", ""], "population": [1, -1, -1], "latitude": [0, 91, 0]}, index=["x", "y", "z"]
    )
    report = await citykit.load_cities(engine, frame, on_invalid="skip")
    assert (report.inserted, report.updated, report.skipped) == (1, 0, 0)
    assert report.rejects[["row", "column", "reason"]].to_numpy().tolist() == [
        ["y", "population", "negative"],
        ["y", "latitude", "above 90"],
        ["z", "name", "empty"],
        ["z", "population", "negative"],
    ]
    assert set(await stored(engine)) == {("a", "", "")}


@pytest.mark.parametrize("argument", ["on_conflict", "on_invalid"])
async def test_a_policy_that_does_not_exist_is_refused(engine: AsyncEngine, argument: str) -> None:
    options: dict[str, Any] = {argument: "replace"}
    with pytest.raises(ValueError, match=f"{argument} is one of 'error', 'skip'.*, not 'replace'"):
        await citykit.load_cities(engine, many(1), **options)


async def test_a_missing_table_is_named_with_the_call_that_creates_it(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE cities"))
    hint = r"cities.*await citykit.create_tables\(engine\)"
    with pytest.raises(citykit.MissingTableError, match=hint):
        await citykit.load_cities(engine, many(1))
    with pytest.raises(citykit.MissingTableError, match=hint):
        await citykit.add_city(engine, "a", 1)
    with pytest.raises(citykit.MissingTableError, match=hint):
        await citykit.biggest_cities(engine)
    await citykit.create_tables(engine)
    assert (await citykit.load_cities(engine, many(1))).inserted == 1


# All or nothing


async def test_a_load_that_is_cancelled_leaves_no_row_and_a_connection_that_works(
    engine: AsyncEngine,
) -> None:
    frame = many(3 * CHUNK_ROWS)
    loading: asyncio.Task[citykit.LoadReport]

    def cancel_half_way(done: int, total: int) -> None:
        if done > total / 2:
            loading.cancel()

    loading = asyncio.create_task(citykit.load_cities(engine, frame, progress=cancel_half_way))
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert await stored(engine) == {}
    assert (await citykit.load_cities(engine, frame)).inserted == len(frame)


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02, 0.05, 0.1, 0.2])
async def test_a_load_cancelled_at_any_moment_is_all_or_nothing(engine: AsyncEngine, delay: float) -> None:
    loading = asyncio.create_task(citykit.load_cities(engine, many(20_000), on_conflict="update"))
    await asyncio.wait([loading], timeout=delay)
    loading.cancel()
    done = await asyncio.gather(loading, return_exceptions=True)
    count = await scalar(engine, "SELECT count(*) FROM cities")
    # Cancelled while the commit is on its way, it may have happened; but all of it.
    assert count in ((0, 20_000) if isinstance(done[0], BaseException) else (20_000,))
    assert (await citykit.load_cities(engine, many(20_000), on_conflict="skip")).inserted == 20_000 - count


@pytest.mark.parametrize("rows", [10, 2 * FEW_ROWS])
@pytest.mark.parametrize("before", [0, 1])
async def test_a_load_cancelled_as_its_plan_begins_leaves_nothing_behind(
    engine: AsyncEngine, rows: int, before: int
) -> None:
    """Not even a coroutine that was never awaited, of which Python would speak."""
    await citykit.load_cities(engine, many(before).assign(region="elsewhere"))

    async def cancelled() -> None:
        loading = asyncio.create_task(citykit.load_cities(engine, many(rows)))
        event.listen(engine.sync_engine, "savepoint", lambda *_: loading.cancel(), once=True)
        with pytest.raises(asyncio.CancelledError):
            await loading

    await cancelled()
    gc.collect()
    assert len(await stored(engine)) == before
    assert (await citykit.load_cities(engine, many(rows))).inserted == rows


async def test_an_error_in_the_callback_leaves_no_row(engine: AsyncEngine) -> None:
    def fail(_done: int, _total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await citykit.load_cities(engine, many(10), progress=fail)
    assert await stored(engine) == {}
    assert (await citykit.load_cities(engine, many(10))).inserted == 10


@pytest.mark.parametrize("rows", [10, 3 * CHUNK_ROWS])
async def test_an_error_in_the_callback_leaves_the_callers_transaction_usable(
    engine: AsyncEngine, rows: int
) -> None:
    def fail(_done: int, _total: int) -> None:
        raise ZeroDivisionError

    async with engine.begin() as connection:
        await citykit.add_city(connection, "before", 1)
        with pytest.raises(ZeroDivisionError):
            await citykit.load_cities(connection, many(rows), progress=fail)
        await citykit.load_cities(connection, many(2))
    assert set(await stored(engine)) == {("before", "", ""), ("city 0", "", ""), ("city 1", "", "")}


async def test_a_connection_lost_at_the_commit_is_not_said_to_have_stored_nothing(
    engine: AsyncEngine,
) -> None:
    # A deferred trigger ends the connection while it commits.
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION end_it() RETURNS trigger LANGUAGE plpgsql AS "
                "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"
            )
        )
        await connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER end_it AFTER INSERT ON cities DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION end_it()"
            )
        )
    with pytest.raises(citykit.DatabaseUnavailableError, match="may have been stored"):
        await citykit.add_city(engine, "one", 1)  # a load has such triggers fire before it commits
    assert await stored(engine) == {}


async def test_a_process_killed_while_it_loads_leaves_no_row(engine: AsyncEngine) -> None:
    script = f"""
import os, signal, citykit
from tests.cities.test_store import many
async def main():
    engine = await citykit.connect()
    kill = lambda done, total: done > total / 2 and os.kill(os.getpid(), signal.SIGKILL)
    await citykit.load_cities(engine, many({3 * CHUNK_ROWS}), progress=kill)
citykit.run(main())
"""
    killed = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert await stored(engine) == {}
    assert (await citykit.load_cities(engine, many(10))).inserted == 10


async def test_a_server_connection_killed_while_it_loads_is_said_and_leaves_no_row(
    engine: AsyncEngine,
) -> None:
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE query LIKE 'COPY%cities%' AND pid <> pg_backend_pid() AND datname = current_database()"
    )
    frame = many(8 * CHUNK_ROWS)
    killing: list[asyncio.Task[Any]] = []

    def kill_once(_done: int, _total: int) -> None:
        if not killing:
            killing.append(asyncio.create_task(scalar(engine, kill)))

    with pytest.raises(citykit.DatabaseUnavailableError, match=r"lost.*not stored"):
        await citykit.load_cities(engine, frame, progress=kill_once)
    assert await killing[0] == 1
    assert await stored(engine) == {}
    assert (await citykit.load_cities(engine, many(10))).inserted == 10


@pytest.mark.parametrize("policy", get_args(Policy))
async def test_two_loads_of_the_same_keys_at_once(engine: AsyncEngine, policy: Policy) -> None:
    one, two = many(5_000), many(5_000).iloc[::-1].assign(population=7)
    done = await asyncio.gather(
        *(citykit.load_cities(engine, frame, on_conflict=policy) for frame in (one, two)),
        return_exceptions=True,
    )
    reports = [report for report in done if isinstance(report, citykit.LoadReport)]
    assert sum(report.inserted for report in reports) == 5_000
    assert len(await stored(engine)) == 5_000
    if policy == "error":
        [error] = [error for error in done if isinstance(error, BaseException)]
        assert isinstance(error, citykit.DuplicateCityError)
        assert len(error.keys) == 5_000
    else:
        assert len(reports) == 2


async def test_loads_and_resets_at_once_do_not_deadlock(engine: AsyncEngine) -> None:
    repeated = pd.concat([many(1), many(1)])

    async def load() -> None:
        for _ in range(15):
            with pytest.raises(citykit.DuplicateCityError):
                await citykit.load_cities(engine, repeated)

    async def reset() -> None:
        for _ in range(15):
            await citykit.create_tables(engine, reset=True)

    await asyncio.gather(load(), reset(), load(), reset())
    assert await stored(engine) == {}


async def test_eight_updates_of_overlapping_keys_at_once_do_not_deadlock(engine: AsyncEngine) -> None:
    frames = [many(2_000).sample(frac=1, random_state=i).assign(population=i) for i in range(8)]
    reports = await asyncio.gather(*(citykit.load_cities(engine, f, on_conflict="update") for f in frames))
    assert sum(report.inserted for report in reports) == 2_000
    populations = {population for population, *_ in (await stored(engine)).values()}
    assert len(populations) == 1  # as if one had come after the other


# Whose transaction


async def test_with_a_connection_the_caller_commits(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await citykit.load_cities(connection, many(3))
        await citykit.add_city(connection, "another", 5)
        assert len(await citykit.biggest_cities(connection)) == 4
        assert await stored(engine) == {}
        await connection.rollback()
    assert await stored(engine) == {}
    async with engine.begin() as connection:
        await citykit.load_cities(connection, many(3))
        await citykit.load_cities(connection, many(5), on_conflict="skip")
    assert len(await stored(engine)) == 5


async def test_with_a_session_the_caller_commits(engine: AsyncEngine) -> None:
    async with citykit.sessions(engine)() as session:
        await citykit.load_cities(session, many(3))
        city = await citykit.add_city(session, "another", 5)
        assert city in session
        assert await stored(engine) == {}
        await session.commit()
        assert city.name == "another"  # readable after the commit
    assert len(await stored(engine)) == 4


@pytest.mark.parametrize("kind", ["connection", "session"])
async def test_a_failed_helper_leaves_the_callers_transaction_usable(
    engine: AsyncEngine, kind: str, three_cities: pd.DataFrame
) -> None:
    async with AsyncSession(engine) as session, engine.connect() as connection:
        bind = session if kind == "session" else connection
        await citykit.load_cities(bind, three_cities)
        with pytest.raises(citykit.DuplicateCityError):
            await citykit.load_cities(bind, three_cities)
        with pytest.raises(citykit.DuplicateCityError):
            await citykit.add_city(bind, "London", 1, country="GB", region="ENG")
        with pytest.raises(citykit.InvalidFrameError):
            await citykit.load_cities(bind, three_cities.assign(population=-1))
        with pytest.raises(ValueError, match="n is the number of cities"):
            await citykit.biggest_cities(bind, 0)
        await citykit.add_city(bind, "Akureyri", 18_925, country="IS")
        await bind.commit()
    assert len(await stored(engine)) == 4


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE"])
async def test_an_engine_of_any_isolation_level_is_all_or_nothing(
    engine: AsyncEngine, three_cities: pd.DataFrame, level: str
) -> None:
    other = await citykit.connect(engine.url, isolation_level=level)
    await citykit.load_cities(other, three_cities)
    with pytest.raises(citykit.DuplicateCityError) as caught:
        await citykit.load_cities(other, pd.concat([many(1), three_cities]))
    assert len(caught.value.keys) == 3
    await citykit.add_city(other, "another", 1)
    await other.dispose()
    assert len(await stored(engine)) == 4


async def test_a_connection_in_autocommit_is_refused_with_the_way_out(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(citykit.CitykitError, match="Give the engine"):
            await citykit.load_cities(connection, many(1))


async def test_a_transaction_that_has_failed_is_said_to_have_failed(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT 1/0"))
        with pytest.raises(citykit.CitykitError, match=r"await connection.rollback\(\)"):
            await citykit.load_cities(connection, many(1))
        await connection.rollback()
        await citykit.load_cities(connection, many(1))
        await connection.commit()
    assert len(await stored(engine)) == 1


async def test_a_write_that_is_not_allowed_names_the_reason(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(citykit.CitykitError, match=r"read-only.*nothing was changed"):
            await citykit.add_city(connection, "a", 1)
        assert (await citykit.biggest_cities(connection)).empty


@pytest.mark.parametrize(
    ("bind", "hint"),
    [(None, "await citykit.connect"), ("postgresql://localhost", "await citykit.connect"), (5, "await")],
)
async def test_other_things_than_binds_are_refused(bind: Any, hint: str) -> None:
    with pytest.raises(
        TypeError, match=rf"an AsyncEngine, AsyncConnection or AsyncSession is needed.*{hint}"
    ):
        await citykit.biggest_cities(bind)


async def test_a_forgotten_await_is_named(engine: AsyncEngine) -> None:
    forgotten: Any = citykit.connect()
    with pytest.raises(TypeError, match="put await before the call"):
        await citykit.biggest_cities(forgotten)
    factory: Any = citykit.sessions(engine)
    with pytest.raises(TypeError, match="call it to make a session"):
        await citykit.biggest_cities(factory)


# One city


async def test_adding_a_city(engine: AsyncEngine) -> None:
    city = await citykit.add_city(engine, "Springfield", 114_394, country="US", region="IL", latitude=39.8)
    assert city.id >= 1
    assert repr(city) == "City('Springfield', country='US', region='IL', population=114394, latitude=39.8)"
    assert await stored(engine) == {("Springfield", "US", "IL"): (114_394, 39.8, None)}


async def test_a_city_that_exists_is_refused_by_its_key(engine: AsyncEngine) -> None:
    await citykit.add_city(engine, "Springfield", 114_394, country="US", region="IL")
    await citykit.add_city(engine, "Springfield", 155_929, country="US", region="MA")
    with pytest.raises(citykit.DuplicateCityError, match=r"^The city is already stored") as caught:
        await citykit.add_city(engine, "Springfield", 5, country="US", region="IL")
    assert caught.value.keys == [("Springfield", "US", "IL")]
    assert "Springfield, US, IL" in str(caught.value)
    assert (await stored(engine))["Springfield", "US", "IL"] == (114_394, None, None)


@pytest.mark.parametrize("kind", ["engine", "connection", "session"])
async def test_an_id_given_twice_is_not_called_a_stored_city_and_its_mend_works(
    engine: AsyncEngine, kind: str
) -> None:
    await citykit.load_cities(engine, many(60_000))
    newer = many(5).assign(name=[f"newer {n}" for n in range(5)])
    large = many(25_000).assign(name=[f"newer {n}" for n in range(25_000)])
    async with engine.connect() as connection, AsyncSession(connection) as session:
        bind: Any = {"engine": engine, "connection": connection, "session": session}[kind]
        for adding in (
            lambda: citykit.add_city(bind, "new", 1),
            lambda: citykit.load_cities(bind, newer),
            lambda: citykit.load_cities(bind, newer, on_conflict="skip"),
            lambda: citykit.load_cities(bind, newer, on_conflict="update"),
            lambda: citykit.load_cities(bind, large),
            lambda: citykit.load_cities(bind, large, on_conflict="skip"),
        ):
            await connection.execute(text("SELECT setval('cities_id_seq', 1)"))
            with pytest.raises(citykit.CitykitError, match="numbering is behind its id") as caught:
                await adding()
            assert not isinstance(caught.value, citykit.DuplicateKeyError)
        mend = str(caught.value).rpartition(": ")[2]
        await connection.execute(text(mend))
        await citykit.load_cities(bind, newer)
        assert (await citykit.add_city(bind, "new", 1)).id > 60_005


async def test_another_constraint_than_the_key_is_no_stored_city(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE UNIQUE INDEX one_population ON cities (population)"))
    await citykit.add_city(engine, "a", 1)
    with pytest.raises(citykit.DuplicateKeyError, match="one_population") as caught:
        await citykit.add_city(engine, "b", 1)
    assert not isinstance(caught.value, citykit.DuplicateCityError)
    for count in (2, 30_000):
        with pytest.raises(citykit.DuplicateKeyError, match="one_population") as caught:
            await citykit.load_cities(engine, many(count).assign(population=range(1, count + 1)))
        assert not isinstance(caught.value, citykit.DuplicateCityError)


async def test_an_error_of_the_server_is_not_its_own_cause(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE cities ADD CHECK (population <> 5)"))
    with pytest.raises(citykit.CitykitError, match="nothing was changed") as caught:
        await citykit.add_city(engine, "new", 5)
    assert isinstance(refused := caught.value.__cause__, DBAPIError)
    assert refused.__cause__ is not refused


async def test_an_error_of_another_pending_object_is_not_blamed_on_the_new_city(engine: AsyncEngine) -> None:
    async with citykit.sessions(engine)() as session:
        session.add_all([citykit.City(name="twice", population=1), citykit.City(name="twice", population=2)])
        with pytest.raises(citykit.CitykitError, match="twice") as caught:
            await citykit.add_city(session, "new", 5)
        assert not isinstance(caught.value, citykit.DuplicateKeyError)
        await session.rollback()


async def test_of_many_that_add_the_same_city_at_once_one_succeeds(engine: AsyncEngine) -> None:
    done = await asyncio.gather(
        *(citykit.add_city(engine, "a", i) for i in range(20)), return_exceptions=True
    )
    assert sum(isinstance(result, citykit.City) for result in done) == 1
    assert sum(isinstance(result, citykit.DuplicateCityError) for result in done) == 19


@pytest.mark.parametrize(
    ("name", "population", "said"),
    [
        ("", 5, r"name '' cannot be stored \(empty\)"),
        ("a", -5, r"population -5 cannot be stored \(negative\).*\n.*0 or more"),
        ("a", 1.5, "fractional"),
        pytest.param("a", 10**5000, "population a very long int cannot be stored", id="of 5,001 digits"),
        ("a", "five", "not a number"),
        ("a", "5.000", "like a number with thousands dots"),
        (None, 5, "missing"),
        ("a\0", 5, "NUL"),
        ("a\ud800", 5, "lone surrogate"),
    ],
)
async def test_a_bad_city_is_refused(engine: AsyncEngine, name: Any, population: Any, said: str) -> None:
    with pytest.raises(citykit.InvalidFrameError, match=said):
        await citykit.add_city(engine, name, population)
    assert await stored(engine) == {}


async def test_numpy_numbers_are_numbers(engine: AsyncEngine) -> None:
    await citykit.add_city(engine, "a", np.int64(5), latitude=np.float64(1.5))  # type: ignore[arg-type]
    assert await stored(engine) == {("a", "", ""): (5, 1.5, None)}


# The report


def test_the_repr_of_a_report_has_its_counts() -> None:
    rejects = pd.DataFrame({"row": [3], "column": ["name"], "value": ["<b>"], "reason": ["odd"]})
    report = citykit.LoadReport(12_345, 1, 0, rejects, 1.234)
    assert repr(report) == "<LoadReport: 12,345 inserted, 1 updated, 0 skipped, 1 bad values in 1.23 s>"
    html = report._repr_html_()
    assert "12,345" in html
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


# Progress


async def test_the_callback_is_called_for_every_chunk(engine: AsyncEngine) -> None:
    heard: list[tuple[int, int]] = []
    total = 2 * CHUNK_ROWS + 1
    await citykit.load_cities(engine, many(total), progress=lambda done, rows: heard.append((done, rows)))
    assert heard == [(CHUNK_ROWS, total), (2 * CHUNK_ROWS, total), (total, total)]


async def test_progress_goes_forward_when_a_load_is_tried_a_second_way(engine: AsyncEngine) -> None:
    await citykit.load_cities(engine, many(5))
    heard: list[int] = []
    frame = many(3 * CHUNK_ROWS)
    with pytest.raises(citykit.DuplicateCityError):
        await citykit.load_cities(engine, frame, progress=lambda done, _: heard.append(done))
    assert heard == [CHUNK_ROWS, 2 * CHUNK_ROWS, 3 * CHUNK_ROWS]


@pytest.mark.parametrize(("progress", "bar"), [(None, False), (False, False), (True, True)])
async def test_a_bar_in_a_pipe_only_when_asked_for(
    engine: AsyncEngine, capsys: pytest.CaptureFixture[str], progress: bool | None, bar: bool
) -> None:
    await citykit.load_cities(engine, many(250_000), progress=progress)
    assert ("250k" in capsys.readouterr().err) is bar
