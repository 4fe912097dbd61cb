"""The questions about cities: each is one statement, answered by an index or by one pass over the table."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import pandas as pd
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.cities.country_codes import warn_of_country
from citykit.cities.model import CITIES, COLUMNS
from citykit.cities.search import (
    IN_NUMBERS,
    ORDER,
    SELECTED,
    create_search_indexes,
    find_other_statement,
    find_statement,
    letters_of,
    part_in,
    part_statement,
)
from citykit.database import Bind, driver_of, in_transaction
from citykit.decode import frame_of_records
from citykit.encode import lacking
from citykit.runtime import says_await

FOUND = {**COLUMNS, "matched": "str"}  # the columns of `find_cities`, and their dtypes


@says_await
async def biggest_cities(
    bind: Bind, n: int = 20, *, country: str | None = None, region: str | None = None
) -> pd.DataFrame:
    """Return the most populated cities, largest first; ties by name, country, region.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession
    n : int
        How many at most, 1 or more.
    country, region : str, optional
        Only these, spelled as stored (``"IS"``); None: all.

    Returns
    -------
    DataFrame, shape (≤ n, 6)
        ``name``, ``country``, ``region`` (str), ``population`` (int64, persons), ``latitude``,
        ``longitude`` (float64, degrees, NaN where unknown); the same for no rows.

    Warns
    -----
    UserWarning
        If nothing was found, and no city has the country.

    Raises
    ------
    ValueError
        If n is below 1.
    MissingTableError
        Before ``await citykit.create_tables(engine)``.

    Examples
    --------
    >>> frame = await citykit.biggest_cities(engine, 3)
    >>> frame["name"].tolist()
    ['Shanghai', 'Beijing', 'Shenzhen']
    """
    frame = await _answer(bind, *_biggest(n, country, region), COLUMNS)
    if country is not None and frame.empty:
        await warn_of_country(bind, country)
    return frame


async def biggest_rows(bind: Bind, n: int, country: str | None = None) -> Sequence[Any]:
    """Return the rows of :func:`biggest_cities` without making a frame of them."""
    return await _rows(bind, *_biggest(n, country, None))


def _biggest(n: int, country: str | None, region: str | None) -> tuple[str, list[Any]]:
    limit = _count(n)  # a literal: with a parameter, the server would plan the statement each time
    args: list[Any] = []
    wanted = []
    for column, value in (("country", country), ("region", region)):
        if value is not None:
            args.append(_storable(column, value, "spelled as stored"))
            wanted.append(f"{column} = ${len(args)}")
    where = f"WHERE {' AND '.join(wanted)} " if wanted else ""
    return f"SELECT {SELECTED} FROM cities {where}ORDER BY {ORDER} LIMIT {limit:d}", args  # noqa: S608  constants


@says_await
async def find_cities(bind: Bind, text: str, n: int = 20, *, country: str | None = None) -> pd.DataFrame:
    """Find cities by name, ignoring case and accents: ``"sao paulo"`` finds São Paulo, ``"Wien"`` Vienna.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession
    text : str
        The name, its beginning or any part of it; blanks around it do not count. ``%`` and ``_`` stand for
        themselves.
    n : int
        How many at most, 1 or more.
    country : str, optional
        Only this one, spelled as stored (``"IS"``); None: all.

    Returns
    -------
    DataFrame, shape (≤ n, 7)
        The columns of :func:`biggest_cities` and ``matched`` (str): the name, or other name, of the city that
        matched. Names that are `text` come first, then those that begin with it, then those that contain it;
        each largest first. A city is there once, by the name that matches best.

    Warns
    -----
    UserWarning
        If nothing was found, and no city has the country.

    Raises
    ------
    ValueError
        If text is empty or n below 1.
    MissingTableError
        Before ``await citykit.create_tables(engine)``.

    Notes
    -----
    Two trigram indexes (PostgreSQL's extension pg_trgm) serve it, one of names and one of other names, except
    for punctuation alone or with one letter. The first search of a large table through an engine creates
    them: 1 to 2 s for 200,000 cities, and 3 to 5 s for their other names, while writers of the table wait.
    Without them a search is one pass over the tables.

    Examples
    --------
    >>> frame = await citykit.find_cities(engine, "REYKJAVIK")
    >>> frame["name"].tolist()
    ['Reykjavík']
    """
    rows = await find_rows(bind, text, n, country)
    if country is not None and not rows:
        await warn_of_country(bind, country)
    return frame_of_records(rows, FOUND)


async def find_rows(bind: Bind, text: str, n: int, country: str | None = None) -> list[tuple[Any, ...]]:
    """Return the rows of :func:`find_cities` without making a frame of them, and without a warning."""
    sought = _storable("text", text, "a part of a name").strip()
    if not sought:
        raise ValueError("text is a name or a part of one, and here it is empty")

    limit = _count(n)
    args = [] if country is None else [_storable("country", country, "spelled as stored")]
    if isinstance(bind, AsyncEngine):
        await create_search_indexes(bind)

    async def work(connection: AsyncConnection) -> list[tuple[Any, ...]]:
        raw = driver_of(connection)
        encoding = raw.get_settings().server_encoding
        part = part_in(encoding, sought)
        if part is None or _lacks_one(connection, args):
            return []

        async def fetched(statement: str, *values: Any) -> list[Any]:
            # As an unnamed statement, so that it is planned for these very values.
            prepared = await raw.prepare(statement, name="")
            rows: list[Any] = await prepared.fetch(*values, *args)
            return rows

        row = (await connection.exec_driver_sql(part_statement(encoding), (part,))).one()
        spelled, folded, compact, others = tuple(row)
        if not folded.strip():  # an accent alone folds to '', which every name contains
            return []
        letters, in_country = letters_of(part), bool(args)
        numbers = not set(IN_NUMBERS).isdisjoint(folded)
        own = find_statement(encoding, letters, numbers=numbers, in_country=in_country)
        found = await fetched(own, spelled, limit, folded)
        best = {tuple(row)[:-1]: (row["rank"], row["name"]) for row in found}
        if others:
            other = find_other_statement(encoding, letters_of(compact), in_country=in_country)
            for *city, rank, matched in await fetched(other, compact, limit, folded, part):
                if rank < best.get(tuple(city), (3, ""))[0]:
                    best[tuple(city)] = rank, matched
        in_order = sorted(best.items(), key=lambda item: (item[1][0], -item[0][3], item[0][:3]))
        return [(*city, matched) for city, (_, matched) in in_order[:limit]]

    return await in_transaction(bind, work, effect="reads")


@says_await
async def nearest_cities(bind: Bind, latitude: float, longitude: float, n: int = 20) -> pd.DataFrame:
    """Return the cities nearest to a point, nearest first; those without coordinates are left out.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession
    latitude, longitude : float
        Degrees, -90 to 90 and -180 to 180.
    n : int
        How many at most, 1 or more.

    Returns
    -------
    DataFrame, shape (≤ n, 7)
        The columns of :func:`biggest_cities` and ``distance_km`` (float64): along the great circle of a
        sphere of the Earth's mean radius, 6,371.0088 km (IUGG), by the haversine formula.

    Raises
    ------
    ValueError
        If the point is not on the globe or n is below 1.
    MissingTableError
        Before ``await citykit.create_tables(engine)``.

    Examples
    --------
    >>> frame = await citykit.nearest_cities(engine, 64.15, -21.94, 2)
    >>> frame[["name", "distance_km"]].round(1).to_numpy().tolist()
    [['Reykjavík', 2.7], ['Kópavogur', 4.4]]
    """
    point = [_degrees("latitude", latitude), _degrees("longitude", longitude)]
    return await _answer(bind, _NEAREST, [*point, _count(n)], {**COLUMNS, "distance_km": "float64"})


_HAVERSINE = """least(1, sin(radians(latitude - $1::float8) / 2) ^ 2
    + cos(radians($1)) * cos(radians(latitude)) * sin(radians(longitude - $2::float8) / 2) ^ 2)"""
# The n nearest among the largest cities bound a box (in degrees) that holds the n nearest of all. Outside of
# it, two comparisons replace the formula.
_NEAREST = f"""
WITH sample AS (
    SELECT {_HAVERSINE} AS part
    FROM (SELECT latitude, longitude FROM cities ORDER BY population DESC, name LIMIT $3 + 2000) AS largest
    WHERE latitude IS NOT NULL AND longitude IS NOT NULL ORDER BY part LIMIT $3
), reach AS (
    SELECT CASE WHEN count(*) < $3 THEN 180 ELSE degrees(2 * asin(sqrt(max(part)))) + 1e-6 END AS high
    FROM sample
), box AS MATERIALIZED (
    SELECT $1 - high AS south, $1 + high AS north, CASE WHEN abs($1) + high >= 90 THEN 360
        ELSE degrees(asin(least(1, sin(radians(high)) / cos(radians($1))))) + 1e-6 END AS wide
    FROM reach
)
SELECT {SELECTED}, 2 * 6371.0088 * asin(sqrt({_HAVERSINE})) AS distance_km
FROM cities
WHERE latitude BETWEEN (SELECT south FROM box) AND (SELECT north FROM box) AND (
    abs(longitude - $2) <= (SELECT wide FROM box) OR abs(longitude - $2) >= 360 - (SELECT wide FROM box)
)
ORDER BY distance_km, {ORDER} LIMIT $3
"""  # noqa: S608  constants


@says_await
async def summarize_countries(bind: Bind) -> pd.DataFrame:
    """Return the number of cities and the populations of each country, the most populous first.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession

    Returns
    -------
    DataFrame, shape (countries, 5)
        ``country`` (str), ``cities`` (int64, how many), ``total_population``, ``largest_population``
        (int64, persons), ``share`` (float64, 0 to 1: of the population of all cities).

    Raises
    ------
    MissingTableError
        Before ``await citykit.create_tables(engine)``.

    Examples
    --------
    >>> frame = await citykit.summarize_countries(engine)
    >>> frame["country"].head(3).tolist()
    ['CN', 'IN', 'US']
    """
    return await _answer(bind, _SUMMARY, [], _SUMMARY_COLUMNS)


_SUMMARY_COLUMNS = {
    "country": "str",
    "cities": "int64",
    "total_population": "int64",
    "largest_population": "int64",
    "share": "float64",
}
_SUMMARY = """
SELECT country, count(*) AS cities, sum(population) AS total_population,
    max(population) AS largest_population,
    coalesce(sum(population)::float8 / nullif(sum(sum(population)) OVER (), 0)::float8, 0) AS share
FROM cities GROUP BY country ORDER BY total_population DESC, country
"""


async def _answer(bind: Bind, sql: str, args: Sequence[Any], dtypes: dict[str, str]) -> pd.DataFrame:
    return frame_of_records(await _rows(bind, sql, args), dtypes)


async def _rows(bind: Bind, sql: str, args: Sequence[Any]) -> Sequence[Any]:
    async def work(connection: AsyncConnection) -> Sequence[Any]:
        if _lacks_one(connection, args):
            return []
        return (await connection.exec_driver_sql(sql, tuple(args))).all()

    return await in_transaction(bind, work, effect="reads")


def _lacks_one(connection: AsyncConnection, args: Sequence[Any]) -> bool:
    """Tell whether the database's encoding lacks a character of a text, so that no row has this text."""
    texts = [each for each in args if isinstance(each, str)]
    return any(lacking(driver_of(connection).get_settings().server_encoding, each) for each in texts)


def _count(n: int) -> int:
    count = operator.index(n)
    if count < 1:
        raise ValueError(f"n is the number of cities, 1 or more, not {n}")
    return min(count, 2**62)


def _storable(name: str, value: object, meaning: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is text, {meaning}, not {type(value).__name__}")
    if "\0" in value or value.encode(errors="replace").decode() != value:
        raise ValueError(f"no {'name' if name == 'text' else name} can be stored as {value!r}")
    return value


def _degrees(name: str, value: float) -> float:
    degrees = float(value)
    limits = CITIES.c[name].info
    if not limits["low"] <= degrees <= limits["high"]:  # false for NaN, too
        raise ValueError(f"{name} is in degrees, {limits['low']} to {limits['high']}, not {value!r}")
    return degrees
