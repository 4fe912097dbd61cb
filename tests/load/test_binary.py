"""What is sent in binary is, to the last bit, what the server makes of the same values in text."""

from __future__ import annotations

import datetime
import io
import json
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from citykit.database import driver_of
from citykit.encode import HEADER, TRAILER, encode_binary, encode_csv
from citykit.pgtypes import PGTYPES


def numbers(digits: int, places: int) -> st.SearchStrategy[str]:
    whole = st.integers(-(10**digits), 10**digits)
    context = Context(prec=200)  # the default would round
    return st.builds(lambda n, scale: str(Decimal(n).scaleb(-scale, context)), whole, st.integers(0, places))


NUMERICS = (
    st.lists(st.none() | numbers(15, 2))
    | st.lists(numbers(18, 18))
    | st.lists(st.none() | numbers(38, 20))
    | st.lists(st.none() | numbers(90, 40))
    | st.lists(st.decimals(-100, 100, places=2).map(str))
    | st.lists(st.integers(33, 60).flatmap(lambda digits: numbers(digits, 3)))
    | st.lists(st.floats(allow_nan=False, allow_infinity=False).map(repr), max_size=5)
    | st.lists(
        st.sampled_from(
            [
                "0",
                "-0",
                "0.00",
                "-0.0000",
                "00012.50",
                ".5",
                "-.5",
                "1E+3",
                "1.50E-7",
                "1e16",
                "0E-20",
                "0E+20",
                "9999",
                "10000",
                "0.0001",
                "0.00001",
                "-99999999.9999",
                "9" * 38,
                "9" * 39,
                "9" * 18,
                "1" + "0" * 18,
                str(2**63),
                str(2**64 - 1),
                str(-(2**64)),
                str(2**96),
                "1E+131071",
                "1E-16383",
                "9" * 100 + "." + "9" * 100,
                "0." + "0" * 40 + "1",
                "10000000000000000000000.00000001",
                "857665378933974608331351410608343018928600866.71",
                "Infinity",
                "-Infinity",
            ]
        )
    )
)
SINCE = datetime.datetime(1970, 1, 1)
VALUES: dict[str, st.SearchStrategy[list[Any]]] = {
    "numeric": NUMERICS,
    "uuid": st.lists(st.none() | st.uuids().map(str)),
    "interval": st.lists(st.none() | st.integers(-(2**62), 2**62) | st.integers(-(10**7), 10**7)),
    "jsonb": st.lists(
        st.none()
        | st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
            st.lists,
            max_leaves=3,
        ).map(lambda value: json.dumps(value, ensure_ascii=False))
    ),
    "date": st.lists(st.none() | st.integers(-2_440_588, 2_145_000_000)),
    "time": st.lists(st.none() | st.integers(0, 86_400_000_000)),
    "timestamp": st.lists(st.none() | st.integers(-210_866_803_200_000_000, 2**63 - 1)),
    "timestamptz": st.lists(st.none() | st.integers(-210_866_803_200_000_000, 2**63 - 1)),
    "bytea": st.lists(st.none() | st.binary()),
    "bool": st.lists(st.none() | st.booleans()),
    "int2": st.lists(st.none() | st.integers(-(2**15), 2**15 - 1)),
    "int4": st.lists(st.none() | st.integers(-(2**31), 2**31 - 1)),
    "int8": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    "oid": st.lists(st.none() | st.integers(0, 2**32 - 1)),
    "float4": st.lists(st.none() | st.floats(width=32, allow_nan=False)),
    "float8": st.lists(st.none() | st.floats(allow_nan=False)),
    **dict.fromkeys(
        ("text", "varchar", "bpchar"),
        st.lists(st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
    ),
    "json": st.lists(st.none() | st.integers().map(str)),
    "enum": st.lists(st.none() | st.sampled_from(["glad", "a b,", "é"])),
}
SEND = {name: f"{name}send" for name in ("bool", "text", "varchar", "bpchar", "float4", "float8", "bytea")}
SEND |= {name: f"{name}send" for name in ("int2", "int4", "int8", "oid")}


