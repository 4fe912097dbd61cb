"""A row that is long is loaded, or named with the limit; at every size, and under every policy."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.load.plan import FEW_ROWS
from tests.support.database import scalar
from tests.support.tables import created

campaign = pytest.mark.skipif(
    not os.environ.get("CITYKIT_TEST_LARGE"),
    reason="takes minutes and gigabytes: CITYKIT_TEST_LARGE=1 pytest tests/load/test_large_values.py",
)
SIZES = [
    pytest.param(5_500, 3, id="few rows"),
    pytest.param(5_500, FEW_ROWS, id="many rows"),
    pytest.param(550_000_000, 3, marks=campaign, id="550 MB"),
]


def table(*more: sa.Column[Any]) -> sa.Table:
    key = sa.Column("key", sa.Integer, primary_key=True, autoincrement=False)
    return sa.Table("long_rows", sa.MetaData(), key, sa.Column("data", sa.LargeBinary), *more)


def frame(size: int, count: int) -> pd.DataFrame:
    data: list[bytes] = [b"x"] * count
    data[1] = bytes(size)
    return pd.DataFrame(
        {"key": range(count), "data": pd.array(data, dtype=object)}, index=[f"row {n}" for n in range(count)]
    )


@pytest.fixture(autouse=True)
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit as far above the small values as 1 GB is above the large ones."""
    if request.getfixturevalue("size") < 10_000:
        for module in ("encode.frames", "load.source"):
            monkeypatch.setattr(f"citykit.{module}.ROW_BYTES", 10_000)
        monkeypatch.setattr("citykit.load.staging.SENT_BYTES", 1_000)


@pytest.mark.parametrize("policy", ["error", "update"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("size", "count"), SIZES)
async def test_a_large_bytea_is_sent_in_binary(
    engine: AsyncEngine, size: int, count: int, streamed: bool, policy: Any
) -> None:
    given = frame(size, count)
    async with created(engine, table()):
        source = iter([given]) if streamed else given
        assert (await citykit.load_frame(engine, source, table(), on_conflict=policy)).inserted == count
        assert await scalar(engine, "SELECT length(data) FROM long_rows WHERE key = 1") == size
        assert (await citykit.load_frame(engine, given, table(), on_conflict="update")).skipped == count


@pytest.mark.parametrize("policy", ["error", "update"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("size", "count"), SIZES)
async def test_a_row_that_is_too_long_as_text_is_named_with_the_limit(
    engine: AsyncEngine, size: int, count: int, streamed: bool, policy: Any
) -> None:
    into = table(sa.Column("address", INET))  # which is not sent in binary
    given = frame(size, count).assign(address="10.0.0.1")
    async with created(engine, into):
        source = iter([given]) if streamed else given
        options: dict[str, Any] = {"on_conflict": policy}
        with pytest.raises(
            citykit.InvalidFrameError, match=r"bytes, of which COPY takes [0-9,]+ at most"
        ) as caught:
            await citykit.load_frame(engine, source, into, **options)
        assert caught.value.rejects[["row", "column"]].to_numpy().tolist() == [["row 1", "data"]]
        source = iter([given]) if streamed else given
        report = await citykit.load_frame(engine, source, into, on_invalid="skip", **options)
        assert report.inserted == count - 1
