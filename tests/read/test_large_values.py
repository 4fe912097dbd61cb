"""Large values come as they are; of a row that the server cannot send, the error says what to select."""

from __future__ import annotations

import os
import re
from typing import Any, get_args

import pandas as pd
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.pgtypes import DtypeBackend

large = pytest.mark.skipif(
    not os.environ.get("CITYKIT_TEST_LARGE"),
    reason="takes minutes and gigabytes: CITYKIT_TEST_LARGE=1 pytest tests/read/test_large_values.py",
)
BYTES = "convert_to(repeat('x', {}), 'UTF8')"


@pytest.mark.parametrize("megabytes", [3, pytest.param(550, marks=large)])
@pytest.mark.parametrize("output", ["hex", "escape"])
@pytest.mark.parametrize("sql", [BYTES, "repeat('x', {})", "to_json(repeat('x', {}))"])
async def test_a_large_value_comes_as_it_is(
    engine: AsyncEngine, sql: str, output: str, megabytes: int
) -> None:
    size = megabytes * 1_000_000
    async with engine.connect() as connection:
        await connection.execute(text(f"SET LOCAL bytea_output = {output}"))
        two = f"SELECT {sql.format(size)} AS a, i FROM generate_series(1, 2) AS i"  # noqa: S608
        frame = await citykit.read_frame(connection, two)
        values = frame["a"].tolist()
        assert [len(value) for value in values] == [size, size]
        assert len({*values}) == 1
        assert values[0][:1] in ("x", b"x")
        await connection.rollback()
        del frame, values
        frames = citykit.stream_frames(connection, f"SELECT {sql.format(size)} AS a", chunk_rows=1)
        assert [len(frame["a"].item()) async for frame in frames] == [size]


@large
async def test_a_large_value_is_a_parameter(engine: AsyncEngine) -> None:
    given = {"value": bytes(550_000_000)}
    assert (await citykit.read_frame(engine, "SELECT length(:value) AS n", given))["n"].item() == 550_000_000


# What the server cannot send in a row, and what the error says to select in its place.
TOO_LARGE = [
    (f"SELECT {BYTES.format(550_000_000)} AS b, now() AS moment", ["moment::text", "substring(b from"]),
    (f"SELECT ARRAY[{BYTES.format(550_000_000)}] AS b", ["(b)[1:10]"]),
    ("SELECT repeat('x', 600000000) AS \"A b\", repeat('x', 600000000) AS c",
     ['substring("A b" from', "substring(c from"]),
    ("SELECT to_json(repeat('x', 600000000)) AS j, to_json(repeat('x', 600000000)) AS k",
     ["substring(j::text from", "substring(k::text from"]),
]  # fmt: skip


@large
@pytest.mark.parametrize(("sql", "said"), TOO_LARGE)
async def test_the_error_of_a_row_that_is_too_large_says_what_to_select(
    engine: AsyncEngine, sql: str, said: list[str]
) -> None:
    with pytest.raises(citykit.CitykitError, match="PostgreSQL sends at most 1 GB a row") as caught:
        await citykit.read_frame(engine, sql)
    assert all(part in str(caught.value) for part in said), caught.value
    assert "after the first 0" in str(caught.value)
    for part in re.findall(r"(?:substring\(.+?\)|\(b\)\[1:10\])", str(caught.value)):
        small = sql.replace("550000000", "50").replace("600000000", "50")
        await citykit.read_frame(engine, f"SELECT {part} FROM ({small}) AS small")  # noqa: S608


@pytest.mark.parametrize("also", ["", ", now() AS moment", ", ARRAY['a'::bytea] AS c"])
async def test_a_row_that_the_server_refuses_to_build_is_named(engine: AsyncEngine, also: str) -> None:
    """A function raises what the server raises for more than 1 GB, so that no such row has to be made."""
    async with engine.connect() as connection:
        await connection.execute(
            text(
                "CREATE FUNCTION pg_temp.large(n integer) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN "
                "IF n < 5001 THEN RETURN 'x'; END IF; "
                "RAISE 'out of memory' USING ERRCODE = '54000'; END $$"
            )
        )
        sql = f"SELECT pg_temp.large(i) AS b{also} FROM generate_series(1, 6000) AS i"  # noqa: S608
        with pytest.raises(citykit.CitykitError, match=r"SQLSTATE 54000.*substring.b from 1 for") as caught:
            await citykit.read_frame(connection, sql)
        found = re.search(r"after the first ([\d,]+)", str(caught.value))
        assert found
        assert int(found[1].replace(",", "")) <= 5000
        assert ("moment::text" in str(caught.value)) is ("moment" in also)
        assert len(await citykit.read_frame(connection, "SELECT 1 AS a")) == 1


@pytest.mark.parametrize("backend", get_args(DtypeBackend))
@pytest.mark.parametrize("output", ["hex", "escape"])
async def test_bytes_are_the_same_on_every_way(engine: AsyncEngine, output: str, backend: Any) -> None:
    values = [
        b"",
        b"\\",
        b"\\x5c",
        b"\\\\000",
        bytes(range(256)),
        None,
        b"'\"\t\n",
        *[b"x" * n for n in range(99)],
    ]
    async with engine.connect() as connection:
        await connection.execute(text(f"SET LOCAL bytea_output = {output}"))
        sql = "SELECT b{} FROM unnest(CAST(:values AS bytea[])) WITH ORDINALITY AS u (b, n) ORDER BY n"
        for also in ("", ", n, b AS c", ", now()", ", ARRAY[b]"):
            frame = await citykit.read_frame(
                connection, sql.format(also), {"values": values}, dtype_backend=backend
            )
            assert [None if value is pd.NA else value for value in frame["b"]] == values
            assert frame["b"].dtype == ("binary[pyarrow]" if backend == "pyarrow" else "object")
        await connection.execute(text("PREPARE bytes AS SELECT CAST('\\x5c5c30303041' AS bytea) AS b"))
        frame = await citykit.read_frame(connection, "EXECUTE bytes", dtype_backend=backend)
        assert frame["b"].item() == b"\\\\000A"
