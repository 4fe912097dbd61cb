"""The statement that finds cities by a part of their names, best first, and the trigram index for it."""

# ruff: noqa: S608  the names of citykit's own tables and columns

from __future__ import annotations

import functools
import unicodedata

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.cities.folding import (
    BEGIN,
    END,
    INDEXED_ENCODINGS,
    NAMES_INDEX,
    SEARCH_INDEX,
    folded,
    indexed_name,
    spelled,
)
from citykit.cities.model import COLUMNS, KEY
from citykit.database import Condition, in_transaction, sqlstate
from citykit.encode import lacks

SELECTED = ", ".join(COLUMNS)
ORDER = "population DESC, name, country, region"
# Characters that stand for themselves in a pattern of LIKE once they are escaped, both as SQL literals.
# E'…', in which a backslash is doubled: standard_conforming_strings may be off.
_LITERALLY = {r"E'\\'": r"E'\\\\'", "'%'": r"E'\\%'", "'_'": r"E'\\_'"}


def part_in(encoding: str, part: str) -> str | None:
    """Return a part of a name as a database in that encoding can have it, None where no name can have it.

    Only UTF8 has combining accents: the others have é as one character.
    """
    if encoding not in INDEXED_ENCODINGS:
        part = unicodedata.normalize("NFC", part)
    return None if lacks(encoding, part) else part


def letters_of(part: str) -> int:
    """Return how the trigram index can be used for a part of a name.

    3: by its trigrams. 2: by its two letters or digits and each character that may follow. 1: not at all.
    0: by its trigrams, if it still has three characters as the index spells it (an accent alone has none).
    """
    if not part.isascii():
        return 3 if len(part) > 2 else 0
    known = sum(map(str.isalnum, part))
    return 3 if known and len(part) > 2 else max(known, 1)


