"""What is loaded is what is read, and what is read can be loaded: the same rows, whatever their types."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.pgtypes import DtypeBackend
from tests.support.tables import TYPES, Colour, created, every_type

LETTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
TEXT = st.sampled_from(["", " ", "NULL", "\\N", "\\.", '"', "'", "{}", "\ufeff", "\r\n", "nan"]) | st.text(
    LETTERS
)
INTEGER = st.integers(-(2**31), 2**31 - 1)
NUMBER = st.floats(allow_nan=False)  # which is loaded as NULL
MOMENT = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
JSON = st.recursive(
    st.booleans() | INTEGER | st.floats(-1e9, 1e9) | st.text(LETTERS),
    lambda inner: (
        st.lists(st.none() | inner, max_size=3) | st.dictionaries(st.text(LETTERS), inner, max_size=3)
    ),
    max_leaves=5,
)
AS_TEXT = "SELECT string_agg(every_type::text, E'\\n' ORDER BY key) FROM every_type"
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "integer": INTEGER,
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "oid": st.integers(0, 2**32 - 1),
    "real": st.floats(allow_nan=False, width=32),
    "double": NUMBER,
    "numeric": st.decimals(Decimal(-(10**30)), Decimal(10**30), places=8),
    "numeric_10_2": st.decimals(Decimal("-99999999.99"), Decimal("99999999.99"), places=2),
    "boolean": st.booleans(),
    "text": TEXT,
    "varchar_5": st.text(LETTERS, max_size=5),
    "char_3": st.text(st.characters(codec="utf-8", categories=["L"]), min_size=3, max_size=3),
    "uuid": st.uuids(),
    "date": st.dates(),
    "time": st.times(),
    "timestamp": st.datetimes(),
    "timestamptz": MOMENT,
    "interval": st.timedeltas(timedelta(days=-99_999), timedelta(days=99_999)),
    "json": JSON,
    "jsonb": JSON,
    "bytea": st.binary(),
    "colour": st.sampled_from(Colour),
    "mood": st.sampled_from(TYPES["mood"].enums),  # type: ignore[attr-defined]
    "integers": st.lists(st.none() | INTEGER),
    "texts": st.lists(st.none() | TEXT),
    "doubles": st.lists(st.none() | NUMBER),
    "times": st.lists(st.none() | MOMENT),
    "bytes": st.lists(st.none() | st.binary()),
    "objects": st.lists(st.none() | JSON),
}
VALUES = {name: st.none() | values for name, values in VALUES.items()}


TABLE = every_type()
ROWS = sa.select(TABLE).order_by("key")


@pytest.fixture
async def table(engine: AsyncEngine) -> AsyncIterator[sa.Table]:
    async with created(engine, TABLE):
        yield TABLE


@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("backend", get_args(DtypeBackend))
async def test_every_value_of_every_type_goes_round(
    engine: AsyncEngine, table: sa.Table, backend: DtypeBackend, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.fixed_dictionaries(VALUES), max_size=3))

    async def load(frame: pd.DataFrame) -> str:
        async with engine.begin() as connection:
            await connection.execute(table.delete())
            await citykit.load_frame(connection, frame, table)
            return str(await connection.scalar(text(AS_TEXT)))

    columns: dict[str, Any] = {name: pd.Series([row[name] for row in rows], dtype=object) for name in VALUES}
    stored = await load(pd.DataFrame({"key": range(len(rows)), **columns}))
    async with engine.connect() as connection:
        others = [name for name in VALUES if name != "objects"]  # SQLAlchemy reads no array of json lists
        found = (await connection.execute(sa.select(*map(TABLE.c.__getitem__, others)).order_by("key"))).all()
        assert [tuple(row) for row in found] == [tuple(row[name] for name in others) for row in rows]
    read = await citykit.read_frame(engine, ROWS, dtype_backend=backend, numeric="decimal")
    again = await load(read)
    if backend != "pyarrow":  # where all of a column's numerics have as many decimals
        assert again == stored
    pd.testing.assert_frame_equal(
        await citykit.read_frame(engine, ROWS, dtype_backend=backend, numeric="decimal"),
        read,
        check_exact=True,
    )
