"""SQL cells in a real kernel: statements without rows, several in a cell, parameters, numerics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from tests.runtime.test_kernel import readable
from tests.support.database import scalar
from tests.support.kernels import Kernel, kernel

SETUP = """
%load_ext citykit
import citykit
engine = await citykit.connect()
"""


@pytest.fixture(scope="module")
def started() -> Iterator[Kernel]:
    with kernel() as running:
        assert running.shown(SETUP) == ""
        yield running


@pytest.fixture
async def jupyter(started: Kernel, engine: AsyncEngine) -> Kernel:
    """A kernel with an engine, on a database with three cities."""
    sql = (
        "INSERT INTO cities (name, population, country) VALUES ('a', 1, 'IS'), ('b', 2, 'NO'), ('c', 3, 'IS')"
    )
    await citykit.execute(engine, sql)
    started.run("%reset_selective -f found")
    return started


async def names(engine: AsyncEngine) -> str | None:
    found: str | None = await scalar(engine, "SELECT string_agg(name, '' ORDER BY name) FROM cities")
    return found


async def test_a_statement_without_rows_shows_the_servers_tag(jupyter: Kernel, engine: AsyncEngine) -> None:
    jupyter.run("country = 'IS'")
    assert jupyter.shown("%%cities\nDELETE FROM cities WHERE country = :country") == "DELETE 2\n"
    assert await names(engine) == "b"
    assert jupyter.shown("%%cities\nCREATE TABLE made_in_a_cell (a int); -- done") == "CREATE TABLE\n"
    assert (
        jupyter.shown("%%cities found -p a=[1,2]\nINSERT INTO made_in_a_cell SELECT unnest(:a)")
        == "INSERT 0 2\n"
    )
    assert jupyter.shown("found.rows, found.tag") == "(2, 'INSERT 0 2')\n"
    assert jupyter.shown("%%cities\nDROP TABLE made_in_a_cell") == "DROP TABLE\n"


async def test_several_statements_are_one_transaction_and_the_last_rows_are_shown(
    jupyter: Kernel, engine: AsyncEngine
) -> None:
    cell = """%%cities found --param name='d;' -p least=2
CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM cities WHERE population >= :least;
INSERT INTO cities (name, population) VALUES (:name, 4); -- ; one more
SELECT 'nothing' AS x;
SELECT count(*) AS n, string_agg(name, '') AS names FROM cities WHERE population >= :least;
DELETE FROM cities WHERE name = 'a';
"""
    assert jupyter.shown(cell).split() == ["n", "names", "0", "3", "bcd;"]
    assert jupyter.shown("found['n'].tolist()") == "[3]\n"
    assert await names(engine) == "bcd;"
    both = "%%cities\nUPDATE cities SET population = 1;\nDELETE FROM cities WHERE name = 'b'"
    assert jupyter.shown(both) == "UPDATE 3; DELETE 1\n"


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("SELECT 1 / 0;", "division by zero"),
        ("SELEC 1;", "line 2: SELEC 1"),
        ("SELECT 'open;", "in line 2"),
        ("COMMIT;", "engine.begin()"),
        ("VACUUM;", "AUTOCOMMIT"),
        ("SET search_path = x;", "server_settings"),
        ("COPY cities FROM STDIN;", "load_frame"),
        ("SELECT :no_such;", "no variable 'no_such'"),
    ],
)
async def test_of_several_statements_all_or_none_are_done(
    jupyter: Kernel, engine: AsyncEngine, second: str, said: str
) -> None:
    shown = readable(jupyter.run(f"%%cities\nDELETE FROM cities;\n{second}\nDELETE FROM cities"))
    assert said in shown
    assert await names(engine) == "abc"


@pytest.mark.parametrize(
    ("made", "kind"),
    [("citykit.connect()", "coroutine"), ("sqlalchemy.create_engine('postgresql+psycopg://')", "Engine")],
)
async def test_a_cell_runs_on_the_variable_engine_or_not_at_all(
    jupyter: Kernel, engine: AsyncEngine, made: str, kind: str
) -> None:
    jupyter.run(f"import sqlalchemy\nkept, engine = engine, {made}")
    try:
        shown = readable(jupyter.run("%%cities\nDELETE FROM cities"))
        assert f"no AsyncEngine (its type is {kind})" in shown
        assert "engine = await citykit.connect(" in shown
        assert await names(engine) == "abc"
    finally:
        jupyter.run("engine = kept")


async def test_an_engine_in_autocommit_runs_what_needs_no_transaction(
    jupyter: Kernel, engine: AsyncEngine
) -> None:
    shown = readable(jupyter.run("%%cities\nVACUUM cities"))
    assert "engine.execution_options(isolation_level='AUTOCOMMIT')" in shown
    jupyter.run("kept, engine = engine, engine.execution_options(isolation_level='AUTOCOMMIT')")
    try:
        assert jupyter.shown("%%cities\nVACUUM cities;") == "VACUUM\n"
        assert jupyter.shown("%%cities\nSELECT 1.5 AS x, date '2024-02-29' AS d").split()[-1] == "2024-02-29"
        readable(jupyter.run("%%cities\nDELETE FROM cities; SELECT 1 / 0"))
        assert await names(engine) == "abc"
    finally:
        jupyter.run("engine = kept")


@pytest.mark.parametrize(
    ("given", "type_", "value"),
    [
        ("42", "integer", "42"), ("2.5", "double precision", "2.5"), ("'42'", "text", "42"),
        ("IS", "text", "IS"),
        ("[1, 2]", "integer[]", "{1,2}"), ("['a b', 'c']", "text[]", '{"a b",c}'),
        ("True", "boolean", "true"),
        ("'a b'", "text", "a b"), ("None", "text", "None"), ("2024-02-29", "text", "2024-02-29"),
    ],
)  # fmt: skip
async def test_a_parameter_is_a_literal_of_python_or_else_text(
    jupyter: Kernel, given: str, type_: str, value: str
) -> None:
    jupyter.run("text, IS = 5, 'never taken'")
    told = f"'{type_}'" if type_ == "text" else "pg_typeof(:x)::text"  # of text the server infers the type
    sql = f"SELECT {told} || '|' || coalesce(:x::text, 'None') AS said"
    jupyter.run(f"%%cities found -p x={given}\n{sql}")
    assert jupyter.shown("print(found['said'][0])") == f"{type_}|{value}\n"


async def test_a_date_is_given_as_text(jupyter: Kernel) -> None:
    sql = (
        "SELECT :day > date '2024-01-01' AS later, :day::date + 1 AS next, CAST(:day AS date) = :day AS same"
    )
    jupyter.run(f"%%cities found -p day=2024-02-29\n{sql}")
    assert jupyter.shown("found.astype(str).iloc[0].tolist()") == "['True', '2024-03-01', 'True']\n"


async def test_numerics_are_floats_with_a_warning_and_decimals_where_that_is_said(jupyter: Kernel) -> None:
    sql = "SELECT 1.5 AS x, 9007199254740993.0 AS big"
    for option, dtype, warned in (("", "Float64", True), ("--numeric decimal", "object", False)):
        for cell in (sql, f"{sql}; CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT 1 AS a"):
            shown = readable(jupyter.run(f"%%cities found {option}\n{cell}"))
            assert ("UserWarning: column 'big'" in shown) is warned
            assert jupyter.shown("found['x'].dtype.name") == f"'{dtype}'\n"
    jupyter.run("kept, engine = engine, await citykit.connect(numeric='decimal')")
    jupyter.run(f"%%cities found\n{sql}")
    assert jupyter.shown("found['x'].dtype.name") == "'object'\n"
    shown = readable(
        jupyter.run("engine = kept\n(await citykit.read_frame(engine, 'SELECT 9007199254740993.0 AS x'))")
    )
    assert "UserWarning: column 'x'" in shown
    assert "ipykernel" in shown  # the file of the cell


def test_a_cell_explains_itself(jupyter: Kernel) -> None:
    reply: Any = jupyter.client.inspect("%%cities", reply=True, timeout=30)
    for word in ("DELETE 3", "one transaction", "--numeric", "'5'"):
        assert word in reply["content"]["data"]["text/plain"]
