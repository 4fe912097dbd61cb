"""Storing cities: those of a frame or a file, and a single one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import make_transient_to_detached

from citykit.cities.model import CITIES, COLUMNS, KEY, City
from citykit.cities.other_names import (
    ONE_CITY,
    OTHER_NAMES,
    OtherNames,
    check_table,
    rule_of_names,
    write_names,
)
from citykit.cities.schema import UNDONE
from citykit.database import Bind, Condition, Work, driver_of, in_transaction, lock_bound, sqlstate
from citykit.encode import Rule, in_encoding, rejects_frame, rules_of, shown_value, validate_row
from citykit.errors import CitykitError, DuplicateCityError, DuplicateKeyError, InvalidFrameError
from citykit.load import LoadReport, OnConflict, OnInvalid, Source, load_rows, settle_numbers, violated_by
from citykit.runtime import Progress, says_await


@says_await
async def load_cities(
    bind: Bind,
    source: Source,
    *,
    rename: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    on_conflict: OnConflict = "error",
    on_invalid: OnInvalid = "error",
    progress: Progress = None,
) -> LoadReport:
    """Load a frame of cities: all of its rows or none.

    It equals adding the rows one by one, in order. The frame is not changed.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession
        An engine: one transaction, committed. A connection or a session: a savepoint in the caller's
        transaction, which the caller commits.
    source : DataFrame, shape (n, 2 to 7)
        ``name`` and ``population`` (persons), and where known ``country``, ``region``, ``latitude``,
        ``longitude`` (degrees) and ``other_names`` (lists of str, by which `find_cities` finds a city as
        well). A missing country or region is ``''``, a missing coordinate NULL, a missing list empty. Or
        a path or an open file (see `read_file`), Arrow data, or an iterable or async iterable of frames, as
        `load_frame` takes them. A column ``id`` is left out, and the report's ``left_out`` says so: the
        database numbers its cities itself.
    rename : mapping of str to str, optional
        The table's name for a column of the source: ``{"city": "name", "lat": "latitude"}``. None: none is
        renamed.
    columns : sequence of str, optional
        The columns to load, by their names in the table or in the source. None: all, and one that the
        table lacks is an error.
    on_conflict : {"error", "skip", "update"}
        What happens to a row whose (name, country, region) is already there, in the table or earlier in
        the frame. "error": the load fails. "skip": what is there stays. "update": the columns of the
        frame replace what is there; the others stay.
    on_invalid : {"error", "skip"}
        "error": one bad value refuses the whole frame. "skip": the valid rows are loaded and the bad
        values are in the report's ``rejects``.
    progress : bool or callable, optional
        None: a bar from 200,000 rows up, in terminals and notebooks. A callable gets
        ``(rows_done, rows_total)`` while rows are sent, or ``(rows_done, rows_total, phase)`` in every phase
        where it has three parameters: see `load_frame`.

    Returns
    -------
    LoadReport
        ``inserted``, ``updated``, ``skipped``, ``rejects``, ``seconds``, ``plan``, ``left_out``.

    Raises
    ------
    InvalidFrameError
        ``error.rejects`` names every bad value by row label, column and reason. A column that is wrong as a
        whole (its name, its dtype) is one row of it, and fails the load also with ``on_invalid="skip"``.
    DuplicateCityError
        ``error.keys`` has the (name, country, region) of every city already there.
    MissingTableError
        Before ``await citykit.create_tables(engine)``.

    Examples
    --------
    >>> frame = pandas.DataFrame({"name": ["Reykjavík", "Akureyri"], "population": [118_918, 18_925]})
    >>> report = await citykit.load_cities(engine, frame, on_conflict="update")
    >>> report.inserted
    2
    """
    try:
        return await load_rows(
            bind, source, CITIES, key=None, rename=rename, columns=columns, on_conflict=on_conflict,
            on_invalid=on_invalid, progress=progress, beside=OtherNames(),
        )  # fmt: skip
    except DuplicateKeyError as exc:
        if not exc.keys:  # a unique constraint that is not the key of a city
            raise
        raise DuplicateCityError(str(exc), exc.keys) from exc


@says_await
async def add_city(
    bind: Bind,
    name: str,
    population: int,
    *,
    country: str = "",
    region: str = "",
    latitude: float | None = None,
    longitude: float | None = None,
    other_names: Sequence[str] = (),
) -> City:
    """Add one city.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession
        An engine commits; with a connection or a session, the caller does. A session keeps the object.
    name, country, region : str
        Together the city's key.
    population : int
        Persons, 0 or more.
    latitude, longitude : float, optional
        Degrees; None where unknown.
    other_names : sequence of str
        By these, too, `find_cities` finds the city.

    Returns
    -------
    City
        As stored, with its ``id``.

    Raises
    ------
    DuplicateCityError
        "The city is already stored", with the key; ``error.keys`` has it too.
    InvalidFrameError
        If a value breaks the table's rules.
    CitykitError
        If others hold a lock on the table for longer than the engine waits for one (30 s), or the table's
        numbering gives an id that is there already.

    Examples
    --------
    >>> await citykit.add_city(engine, "Brigadoon", 1_000, country="GB", region="SCT")
    City('Brigadoon', country='GB', region='SCT', population=1000)
    """
    given = {
        "name": name,
        "country": country,
        "region": region,
        "population": population,
        "latitude": latitude,
        "longitude": longitude,
        OTHER_NAMES: other_names,
    }
    return await in_transaction(bind, adding(bind, given), repeatable=lambda: True)


def adding(bind: Bind, city: Mapping[str, Any]) -> Work[City]:
    """Return the work that adds a city in a transaction on `bind`; its values are checked at once."""
    rules = _rules()
    values = _checked(city, rules)
    names = values.pop(OTHER_NAMES, ())

    async def work(connection: AsyncConnection) -> City:
        limited = in_encoding(rules, driver_of(connection).get_settings().server_encoding)
        if limited != rules:
            _checked(city, limited)
        async with lock_bound(connection, CITIES.name, UNDONE):  # a session's objects were flushed
            added = City(**values)
            try:
                if isinstance(bind, AsyncSession):
                    bind.add(added)
                    await bind.flush()
                elif isinstance(bind, AsyncConnection):
                    async with connection.begin_nested():
                        await _insert(connection, added)
                else:
                    await _insert(connection, added)
            except DBAPIError as exc:
                if isinstance(bind, AsyncEngine) and not exc.connection_invalidated:
                    await connection.rollback()  # then the server answers questions again
                if taken := await _taken(connection, values, exc):
                    raise taken from exc
                raise
            if names:
                await check_table(connection, UNDONE)
                await write_names(connection, ONE_CITY, *(values[column] for column in KEY), names)
            if not isinstance(bind, AsyncEngine):  # the caller's transaction may have created the table
                await settle_numbers(connection, CITIES.name)
        return added

    return work


@cache
def _rules() -> list[Rule]:
    return [*rules_of(CITIES), rule_of_names()]


def _checked(given: Mapping[str, object], rules: Sequence[Rule]) -> dict[str, Any]:
    """Return the values of one city as they are stored."""
    stored, rejects = validate_row(given, rules)
    if rejects:
        said = [
            f"{column} {shown_value(value)} cannot be stored ({reason})"
            for _, column, value, reason in rejects
        ]
        broken = [rule.meaning for rule in rules if rule.name in {column for _, column, *_ in rejects}]
        message = f"{'; '.join(said)}; nothing was changed.\n{' '.join(broken)}"
        raise InvalidFrameError(message, rejects_frame(rejects))
    return stored


async def _insert(connection: AsyncConnection, city: City) -> None:
    """Insert a city without a session, which costs more; the object is detached afterwards."""
    values = {column: getattr(city, column) for column in COLUMNS}
    city.id = await connection.scalar(insert(CITIES).returning(CITIES.c["id"]), values)
    make_transient_to_detached(city)


async def _taken(
    connection: AsyncConnection, values: Mapping[str, Any], exc: DBAPIError
) -> CitykitError | None:
    """Return the error that says which key is taken; None where the server refused for another reason."""
    if sqlstate(exc) != Condition.UNIQUE_VIOLATION:
        return None
    violated = await violated_by(connection, CITIES.name, exc)
    if violated.columns == set(KEY):
        key = tuple(values[column] for column in KEY)
        shown = ", ".join(filter(None, key))
        return DuplicateCityError(f"The city is already stored: {shown}", [key])
    return violated.behind(CITIES.name, values, UNDONE) or DuplicateKeyError(f"{violated.said}; {UNDONE}")
