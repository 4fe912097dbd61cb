"""Storing cities: those of a frame or a file, and a single one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from citykit.cities.model import CITIES, KEY, City
from citykit.cities.other_names import (
    ONE_CITY,
    OTHER_NAMES,
    OtherNames,
    check_table,
    rule_of_names,
    write_names,
)
from citykit.cities.schema import UNDONE
from citykit.database import Bind, Condition, driver_of, in_transaction, lock_bound, sqlstate
from citykit.encode import POSITION, Rule, in_encoding, rules_of, validate
from citykit.errors import DuplicateCityError, DuplicateKeyError, InvalidFrameError
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
        The columns to load, by their names in the table (so after `rename`). None: all, and one that the
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
    rules = [*rules_of(CITIES), rule_of_names()]
    values = _checked(given, rules)
    names = values.pop(OTHER_NAMES)

    async def work(connection: AsyncConnection) -> City:
        limited = in_encoding(rules, driver_of(connection).get_settings().server_encoding)
        if limited != rules:
            _checked(given, limited)
        async with lock_bound(connection, CITIES.name, UNDONE):  # what a session held was flushed
            city = City(**values)
            try:
                if isinstance(bind, AsyncSession):
                    bind.add(city)
                    await bind.flush()
                else:
                    async with (
                        AsyncSession(
                            connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
                        ) as session,
                        session.begin(),
                    ):
                        session.add(city)
            except IntegrityError as exc:
                if sqlstate(exc) != Condition.UNIQUE_VIOLATION:
                    raise
                violated = await violated_by(connection, CITIES.name, exc)
                if violated.columns == set(KEY):
                    key = tuple(values[column] for column in KEY)
                    shown = ", ".join(filter(None, key))
                    raise DuplicateCityError(f"The city is already stored: {shown}", [key]) from exc
                if behind := violated.behind(CITIES.name, values, UNDONE):
                    raise behind from exc
                raise DuplicateKeyError(f"{violated.said}; {UNDONE}") from exc
            if names:
                await check_table(connection, UNDONE)
                await write_names(connection, ONE_CITY, *(values[column] for column in KEY), names)
            if not isinstance(bind, AsyncEngine):  # the caller's transaction may have created the table
                await settle_numbers(connection, CITIES.name)
        return city

    return await in_transaction(bind, work, repeatable=lambda: True)


def _checked(given: Mapping[str, object], rules: Sequence[Rule]) -> dict[str, Any]:
    """Return the values of one city as they are stored."""
    rows, rejects = validate(
        pd.DataFrame({column: pd.Series([given[column]], dtype=object) for column in given}), rules
    )
    if len(rejects):
        said = [f"{r.column} {r.value!r} cannot be stored ({r.reason})" for r in rejects.itertuples()]
        broken = [rule.meaning for rule in rules if rule.name in set(rejects["column"])]
        raise InvalidFrameError(f"{'; '.join(said)}; nothing was changed.\n{' '.join(broken)}", rejects)
    stored: dict[str, Any] = rows.drop_columns(POSITION).to_pylist()[0]
    return stored
