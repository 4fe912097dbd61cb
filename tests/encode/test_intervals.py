"""Intervals of every size reach the server as they are, whatever its version and the session's style."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.encode import rules_of, validate
from citykit.load.plan import FEW_ROWS
from tests.support.tables import created

SIZES = [
    timedelta(0),
    timedelta(microseconds=1),
    timedelta(seconds=2147, microseconds=483_647),  # 2**31 - 1 microseconds
    timedelta(seconds=2147, microseconds=483_648),
    timedelta(hours=1, minutes=2, seconds=3),
    timedelta(hours=23, minutes=59, seconds=59, microseconds=999_999),
    timedelta(days=1, hours=12),
    timedelta(days=40_000, hours=23, microseconds=5),
    timedelta(days=106_751_990),
]
VALUES = [sign * size for size in SIZES for sign in (1, -1)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (pd.Timedelta(np.timedelta64(10**15, "s")), "longer than 292,271 years"),
        (np.timedelta64(2**60, "D"), "longer than 292,271 years"),
        (np.timedelta64(1, "ps"), "finer than a microsecond"),
        (np.timedelta64(-(10**6) - 1, "ps"), "finer than a microsecond"),
        (np.timedelta64(10**6, "ps"), None),
    ],
    ids=repr,
)
def test_a_duration_that_no_interval_holds_is_a_reject(value: Any, reason: str | None) -> None:
    columns: list[tuple[Any, Any]] = [(sa.Interval(), value), (sa.ARRAY(sa.Interval()), [value])]
    for type_, held in columns:
        rules = rules_of(sa.Table("t", sa.MetaData(), sa.Column("x", type_)))
        rows, rejects = validate(pd.DataFrame({"x": pd.Series([held, None], dtype=object)}), rules)
        assert rows.num_rows == (1 if reason else 2)
        assert rejects["reason"].str.removeprefix("element 0 ").tolist() == ([reason] if reason else [])
        assert str(rejects)


@pytest.mark.parametrize("style", ["postgres", "sql_standard", "iso_8601", "postgres_verbose"])
@pytest.mark.parametrize("count", [len(VALUES), FEW_ROWS + 5_000])
async def test_intervals_of_every_size_and_sign_are_stored_as_they_are(
    engine: AsyncEngine, count: int, style: str
) -> None:
    table = sa.Table(
        "durations", sa.MetaData(),
        sa.Column("key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("one", sa.Interval), sa.Column("many", sa.ARRAY(sa.Interval)),
    )  # fmt: skip
    values = [VALUES[n % len(VALUES)] for n in range(count)]
    frame = pd.DataFrame({"key": range(count)})
    frame["one"] = pd.Series(values, dtype="timedelta64[us]")
    frame["many"] = pd.Series([[value, None] for value in values], dtype=object)
    async with created(engine, table), engine.connect() as connection:
        await connection.execute(sa.text(f"SET intervalstyle = {style}"))
        await citykit.load_frame(connection, frame, table)
        rows = (await connection.execute(sa.select(table).order_by(table.c.key))).all()
        assert [row.one for row in rows] == values
        assert [row.many for row in rows] == [[value, None] for value in values]
        await connection.invalidate()
