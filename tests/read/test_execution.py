"""Statements that return no rows: run once, in one transaction, and said by the server's own words."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam, delete, insert, text, update
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.cities.model import City
from citykit.read import Executed, run_cell
from tests.read.test_reading import KILL, failure, running
from tests.support.database import scalar
from tests.support.pgbouncer import needs_pgbouncer, pooled
from tests.support.proxy import proxied

BINDS = ["engine", "connection", "session", "run", "prepared_statement_cache_size=0", "pgbouncer"]
TIMES = pytest.mark.parametrize("binding", BINDS)


@asynccontextmanager
async def bound(engine: AsyncEngine, binding: str) -> AsyncIterator[tuple[AsyncEngine, Any]]:
    """Yield an engine, and one of the binds."""
    if binding == "pgbouncer":
        async with pooled(engine) as url:
            other = await citykit.connect(url)
            yield other, other
            await other.dispose()
        return
    options: dict[str, Any] = {"connect_args": {"prepared_statement_cache_size": 0}} if "=" in binding else {}
    other = await citykit.connect(engine.url, **options)
    if binding == "connection":
        async with other.begin() as connection:
            yield other, connection
    elif binding == "session":
        async with citykit.sessions(other).begin() as session:
            yield other, session
    else:
        yield other, other
    await other.dispose()


@pytest.fixture(params=[pytest.param(b, marks=needs_pgbouncer if b == "pgbouncer" else ()) for b in BINDS])
async def bind(request: pytest.FixtureRequest, engine: AsyncEngine) -> AsyncIterator[Any]:
    async with bound(engine, request.param) as (_, binding):
        yield binding


async def drop(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE IF EXISTS made, copied, temp"))


@pytest.fixture(autouse=True)
async def without_tables(engine: AsyncEngine) -> AsyncIterator[None]:
    await drop(engine)  # the tests of another file may have left them
    yield
    await drop(engine)


# What the server says

STATEMENTS: list[tuple[str, Any, str, int | None]] = [
    ("CREATE TABLE made (k int PRIMARY KEY, v text, d date)", None, "CREATE TABLE", None),
    ("INSERT INTO made SELECT i, 'x' FROM generate_series(1, 5) AS i;", None, "INSERT 0 5", 5),
    ("INSERT INTO made VALUES (:k, :v, :d::date)", {"k": 6, "v": "a'b", "d": "2024-02-29"}, "INSERT 0 1", 1),
    ("UPDATE made SET v = :v WHERE k IN :ks", {"v": None, "ks": [1, 2]}, "UPDATE 2", 2),
    ("UPDATE made SET v = v WHERE k IN :ks", {"ks": []}, "UPDATE 0", 0),
    ("-- gone\nDELETE FROM made WHERE k = :k", {"k": 1.7}, "DELETE 0", 0),
    ("DELETE FROM made WHERE k = ANY (:ks)", {"ks": [1, 2, 3]}, "DELETE 3", 3),
    ("CREATE TABLE copied AS SELECT * FROM made WHERE k > :k", {"k": 4}, "SELECT 2", 2),
    ("CREATE INDEX ON made (v)", None, "CREATE INDEX", None),
    ("COMMENT ON TABLE made IS ':no parameter; $1'", None, "COMMENT", None),
    ("DO $$ BEGIN DELETE FROM copied; END $$", None, "DO", None),
    ("SET LOCAL work_mem = '8MB'", None, "SET", None),
    ("TRUNCATE made", None, "TRUNCATE TABLE", None),
    (
        "CREATE FUNCTION made_f() RETURNS int LANGUAGE sql "
        "BEGIN ATOMIC SELECT 1; SELECT CASE 1 WHEN 1 THEN 2 END; END",
        None, "CREATE FUNCTION", None,
    ),
    ("DROP FUNCTION made_f", None, "DROP FUNCTION", None),
    ("DROP TABLE made, copied", None, "DROP TABLE", None),
]  # fmt: skip


async def test_every_bind_runs_statements_and_returns_the_servers_tag(bind: Any) -> None:
    for sql, params, tag, rows in STATEMENTS:
        done = await citykit.execute(bind, sql, params)
        assert (done.tag, done.rows, repr(done)) == (tag, rows, tag), sql
        assert pickle.loads(pickle.dumps(done)) == done  # noqa: S301


ddl: Any = sa.DDL  # which has no types
MADE = sa.Table("made", sa.MetaData(), sa.Column("k", sa.Integer, comment=r"a\b'"), schema="one")


async def test_constructs_of_sqlalchemy_are_run(bind: Any) -> None:
    cases: list[tuple[Any, Any, str]] = [
        (insert(City).values(name="a", population=5), None, "INSERT 0 1"),
        (
            insert(City).values([{"name": "b", "population": 5}, {"name": "c", "population": 6}]),
            None,
            "INSERT 0 2",
        ),
        (
            update(City).where(City.name.in_(["a", "b"])).values(population=City.population + 1),
            None,
            "UPDATE 2",
        ),
        (delete(City).where(City.population == bindparam("least")), {"least": 5.5}, "DELETE 0"),
        (text("DELETE FROM cities WHERE name = :name"), {"name": "c"}, "DELETE 1"),
        (delete(City), None, "DELETE 2"),
        (ddl("CREATE SCHEMA one;"), None, "CREATE SCHEMA"),
        (sa.schema.CreateTable(MADE), None, "CREATE TABLE"),
        (sa.schema.SetColumnComment(MADE.c.k), None, "COMMENT"),
        (sa.schema.DropTable(MADE), None, "DROP TABLE"),
        (sa.schema.DropSchema("one"), None, "DROP SCHEMA"),
    ]
    for statement, params, tag in cases:
        assert (await citykit.execute(bind, statement, params)).tag == tag


async def test_a_comment_in_ddl_of_sqlalchemy_means_what_the_session_reads(engine: AsyncEngine) -> None:
    made = sa.Table("made", sa.MetaData(), sa.Column("k", sa.Integer, comment=r"a\b'"))
    for conforming in ("on", "off"):
        async with engine.connect() as connection:
            await connection.exec_driver_sql(f"SET LOCAL standard_conforming_strings = {conforming}")
            await citykit.execute(connection, sa.schema.CreateTable(made))
            await citykit.execute(connection, sa.schema.SetColumnComment(made.c.k))
            found = await citykit.read_frame(connection, "SELECT col_description('made'::regclass, 1) AS x")
            assert found["x"].tolist() == [r"a\b'"]


async def test_ddl_of_sqlalchemy_takes_no_parameters(engine: AsyncEngine) -> None:
    said = await failure(citykit.execute(engine, ddl("CREATE SCHEMA one"), {"v": 1}))
    assert "there is no parameter 'v'" in said


class Odd(sa.types.TypeDecorator[int]):
    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:  # noqa: ARG002
        return {}[value]


@pytest.mark.parametrize(
    "bind",
    [
        sa.literal("x", sa.Boolean), sa.literal({1}, sa.JSON), sa.literal(5, sa.ARRAY(sa.Integer)),
        sa.literal("2", pg.BIT(1)), sa.literal({"a": 5}, pg.HSTORE), sa.literal(lambda: 1, sa.PickleType),
        sa.literal(5, Odd),
    ],
    ids=lambda bind: type(bind.type).__name__,
)  # fmt: skip
async def test_a_value_that_its_type_of_sqlalchemy_refuses_is_named(engine: AsyncEngine, bind: Any) -> None:
    for run in (citykit.read_frame, citykit.execute):
        said = await failure(run(engine, sa.select(bind)))
        assert "Parameter 'param_1' cannot be sent" in said
        assert f"the type {bind.type!r} of SQLAlchemy" in said


@pytest.mark.parametrize("sql", ["CREATE TABLE nope.made (a int)", "SELECT nope.made(1)"])
async def test_a_missing_schema_is_told_from_a_search_path_without_one(engine: AsyncEngine, sql: str) -> None:
    async with engine.connect() as connection:
        run = citykit.read_frame if "SELECT" in sql else citykit.execute
        said = await failure(run(connection, sql))
        assert "If the statement names no schema, search_path has none" in said
        await citykit.execute(connection, "CREATE SCHEMA nope")
        if run is citykit.execute:
            await citykit.execute(connection, sql)


async def test_a_default_that_sqlalchemy_alone_fills_in_is_not_left_out(engine: AsyncEngine) -> None:
    made = sa.Table("made", sa.MetaData(), sa.Column("k", sa.Integer), sa.Column("v", sa.Text, default="x"))
    async with engine.begin() as connection:
        await connection.run_sync(made.create)
    assert "'v'" in await failure(citykit.execute(engine, insert(made).values(k=1)))
    assert (await citykit.execute(engine, insert(made).values(k=1, v="y"))).rows == 1


def test_a_tag_without_a_number_has_no_rows() -> None:
    for tag, rows in {
        "DELETE 3": 3,
        "INSERT 0 0": 0,
        "CREATE TABLE": None,
        "DELETE 3; DELETE 4": None,
        "": None,
    }.items():
        assert Executed(tag).rows == rows


# One transaction


async def test_an_engine_commits_and_the_callers_transaction_stays_the_callers(engine: AsyncEngine) -> None:
    insert_one = "INSERT INTO cities (name, population) VALUES (:name, 1)"
    await citykit.execute(engine, insert_one, {"name": "committed"})
    assert await scalar(engine, "SELECT count(*) FROM cities") == 1
    async with engine.connect() as connection, citykit.sessions(engine)() as session:
        for mine in (connection, session):
            await citykit.execute(mine, insert_one, {"name": "rolled back"})
            with pytest.raises(citykit.CitykitError, match="unique"):
                await citykit.execute(mine, insert_one, {"name": "committed"})
            frame = await citykit.read_frame(mine, "SELECT name FROM cities ORDER BY name")
            assert frame["name"].tolist() == ["committed", "rolled back"]
            await mine.rollback()
    assert await scalar(engine, "SELECT count(*) FROM cities") == 1


async def test_a_failed_statement_changes_nothing(bind: Any) -> None:
    await citykit.execute(bind, "INSERT INTO cities (name, population) VALUES ('a', 1), ('b', 2)")
    said = await failure(citykit.execute(bind, "UPDATE cities\n SET population = 1 / (2 - population)"))
    assert "division by zero" in said
    said = await failure(citykit.execute(bind, "UPDATE cities\n SET popluation = 1"))
    assert "line 2:  SET popluation = 1\n             ^" in said
    frame = await citykit.read_frame(bind, "SELECT population FROM cities ORDER BY 1")
    assert frame["population"].tolist() == [1, 2]
    await citykit.execute(bind, "DELETE FROM cities")


# What is refused before it runs

REFUSED: list[tuple[str, Any, str]] = [
    ("DELETE FROM cities RETURNING *", None, "read_frame"),
    ("SELECT 1", None, "read_frame"),
    ("SHOW work_mem", None, "read_frame"),
    ("WITH gone AS (DELETE FROM cities RETURNING *) SELECT * FROM gone", None, "read_frame"),
    (" BEGIN", None, "engine.begin()"),
    ("start transaction", None, "engine.begin()"),
    ("/* x */ COMMIT;", None, "engine.begin()"),
    ("END", None, "engine.begin()"),
    ("ROLLBACK TO SAVEPOINT a", None, "engine.begin()"),
    ("ABORT", None, "engine.begin()"),
    ("SAVEPOINT a", None, "engine.begin()"),
    ("RELEASE a", None, "engine.begin()"),
    ("PREPARE TRANSACTION 'a'", None, "engine.begin()"),
    ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", None, "isolation_level"),
    ("LISTEN a", None, "add_listener"),
    ("DISCARD ALL", None, "DEALLOCATE name"),
    ("deallocate prepare all", None, "DEALLOCATE name"),
    ("DEALLOCATE unknown", None, '"unknown" does not exist (SQLSTATE 26000); nothing was changed.'),
    ("COPY cities FROM STDIN", None, "load_frame"),
    ("copy (SELECT 1) TO stdout", None, "read_frame"),
    ("", None, "no statement"),
    ("-- DELETE FROM cities", None, "no statement"),
    ("DELETE FROM cities; DELETE FROM cities", None, "more than one statement"),
    ("DELETE FROM cities WHERE name = :name", None, "'name' has no value"),
    ("DELETE FROM cities WHERE name = 'a", None, "unterminated quoted string"),
    ("ALTER TABLE cities ALTER population SET DEFAULT :v", {"v": 5}, "no parameters in ALTER"),
    ("CREATE VIEW made AS SELECT :v::int AS v", {"v": "5"}, "no parameters in CREATE"),
    ("CREATE TABLE :name (a int)", {"name": "made"}, "stands for a value"),
    ("DELETE FROM :name", {"name": "cities"}, "stands for a value"),
    ("INSERT INTO cities (name, population) VALUES (5, :v)", {"v": "many"}, "int4"),
    ("UPDATE cities SET latitude = :v", {"v": True}, "'v' is sent as boolean"),
    ("UPDATE cities SET population = 1 WHERE name = :v", {"v": 5}, "sent as integer"),
    ("VACUUM cities", None, "isolation_level='AUTOCOMMIT'), …)"),
    ("CREATE DATABASE no_such", None, "isolation_level='AUTOCOMMIT'"),
    ("CREATE INDEX CONCURRENTLY made ON cities (name)", None, "isolation_level='AUTOCOMMIT'"),
    ("DO $$ BEGIN COMMIT; END $$", None, "isolation_level='AUTOCOMMIT'"),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "params", "said"), REFUSED, ids=[sql for sql, _, _ in REFUSED])
async def test_what_cannot_be_run_is_said_with_what_to_type_and_nothing_is_changed(
    engine: AsyncEngine, sql: str, params: Any, said: str
) -> None:
    await citykit.add_city(engine, "a", 1)
    async with engine.connect() as connection:
        await citykit.execute(connection, "UPDATE cities SET population = 2")
        for bind in (engine.execution_options(citykit_lock_timeout=1), connection):
            if bind is not connection and "cities" in sql:
                continue  # the row is locked by the connection
            message = await failure(citykit.execute(bind, sql, params))
            assert said in message, message
        frame = await citykit.read_frame(connection, "SELECT population FROM cities")
        assert frame["population"].tolist() == [2]
    assert said in await failure(citykit.execute(engine, sql, params))
    assert await scalar(engine, "SELECT population FROM cities") == 1


@pytest.mark.parametrize(
    "sql", ["SET search_path = public", "set session work_mem = '8MB'", "RESET ALL", "SET ROLE none"]
)
async def test_a_setting_is_of_a_session_and_not_of_an_engine(engine: AsyncEngine, sql: str) -> None:
    assert "server_settings" in await failure(citykit.execute(engine, sql))
    async with engine.connect() as connection:
        assert (await citykit.execute(connection, sql)).rows is None
        await connection.rollback()


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TEMP TABLE made (a int)",
        "create or replace temporary view made AS SELECT 1 AS a",
        "CREATE OR REPLACE LOCAL TEMP VIEW made AS SELECT 1 AS a",
        "CREATE TABLE pg_temp.made (a int)",
        'CREATE TABLE "pg_temp".made (a int)',
        "SELECT 1 AS a INTO TEMP made",
        'WITH one AS (SELECT 1 AS a) SELECT a INTO LOCAL TEMPORARY TABLE "made" FROM one',
    ],
)
async def test_what_is_temporary_is_of_a_session_and_not_of_an_engine(engine: AsyncEngine, sql: str) -> None:
    assert "engine.begin()" in await failure(citykit.execute(engine, sql))
    async with engine.connect() as connection:
        await citykit.execute(connection, sql)
        assert list(await citykit.read_frame(connection, "SELECT a FROM made")) == ["a"]
    assert (await citykit.execute(engine, "CREATE TEMP TABLE made (a int) ON COMMIT DROP")).rows is None
    await citykit.execute(engine, "CREATE TABLE temp (temporary int)")
    await citykit.execute(engine, "DROP TABLE temp")
    await citykit.execute(engine, "SELECT 1 AS temporary, ' into temp a' AS b INTO temp FROM cities")
    await citykit.execute(engine, "WITH one AS (INSERT INTO temp VALUES (1, '')) DELETE FROM temp")
    await citykit.execute(engine, "DROP TABLE temp; ")


@pytest.mark.parametrize(
    "sql",
    [
        "PREPARE one AS SELECT 1",
        "DECLARE many CURSOR WITH HOLD FOR SELECT 1",
        "CREATE FUNCTION pg_temp.one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION pg_temp.one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE DOMAIN pg_temp.one AS int",
    ],
)
async def test_what_one_session_alone_would_have_is_not_made_on_an_engine(
    engine: AsyncEngine, sql: str
) -> None:
    assert "engine.begin()" in await failure(citykit.execute(engine, sql))
    async with engine.connect() as connection:
        await citykit.execute(connection, sql)
        await connection.rollback()


async def test_reading_what_returns_no_rows_names_execute(engine: AsyncEngine) -> None:
    said = await failure(citykit.read_frame(engine, "DELETE FROM cities"))
    assert "await citykit.execute(engine" in said


async def test_what_is_no_bind_or_no_statement_is_refused(engine: AsyncEngine) -> None:
    for bind, statement in ((engine, 5), ("postgresql://", "SELECT 1")):
        with pytest.raises(TypeError):
            await citykit.execute(bind, statement)  # type: ignore[arg-type]


# Outside of a transaction


@pytest.mark.parametrize("of", ["engine", "connection", pytest.param("pgbouncer", marks=needs_pgbouncer)])
async def test_an_engine_in_autocommit_runs_what_needs_no_transaction(engine: AsyncEngine, of: str) -> None:
    await citykit.execute(engine, "CREATE TABLE made (k int, v text)")
    async with bound(engine, "pgbouncer" if of == "pgbouncer" else "engine") as (other, _):
        alone = other.execution_options(isolation_level="AUTOCOMMIT")
        async with alone.connect() as connection:
            bind = connection if of == "connection" else alone
            for sql, params, tag in [
                ("VACUUM made", None, "VACUUM"),
                ("CREATE INDEX CONCURRENTLY made_v ON made (v)", None, "CREATE INDEX"),
                ("DROP DATABASE IF EXISTS citykit_made", None, "DROP DATABASE"),
                ("CREATE DATABASE citykit_made", None, "CREATE DATABASE"),
                ("DROP DATABASE citykit_made", None, "DROP DATABASE"),
                ("INSERT INTO made VALUES (:k, :v)", {"k": 1, "v": "x"}, "INSERT 0 1"),
                ("UPDATE made SET v = 'y' WHERE jsonb '[1, 2]' @> :x", {"x": [1]}, "UPDATE 1"),
                ("DELETE FROM made WHERE k IN :k", {"k": [1, 2]}, "DELETE 1"),
                ("DO $$ BEGIN COMMIT; END $$", None, "DO"),
            ]:
                assert (await citykit.execute(bind, sql, params)).tag == tag, sql
            assert "division by zero" in await failure(
                citykit.execute(bind, "DELETE FROM made WHERE 1 / 0 = 1")
            )
            assert "read_frame" in await failure(citykit.execute(bind, "SELECT 1"))
            assert (await citykit.execute(bind, "VACUUM made")).tag == "VACUUM"
        # Other helpers stay all or nothing on the same engine.
        assert len(await citykit.read_frame(alone, "SELECT 1.5, now()")) == 1
        async with other.connect() as connection:
            assert (await citykit.execute(connection, "DELETE FROM made")).tag == "DELETE 0"
            driver: Any = (await connection.get_raw_connection()).driver_connection
            assert driver.is_in_transaction()


async def test_a_statement_that_fails_in_autocommit_may_have_had_a_part_of_its_effect(
    engine: AsyncEngine,
) -> None:
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    await citykit.execute(engine, "CREATE TABLE made AS SELECT 1 AS k FROM generate_series(1, 2)")
    said = await failure(citykit.execute(alone, "CREATE UNIQUE INDEX CONCURRENTLY made_k ON made (k)"))
    assert "may have had a part of its effect" in said
    assert "nothing was changed" not in said
    is_valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'made_k'::regclass"
    assert await scalar(engine, is_valid) is False


async def test_a_procedure_that_commits_and_returns_a_row_is_called_as_the_error_says(
    engine: AsyncEngine,
) -> None:
    await citykit.execute(
        engine,
        "CREATE OR REPLACE PROCEDURE made_alone(INOUT n int) LANGUAGE plpgsql AS "
        "$$ BEGIN COMMIT; n := n + 1; END $$",
    )
    try:
        said = await failure(citykit.read_frame(engine, "CALL made_alone(:n)", {"n": 1}))
        call = (
            "async with engine.execution_options(isolation_level='AUTOCOMMIT').connect() as connection: "
            "rows = (await connection.execute(sqlalchemy.text(…))).all()"
        )
        assert call in said
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            rows = (await connection.execute(text("CALL made_alone(1)"))).all()
        assert [row.n for row in rows] == [2]
    finally:
        await citykit.execute(engine, "DROP PROCEDURE made_alone")


# Once


async def test_a_connection_that_was_lost_before_is_replaced_and_the_statement_sent_once(
    engine: AsyncEngine,
) -> None:
    other = await citykit.connect(engine.url)
    add = "INSERT INTO cities (name, population) VALUES ('a', 1)"
    await asyncio.gather(*(citykit.biggest_cities(other) for _ in range(5)))
    await scalar(engine, KILL)
    assert (await citykit.execute(other, add)).rows == 1
    await other.dispose()
    assert await scalar(engine, "SELECT count(*) FROM cities") == 1


@pytest.mark.parametrize("autocommit", [False, True])
async def test_a_lost_answer_is_not_asked_for_again(engine: AsyncEngine, autocommit: bool) -> None:
    """The server has run the INSERT, and its answer does not come."""
    answers = 0

    def passing(data: bytes) -> tuple[list[bytes], bool]:
        nonlocal answers
        if b"INSERT 0 1" in data:
            answers += 1
            return [], True
        return [data], False

    async with proxied(engine, passing) as url:
        other = await citykit.connect(url)
        bind = other.execution_options(isolation_level="AUTOCOMMIT") if autocommit else other
        with pytest.raises(citykit.DatabaseUnavailableError) as caught:
            await citykit.execute(bind, "INSERT INTO cities (name, population) VALUES ('a', 1)")
        await other.dispose()
    assert answers == 1
    assert caught.value.in_doubt is autocommit
    assert await scalar(engine, "SELECT count(*) FROM cities") == int(autocommit)


async def test_a_conflict_is_not_tried_again(engine: AsyncEngine) -> None:
    await citykit.add_city(engine, "a", 1)
    strict = engine.execution_options(isolation_level="REPEATABLE READ")
    async with engine.connect() as holder:
        await citykit.execute(holder, "UPDATE cities SET population = 2")
        slow = asyncio.ensure_future(
            citykit.execute(strict, "UPDATE cities SET population = population + 10")
        )
        await running(engine, "UPDATE cities SET population = population + 10%", True)
        await holder.commit()
    said = await failure(slow)
    assert "run it again" in said
    assert await scalar(engine, "SELECT population FROM cities") == 2


# Cancelled


@pytest.mark.parametrize("binding", ["engine", "connection", "autocommit", "autocommitting connection"])
async def test_a_cancelled_statement_ends_on_the_server_and_the_connection_works(
    engine: AsyncEngine, binding: str
) -> None:
    only = await citykit.connect(engine.url, pool_size=1, max_overflow=0)
    of: Any = only.execution_options(isolation_level="AUTOCOMMIT") if "auto" in binding else only
    slow = "UPDATE cities SET population = 7 FROM (SELECT pg_sleep(600)) AS slow"
    await citykit.add_city(engine, "a", 1)

    async def cancel(bind: Any) -> None:
        task = asyncio.ensure_future(citykit.execute(bind, slow))
        await running(engine, f"{slow}%", True)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await running(engine, f"{slow}%", False)
        assert (await citykit.execute(bind, "UPDATE cities SET population = population + 1")).rows == 1

    async with asyncio.timeout(60):
        if "connection" in binding:
            async with of.connect() as connection:
                await cancel(connection)
                await connection.commit()
        else:
            await cancel(of)
    await only.dispose()
    assert await scalar(engine, "SELECT population FROM cities") == 2


# A wait for a lock


@pytest.mark.parametrize("sql", ["SET LOCAL lock_timeout = '2s'", "SET lock_timeout = '2s'"])
async def test_a_lock_timeout_that_the_statement_sets_stays(engine: AsyncEngine, sql: str) -> None:
    async with engine.connect() as connection:
        await citykit.execute(connection, sql)
        assert await connection.scalar(text("SHOW lock_timeout")) == "2s"


CELLS = [
    "UPDATE cities SET population = 3 RETURNING *",
    "UPDATE cities SET population = 3 RETURNING *; SELECT 1",
    "UPDATE cities SET population = 3",
    "LOCK TABLE cities NOWAIT",
]


@pytest.mark.parametrize("held", ["UPDATE cities SET population = 2", "LOCK TABLE cities"])
@pytest.mark.parametrize("cell", CELLS)
async def test_a_cell_waits_for_a_lock_as_long_as_the_engine_says(
    engine: AsyncEngine, cell: str, held: str
) -> None:
    await citykit.add_city(engine, "a", 1)
    short = await citykit.connect(engine.url, lock_timeout=0.2)
    async with engine.connect() as holder, asyncio.timeout(60):
        await citykit.execute(holder, held)
        said = await failure(run_cell(short, cell, {}, None))
    assert "at once (NOWAIT) or within 0.2 s" in said
    assert "lock_timeout=120" in said
    await short.dispose()


@pytest.mark.parametrize("own", [False, True])
async def test_a_lock_is_waited_for_as_long_as_the_engine_says(engine: AsyncEngine, own: bool) -> None:
    await citykit.add_city(engine, "a", 1)
    short = await citykit.connect(engine.url, lock_timeout=0.2)
    async with engine.connect() as holder, asyncio.timeout(60):
        await citykit.execute(holder, "UPDATE cities SET population = 2")
        for sql in ("UPDATE cities SET population = 3", "ALTER TABLE cities ADD x int"):
            if own:
                async with short.connect() as connection:
                    assert "lock_timeout=120" in await failure(citykit.execute(connection, sql))
                    assert await connection.scalar(text("SHOW lock_timeout")) == "0"
            else:
                assert "lock_timeout=120" in await failure(citykit.execute(short, sql))
    async with short.connect() as connection:
        await citykit.execute(connection, "UPDATE cities SET population = 3")
        assert await connection.scalar(text("SHOW lock_timeout")) == "0"
        await connection.execute(text("SET LOCAL lock_timeout = '90s'"))
        await citykit.execute(connection, "UPDATE cities SET population = 3")
        assert await connection.scalar(text("SHOW lock_timeout")) == "90s"
    await short.dispose()