@functools.cache
def find_statement(
    encoding: str, letters: int, *, numbers: bool = True, other_names: bool = False, in_country: bool = False
) -> str:
    """Return the statement for a part of a name: $1, of which $2 cities are wanted (of the country $3).

    Parameters
    ----------
    encoding : str
        The database's.
    letters : int
        What the index can tell of the part (:func:`letters_of`).
    numbers : bool
        Whether the part has characters by which :func:`spelled` writes others (`IN_NUMBERS`), so that the
        folded names have to be compared as well.
    other_names : bool
        Whether the other names of the cities are searched. The last column is the one that matched: of
        several that match equally well one with the accents of the part, else the first.
    in_country : bool
    """
    indexed = encoding in INDEXED_ENCODINGS
    here = "c.country = $3" if in_country else "true"
    part, folded_part = _part(encoding)
    if other_names:
        text, anywhere, rows = "n.sought", "%", "city_names n, sought"
    else:  # without the %, the pattern has the trigram "  q" of every name
        text, anywhere, rows = indexed_name(encoding), "%" if letters > 1 else "", "cities c, sought"
    # Exactly, at its beginning, anywhere: each takes what those before it take as well.
    ends = f"{END}%" if other_names else END
    patterns = (f"'{anywhere}{BEGIN}' || part || '{ends}'", f"'{anywhere}{BEGIN}' || part || '%'")
    patterns += ("'%' || part || '%'",)
    each = (
        f"FROM unnest(string_to_array(substr(n.sought, 2, length(n.sought) - 2), '{END} {BEGIN}')) "
        "WITH ORDINALITY AS one (name, position), sought"
    )

    def matches(rank: int, text: str = text) -> str:
        """Return the condition for names that match as well as that, or better."""
        if rank == 2 and letters == 2 and indexed and "one." not in text:
            # The two letters and one more character, at the end of a name END, make a trigram.
            condition = rf"{text} ~ (part || E'[\\x01-\\x7f]')"
        else:
            condition = f"{text} LIKE {patterns[rank]}"
        if rank < 2 or not (numbers and indexed):
            return condition
        if not other_names:
            return f"{condition} AND {folded('name', encoding)} LIKE '%' || folded_part || '%'"
        if "one." in text:
            other = '(n.other_names[one.position] COLLATE "C")'
            return f"{condition} AND {folded(other, encoding)} LIKE '%' || folded_part || '%'"
        return f"{condition} AND EXISTS (SELECT {each} WHERE {matches(2, _ONE)})"

    def candidates(rank: int) -> str:
        better = f" AND NOT ({matches(rank - 1)})" if rank else ""
        if other_names:
            return f"SELECT {', '.join(KEY)} FROM {rows} WHERE {matches(rank)}{better}"
        return f"SELECT {SELECTED} FROM {rows} WHERE {here} AND {matches(rank)}{better}"

    def largest_of(rank: int, found: str, condition: str = "true") -> str:
        """Return the SELECT of the largest cities among those that were found."""
        # OFFSET 0 and LIMIT 1 fix the plan: names are looked up by their index, then each city by its key.
        cities = f"({found} OFFSET 0) AS c"
        if other_names:
            cities = (
                f"({found} OFFSET 0) AS n CROSS JOIN LATERAL "
                f"(SELECT {SELECTED} FROM cities c WHERE {_same('c', 'n')} AND {here} LIMIT 1) AS c"
            )
        return f"(SELECT c.*, {rank} AS rank FROM {cities} WHERE {condition} ORDER BY {ORDER} LIMIT $2)"

    def walk(rank: int) -> str:
        """Return the SELECT of the largest cities that match, of the largest of all."""
        largest = f"SELECT {SELECTED}{{}} FROM cities c WHERE {here} ORDER BY {ORDER} LIMIT {LARGEST}"
        better = f" AND NOT ({matches(rank - 1)})"
        if other_names:
            return (
                f"SELECT c.*, {rank} AS rank FROM ({largest.format('')}) AS c CROSS JOIN LATERAL (SELECT "
                f"FROM {rows} WHERE {_same('n', 'c')} AND {matches(rank)}{better} LIMIT 1) AS n LIMIT $2"
            )
        return (
            f"SELECT {SELECTED}, {rank} AS rank FROM ({largest.format(f', {text} AS spelled')}) AS c, sought "
            f"WHERE {matches(rank, 'spelled')} AND NOT ({matches(rank - 1, 'spelled')}) LIMIT $2"
        )

    def ranked(rank: int) -> tuple[str, ...]:
        """Return the branches for a rank of which there may be very many names."""
        few = f"(SELECT count(*) FROM some{rank}) <= {FEW}" if letters != 1 else "false"
        walked = f"(SELECT count(*) FROM walked{rank}) >= $2"
        return (
            largest_of(rank, f"SELECT * FROM some{rank}", few),
            f"(SELECT * FROM walked{rank} WHERE CASE WHEN {few} THEN false ELSE {walked} END)",
            largest_of(rank, candidates(rank), f"CASE WHEN {few} THEN false ELSE NOT {walked} END"),
        )

    # UNION ALL runs its branches in order; the LIMIT ends it, so that later branches may never run.
    branches = (largest_of(0, candidates(0)), *ranked(1), *ranked(2))
    found = f"SELECT * FROM ({' UNION ALL '.join(branches)}) AS every LIMIT $2"
    if other_names:
        whens = " ".join(f"WHEN {rank} THEN {matches(rank, _ONE)}" for rank in range(3))
        found = f"""
        SELECT found.*, (
            SELECT n.other_names[one.position] {each} WHERE CASE found.rank {whens} END
            ORDER BY strpos(lower(n.other_names[one.position] COLLATE "C"), lower($1)) = 0, one.position
            LIMIT 1
        ) AS matched
        FROM ({found}) AS found CROSS JOIN LATERAL (
            SELECT other_names, sought FROM city_names n WHERE {_same("n", "found")} LIMIT 1
        ) AS n"""
    return f"""
    WITH sought AS NOT MATERIALIZED (SELECT {part} AS part, {folded_part} AS folded_part),
        some1 AS MATERIALIZED ({candidates(1)} LIMIT {FEW + 1}), walked1 AS MATERIALIZED ({walk(1)}),
        some2 AS MATERIALIZED ({candidates(2)} LIMIT {FEW + 1}), walked2 AS MATERIALIZED ({walk(2)})
    {found}
    """