def test_every_type_that_is_sent_in_binary_is_here() -> None:
    assert VALUES.keys() == {name for name, row in PGTYPES.items() if row.binary and row.check}


@settings(max_examples=8)
@given(data=st.data())
@pytest.mark.parametrize("name", VALUES)
async def test_server_has_the_same_of_binary_as_of_text(
    engine: AsyncEngine, name: str, data: st.DataObject
) -> None:
    await assert_same(engine, name, typed(name, data.draw(VALUES[name])), data)


@settings(max_examples=8)
@given(data=st.data())
@pytest.mark.parametrize("name", [name for name in VALUES if name != "enum"])
async def test_server_has_the_same_of_arrays_in_binary_as_in_text(
    engine: AsyncEngine, name: str, data: st.DataObject
) -> None:
    elements = typed(name, data.draw(VALUES[name]))
    ends = sorted(data.draw(st.lists(st.integers(0, len(elements)), max_size=9)))
    nothing = data.draw(st.lists(st.booleans(), min_size=len(ends), max_size=len(ends)))
    places = pa.array([0, *ends], pa.int64(), mask=np.array([*nothing, False]))
    await assert_same(engine, f"_{name}", pa.LargeListArray.from_arrays(places, elements), data)


@pytest.mark.campaign
@settings(max_examples=500)
@given(data=st.data())
@pytest.mark.parametrize("name", ["numeric", "uuid", "interval", "jsonb"])
async def test_server_has_the_same_of_forms_of_their_own(
    engine: AsyncEngine, name: str, data: st.DataObject
) -> None:
    await assert_same(engine, name, typed(name, data.draw(VALUES[name])), data)


@settings(max_examples=30)
@given(data=st.data())
async def test_server_has_the_same_of_decimals(engine: AsyncEngine, data: st.DataObject) -> None:
    digits = data.draw(st.integers(1, 38))
    places = data.draw(st.integers(0, digits))
    whole = st.integers(1 - 10**digits, 10**digits - 1)
    exact = Context(prec=digits)
    values = data.draw(st.lists(st.none() | whole.map(lambda n: Decimal(n).scaleb(-places, exact))))
    await assert_same(engine, "numeric", pa.array(values, pa.decimal128(digits, places)), data)


def typed(name: str, values: list[Any]) -> pa.Array:
    """Return values of a type as they are when they were checked."""
    type_: Any = PGTYPES[name].typed
    narrow = pa.int32() if pa.types.is_date32(type_) else pa.int64()
    return pa.array(values, narrow).cast(type_) if pa.types.is_temporal(type_) else pa.array(values, type_)


async def assert_same(engine: AsyncEngine, name: str, array: pa.Array, data: st.DataObject) -> None:
    beside = data.draw(st.lists(st.none() | st.integers(-5, 5), min_size=len(array), max_size=len(array)))
    rows = pa.table({"value": array, "beside": pa.array(beside, pa.int64()), "again": array})
    start = data.draw(st.integers(0, len(array)))
    part = data.draw(st.sampled_from([rows, rows.slice(start), rows.slice(0, start)]))
    encoded = {
        "csv": encode_csv(part),
        "binary": HEADER + bytes(encode_binary(part, [name, "int8", name])) + TRAILER,
    }
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SELECT set_config('TimeZone', 'UTC', true)")
        await connection.exec_driver_sql("CREATE TYPE enum AS ENUM ('glad', 'a b,', 'é')")
        for form, sent in encoded.items():
            await connection.exec_driver_sql(
                f"CREATE TEMPORARY TABLE {form}_rows "
                f"(number serial, value {name}, beside bigint, again {name})"
            )
            await driver_of(connection).copy_to_table(
                f"{form}_rows", columns=["value", "beside", "again"], format=form, source=io.BytesIO(sent)
            )
        send = "array_send" if name.startswith("_") else SEND.get(name, f"{name}_send")
        columns = f"SELECT number, {send}(value), beside, {send}(again), value::text"
        found = [
            (await connection.exec_driver_sql(f"{columns} FROM {form}_rows ORDER BY number")).all()
            for form in encoded
        ]
        assert found[0] == found[1]
        assert len(found[0]) == part.num_rows
        await connection.rollback()
