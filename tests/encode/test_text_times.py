"""Text in a column of dates, times or booleans. No database is involved."""

from __future__ import annotations

import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa

from citykit.encode import rules_of, validate

DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 12, 30)
UTC = MOMENT.replace(tzinfo=datetime.UTC)
TYPES: dict[str, tuple[sa.types.TypeEngine[Any], dict[str, Any], list[str]]] = {
    "date": (
        sa.Date(),
        {
            "2024-02-29": DAY, "2024-02-29 00:00:00": DAY, "2024-02-29T00:00": DAY,
            "0001-01-01": datetime.date.min,
        },
        ["2023-02-29", "29.02.2024", "2024-2-29", "20240229", "2024-02-29 12:30", " 2024-02-29", "today", "",
         "0000-01-01"],
    ),
    "timestamp": (
        sa.DateTime(),
        {
            "2024-02-29 12:30:00": MOMENT, "2024-02-29T12:30": MOMENT,
            "2024-02-29": MOMENT.replace(hour=0, minute=0),
            "2024-02-29 12:30:00.000001": MOMENT.replace(microsecond=1),
        },
        ["2024-02-29 25:00", "2024-02-29 12:30:00+01", "2024-02-29 12", "2024-02-30 12:30", "1709209800", "",
         "0000-12-31 12:30"],
    ),
    "timestamptz": (
        sa.DateTime(timezone=True),
        {
            "2024-02-29 12:30:00Z": UTC, "2024-02-29T13:30:00+01:00": UTC, "2024-02-29 13:30:00+01": UTC,
            "2024-02-29 08:30:00-0400": UTC,
        },
        ["2024-02-29 12:30:00", "2024-02-29", "2024-02-29 12:30:00 CET", "", "0000-01-01 00:00Z"],
    ),
    "time": (sa.Time(), {"12:30": MOMENT.time(), "12:30:00": MOMENT.time()}, ["25:00", "12:30 PM", "12", ""]),
    "boolean": (
        sa.Boolean(),
        {"true": True, "f": False, "False": False, "TRUE": True},
        ["1", "0", "yes", "no", "", "tru", " true"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["object", "str", "string[python]", "category", "arrow"])
@pytest.mark.parametrize("type_", TYPES)
def test_text_is_read_for_the_column_that_it_goes_into(type_: str, dtype: str) -> None:
    column, good, bad = TYPES[type_]
    texts = [*good, *bad, None]
    series = pd.Series(texts, dtype=pd.ArrowDtype(pa.string()) if dtype == "arrow" else dtype)
    rows, rejects = validate(
        pd.DataFrame({"x": series}), rules_of(sa.Table("t", sa.MetaData(), sa.Column("x", column)))
    )
    assert rows.column("x").to_pylist() == [*good.values(), None]
    assert rejects["value"].tolist() == bad
    assert rejects["reason"].nunique() == 1