FEW = 1_000  # names that are looked up by the index at once
# Of more than that, enough are among the largest cities, most likely: these are walked through.
LARGEST = 2_000
IN_NUMBERS = "0123456789\\"
_ONE = f"'{BEGIN}' || one.name || '{END}'"  # one of the texts with all names of a city


def _part(encoding: str) -> tuple[str, str]:
    """Return the SQL expressions of the part $1 of a name for LIKE: as the index spells it, and folded."""
    sought = '($1::text COLLATE "C")'
    folded_part = folded(sought, encoding)
    part = spelled(sought) if encoding in INDEXED_ENCODINGS else folded_part
    for character, literally in _LITERALLY.items():
        part = f"replace({part}, {character}, {literally})"
        folded_part = f"replace({folded_part}, {character}, {literally})"
    return part, folded_part


def _same(one: str, other: str) -> str:
    return " AND ".join(f"{one}.{name} = {other}.{name}" for name in KEY)


async def create_search_indexes(engine: AsyncEngine) -> None:
    """Create the trigram index of each table that is large, owned by this role and not being written.

    They are made by the first search and not with the tables: every load of a table that nobody searches
    would take 1.5 to 2 times as long.
    """

    async def wanted(connection: AsyncConnection) -> list[str]:
        args = (list(_INDEXES), list(_INDEXES.values()), _LARGE_BYTES, list(INDEXED_ENCODINGS))
        return list((await connection.exec_driver_sql(_WANTS_SEARCH_INDEX, args)).scalars())

    for table in await in_transaction(engine, wanted, effect="reads"):
        await in_transaction(engine, functools.partial(_create_search_index, table))


async def _create_search_index(table: str, connection: AsyncConnection) -> None:
    name = indexed_name() if table == "cities" else "sought"
    index = f"INDEX IF NOT EXISTS {_INDEXES[table]} ON {table} USING gin ({name} gin_trgm_ops)"
    try:
        async with connection.begin_nested():
            # This lock lets readers go on.
            await connection.exec_driver_sql(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE NOWAIT")
            await connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            await connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_trgm")
            await connection.exec_driver_sql(f"CREATE {index}")
    except DBAPIError as exc:
        if sqlstate(exc) not in _WITHOUT_SEARCH_INDEX:
            raise


_INDEXES = {"cities": SEARCH_INDEX, "city_names": NAMES_INDEX}
_LARGE_BYTES = 1_000_000  # some 10,000 cities: a scan of them takes 5 ms
_WANTS_SEARCH_INDEX = """
SELECT searched.name
FROM unnest($1::text[], $2::text[]) AS searched (name, index)
JOIN pg_class ON oid = to_regclass(searched.name)
WHERE to_regclass(searched.index) IS NULL
    AND pg_relation_size(oid) >= $3
    AND current_setting('server_encoding') = ANY($4::text[])
    AND current_setting('transaction_read_only') = 'off'
    AND pg_has_role(relowner, 'USAGE')
    AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm' AND (
        installed_version IS NOT NULL OR has_database_privilege(current_database(), 'CREATE')
    ))
"""
_WITHOUT_SEARCH_INDEX = (
    Condition.LOCK_NOT_AVAILABLE,  # somebody writes: the next search tries again
    Condition.INSUFFICIENT_PRIVILEGE,  # no right to create the extension after all
    Condition.UNDEFINED_FILE,  # its library is missing
    Condition.UNDEFINED_OBJECT,  # it is in a schema that search_path leaves out
    Condition.DUPLICATE_OBJECT,  # somebody else created it just now
    Condition.UNIQUE_VIOLATION,
)
