"""What an error of a load says to type works when it is typed."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from tests.support.database import execute

TABLE = sa.Table(
    "hinted",
    sa.MetaData(),
    sa.Column("k", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("v", sa.Integer, info={"low": 0}),
)
FRAME = pd.DataFrame({"k": [1, 2], "v": [1, 1]})
DROP = "DROP TABLE IF EXISTS hinted CASCADE"
PLAIN = "CREATE TABLE hinted (k int PRIMARY KEY, v int)"

# What is there under the name of the table.
NO_TABLES = {
    "materialized view": "CREATE MATERIALIZED VIEW hinted AS SELECT 1 AS k, 1 AS v",
    "sequence": "CREATE SEQUENCE hinted",
    "index": "CREATE INDEX hinted ON cities (latitude)",
    "type": "CREATE TYPE hinted AS (k int, v int)",
}
# A table that refuses the load, and the words after which the error has SQL.
UNFIT = {
    "a used-up sequence": (
        "CREATE TABLE hinted (k int PRIMARY KEY, v int, "
        "id int GENERATED ALWAYS AS IDENTITY (START 9 MAXVALUE 9))",
        "with SQL: ",
    ),
    "an identity that is always generated": (
        "CREATE TABLE hinted (k int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int)",
        "let it take values: ",
    ),
    "a sequence behind its column": (
        "CREATE TABLE hinted (k int UNIQUE, v int, id serial PRIMARY KEY); "
        "INSERT INTO hinted SELECT n + 10, n, n FROM generate_series(1, 50) n",
        "run it again: ",
    ),
}


async def load(engine: AsyncEngine) -> int:
    return (await citykit.load_frame(engine, FRAME, TABLE, key="k")).inserted


async def test_a_table_that_is_not_there_is_made_by_what_the_error_says(engine: AsyncEngine) -> None:
    await execute(engine, DROP)
    with pytest.raises(citykit.MissingTableError, match="no table hinted") as caught:
        await load(engine)
    typed = str(caught.value).partition("Create it first: ")[2]
    made: dict[str, Any] = {}
    exec(f"async def typed(engine, table):\n    {typed}", made)  # noqa: S102  what a user types
    await made["typed"](engine, TABLE)
    assert await load(engine) == 2
    await execute(engine, DROP)


async def test_a_missing_table_is_the_same_error_for_any_number_of_rows(engine: AsyncEngine) -> None:
    await execute(engine, DROP)
    sources: list[Any] = [FRAME, FRAME[:0], [FRAME], [FRAME[:0]], []]
    for source in sources:
        with pytest.raises(citykit.MissingTableError, match=r"no table hinted; nothing was loaded"):
            await citykit.load_frame(engine, source, TABLE)


async def test_citykits_own_table_is_made_by_create_tables(engine: AsyncEngine) -> None:
    await execute(engine, "DROP TABLE cities")
    with pytest.raises(citykit.MissingTableError, match=r": await citykit.create_tables\(engine\)$"):
        await citykit.load_cities(engine, pd.DataFrame({"name": ["a"], "population": [1]}))


@pytest.mark.parametrize("kind", NO_TABLES)
async def test_what_is_no_table_gets_another_name(engine: AsyncEngine, kind: str) -> None:
    await execute(engine, DROP, NO_TABLES[kind])
    with pytest.raises(citykit.CitykitError, match=f"hinted is a {kind}, .*nothing was loaded") as caught:
        await load(engine)
    await execute(engine, str(caught.value).partition("create the table: ")[2], PLAIN)
    assert await load(engine) == 2
    await execute(engine, DROP, f"DROP {kind} other_name")


@pytest.mark.parametrize("fault", UNFIT)
async def test_a_table_is_mended_by_the_sql_that_the_error_says(engine: AsyncEngine, fault: str) -> None:
    made, before = UNFIT[fault]
    await execute(engine, DROP, *made.split("; "))
    with pytest.raises(citykit.CitykitError, match="nothing was loaded") as caught:
        await load(engine)
    typed = str(caught.value).rpartition(before)[2].removesuffix("; nothing was loaded.")
    await execute(engine, *typed.split("; "))
    assert await load(engine) == 2
    await execute(engine, DROP)


async def test_a_table_that_is_to_be_made_gets_the_key_that_the_error_asks_for(engine: AsyncEngine) -> None:
    await execute(engine, DROP)
    options: dict[str, Any] = {"create": True, "on_conflict": "update"}
    with pytest.raises(ValueError, match=r"nothing was loaded\. .*: key=\[…\]$") as caught:
        await citykit.load_frame(engine, FRAME, "hinted", **options)
    with pytest.raises(citykit.MissingTableError):
        await citykit.load_frame(engine, FRAME, "hinted")
    typed = str(caught.value).rpartition(": ")[2].replace("…", "'k'")
    key = eval(f"dict({typed})")  # noqa: S307  what a user types
    assert (await citykit.load_frame(engine, FRAME, "hinted", **options, **key)).inserted == 2
    assert (await citykit.load_frame(engine, FRAME.assign(v=2), "hinted", **options)).updated == 2
    await execute(engine, DROP)


@pytest.mark.parametrize("key", [None, "k", ["v", "k"]])
@pytest.mark.parametrize("name", ["hinted", 'own."Hin.ted"'])
async def test_a_table_without_a_unique_constraint_gets_it_by_the_sql_that_the_error_says(
    engine: AsyncEngine, name: str, key: Any
) -> None:
    await execute(engine, DROP, "DROP SCHEMA IF EXISTS own CASCADE", "CREATE SCHEMA own")
    await citykit.create_table(engine, name, FRAME)
    for policy in ("update", "skip"):
        with pytest.raises(ValueError, match="othing was loaded") as caught:
            await citykit.load_frame(engine, FRAME, name, key=key, on_conflict=policy)
    await execute(engine, str(caught.value).rpartition("with SQL: ")[2].replace("…", "k"))
    assert (await citykit.load_frame(engine, FRAME, name, on_conflict="update")).inserted == 2
    assert (await citykit.load_frame(engine, FRAME, name, key=key, on_conflict="skip")).skipped == 2
    await execute(engine, DROP, "DROP SCHEMA own CASCADE")


@pytest.mark.parametrize("key", [None, "k", ["v", "k"]])
async def test_a_table_of_python_gets_a_unique_constraint_by_what_the_error_says(
    engine: AsyncEngine, key: Any
) -> None:
    await execute(engine, DROP, "CREATE TABLE hinted (k int, v int)")
    table = sa.Table("hinted", sa.MetaData(), sa.Column("k", sa.Integer), sa.Column("v", sa.Integer))
    with pytest.raises(ValueError, match="othing was loaded") as caught:
        await citykit.load_frame(engine, FRAME, table, key=key, on_conflict="update")
    typed = str(caught.value).rpartition("in Python: ")[2].replace("…", '"k"')
    exec(typed, {"table": table, "sqlalchemy": sa})  # noqa: S102  what a user types
    with pytest.raises(citykit.CitykitError, match="with SQL: ") as refused:
        await citykit.load_frame(engine, FRAME, table, on_conflict="update")
    await execute(engine, str(refused.value).rpartition("with SQL: ")[2])
    assert (await citykit.load_frame(engine, FRAME, table, on_conflict="update")).inserted == 2
    await execute(engine, DROP)


async def test_a_choice_of_unique_constraints_is_made_by_what_the_error_says(engine: AsyncEngine) -> None:
    await execute(engine, DROP, "CREATE TABLE hinted (k int UNIQUE, v int, UNIQUE (v, k))")
    with pytest.raises(ValueError, match="2 unique constraints") as caught:
        await citykit.load_frame(engine, FRAME, "hinted", on_conflict="update")
    for typed in str(caught.value).rpartition(": ")[2].split(" or "):
        key = eval(f"dict({typed})")  # noqa: S307  what a user types
        await citykit.load_frame(engine, FRAME, "hinted", on_conflict="update", **key)
    await execute(engine, DROP)


async def test_a_view_is_not_told_to_have_a_constraint(engine: AsyncEngine) -> None:
    await execute(engine, DROP, PLAIN, "CREATE VIEW hinted_view AS SELECT * FROM hinted")
    for key in (None, "k"):
        with pytest.raises(ValueError, match=r"othing was loaded\. .*table behind it") as caught:
            await citykit.load_frame(engine, FRAME, "hinted_view", key=key, on_conflict="update")
        assert "ALTER" not in str(caught.value)
    await execute(engine, DROP)
