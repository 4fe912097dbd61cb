"""Real files for schemathesis to send: JSON Schema cannot say what CSV, NDJSON, Parquet or Arrow is.

By hand: ``SCHEMATHESIS_HOOKS=tests.support.bodies schemathesis run http://…/openapi.json``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import schemathesis
from hypothesis import strategies as st
from pyarrow import parquet

Row = dict[str, Any]

_TEXT = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_CITIES = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.text(_TEXT, min_size=1, max_size=400),
            "country": st.text(_TEXT, max_size=100),
            "region": st.text(_TEXT, max_size=100),
            "population": st.integers(0, 2**31 - 1),
            "latitude": st.none() | st.floats(-90, 90),
            "longitude": st.none() | st.floats(-180, 180),
        }
    ),
    min_size=1,
    max_size=20,
)


def as_csv(rows: list[Row]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_ndjson(rows: list[Row]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def as_parquet(rows: list[Row]) -> bytes:
    parquet.write_table(pa.Table.from_pylist(rows), out := io.BytesIO())
    return out.getvalue()


def as_arrow(rows: list[Row]) -> bytes:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(out := io.BytesIO(), table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


KINDS: dict[str, Callable[[list[Row]], bytes]] = {
    "text/csv": as_csv,
    "application/x-ndjson": as_ndjson,
    "application/vnd.apache.parquet": as_parquet,
    "application/vnd.apache.arrow.stream": as_arrow,
}
for _kind, _written in KINDS.items():
    schemathesis.openapi.media_type(_kind, _CITIES.map(_written))
