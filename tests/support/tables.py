"""Tables of the tests' own, one column of each type that can be loaded."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncEngine


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "smallint": sa.SmallInteger(),
    "integer": sa.Integer(),
    "bigint": sa.BigInteger(),
    "oid": pg.OID(),
    "real": sa.REAL(),
    "double": sa.Double(),
    "numeric": sa.Numeric(),
    "numeric_10_2": sa.Numeric(10, 2),
    "boolean": sa.Boolean(),
    "text": sa.Text(),
    "varchar_5": sa.String(5),
    "char_3": sa.CHAR(3),
    "uuid": sa.Uuid(),
    "date": sa.Date(),
    "time": sa.Time(),
    "timestamp": sa.DateTime(),
    "timestamptz": sa.DateTime(timezone=True),
    "interval": sa.Interval(),
    "json": sa.JSON(),
    "jsonb": pg.JSONB(),
    "bytea": sa.LargeBinary(),
    "colour": sa.Enum(Colour),
    "mood": sa.Enum("happy", 'it\'s "sad", \\ {so}', name="mood"),
    "integers": pg.ARRAY(sa.Integer),
    "texts": pg.ARRAY(sa.Text),
    "doubles": pg.ARRAY(sa.Double),
    "times": pg.ARRAY(sa.DateTime(timezone=True)),
    "bytes": pg.ARRAY(sa.LargeBinary),
    "objects": pg.ARRAY(pg.JSONB),
}


def every_type(*wanted: str, name: str = "every_type") -> sa.Table:
    """Return a new Table with a key and a nullable column of each type, or of those wanted."""
    columns = [sa.Column(column, TYPES[column]) for column in wanted or TYPES]
    key = sa.Column("key", sa.Integer, primary_key=True, autoincrement=False)
    return sa.Table(name, sa.MetaData(), key, *columns)


@asynccontextmanager
async def created(engine: AsyncEngine, *tables: sa.Table) -> AsyncIterator[None]:
    """Create tables for as long as a test takes."""
    metadata = tables[0].metadata
    async with engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)
    try:
        yield
    finally:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.drop_all)
