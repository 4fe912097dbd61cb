"""The statement that finds cities by a part of their names, best first, and the trigram index for it."""

# ruff: noqa: S608  the names of citykit's own tables and columns

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.cities.folding import (
    BEGIN,
    END,
    INDEXED_ENCODINGS,
    NAMES_INDEX,
    SEARCH_INDEX,
    compact,
    folded,
    indexed_name,
    spelled,
)
from citykit.cities.model import COLUMNS, KEY, same_city
from citykit.database import Condition, in_transaction, sqlstate
from citykit.encode import lacking

SELECTED = ", ".join(COLUMNS)
ORDER = "population DESC, name, country, region"
# Characters that have a meaning in LIKE, and their escaped forms, both as SQL literals.
# E'…', in which a backslash is doubled: standard_conforming_strings may be off.
_LITERALLY = {r"E'\\'": r"E'\\\\'", "'%'": r"E'\\%'", "'_'": r"E'\\_'"}


def part_in(encoding: str, part: str) -> str | None:
    """Return a part of a name normalized for an encoding; None if the encoding lacks one of its characters.

    Only UTF8 has combining accents: the others have é as one character.
    """
    if encoding not in INDEXED_ENCODINGS:
        part = unicodedata.normalize("NFC", part)
    return None if lacking(encoding, part) else part


@functools.cache
def part_statement(encoding: str) -> str:
    """Return the statement that folds a part of a name ($1), and escapes it for LIKE.

    Its columns: the part as in the index of names; folded; as in the index of other names; and whether other
    names can be searched. A database of an earlier version has no table of them, and a role may
    not be allowed to read it. The statements that search would fold the part dozens of times.
    """
    sought = '($1::text COLLATE "C")'
    part = spelled(sought) if encoding in INDEXED_ENCODINGS else folded(sought, encoding)
    other = compact("folded") if encoding == "UTF8" else "''"
    return f"""
    SELECT {_literally("part")}, {_literally("folded")}, {_literally(other)}, coalesce((
        SELECT has_table_privilege(attrelid, 'SELECT') FROM pg_attribute
        WHERE attrelid = to_regclass('city_names') AND attname = 'compact'), false)
    FROM (SELECT {part} AS part, {folded(sought, encoding)} AS folded OFFSET 0) AS sought
    """


def letters_of(part: str) -> int:
    """Return how the trigram index can be used for a part of a name.

    3: by its trigrams. 2: by its two letters or digits and each character that may follow. 1: not at all.
    0: by its trigrams, if it still has three characters as the index spells it (é has one).
    """
    if not part.isascii():
        return 3 if len(part) > 2 else 0
    known = sum(map(str.isalnum, part))
    return 3 if known and len(part) > 2 else max(known, 1)


@functools.cache
def find_statement(encoding: str, letters: int, *, numbers: bool = True, in_country: bool = False) -> str:
    """Return the statement that finds cities by a part of their own names.

    Its parameters: the part as the index spells it ($1), how many are wanted ($2), the folded part ($3),
    the country ($4).

    Parameters
    ----------
    encoding : str
        The database's.
    letters : int
        What the index can tell of the part (:func:`letters_of`).
    numbers : bool
        Whether the folded part has characters by which :func:`spelled` writes others (`IN_NUMBERS`), so that
        the folded names have to be compared as well.
    in_country : bool
        Whether only one country is searched.
    """
    indexed = encoding in INDEXED_ENCODINGS
    here = "c.country = $4" if in_country else "true"
    name = indexed_name(encoding)

    # Without the first %, the pattern would have the trigram "  q", which every name has.
    begin = f"'{'%' if letters > 1 else ''}{BEGIN}' || part"
    patterns = (f"{begin} || '{END}'", f"{begin} || '%'", "'%' || part || '%'")

    def matches(rank: int, name: str = name) -> str:
        condition = f"{name} LIKE {patterns[rank]}"
        if rank < 2:
            return condition
        if letters == 2 and indexed:
            condition = f"{name} ~ {_TWO_LETTERS.format('part')}"
        if not (numbers and indexed):
            return condition
        return f"{condition} AND {folded('c.name', encoding)} LIKE '%' || folded_part || '%'"

    def candidates(rank: int) -> str:
        return f"SELECT {SELECTED} FROM cities c, sought WHERE {here} AND {_only(rank, matches)}"

    def among_the_largest(rank: int) -> str:
        largest = f"SELECT {SELECTED}, {name} AS spelled FROM cities c WHERE {here} ORDER BY {ORDER}"
        spelled = functools.partial(matches, name="spelled")
        return (
            f"SELECT {SELECTED}, {rank} AS rank FROM ({largest} LIMIT {LARGEST}) AS c, sought "
            f"WHERE {_only(rank, spelled)} LIMIT $2"
        )

    return _by_rank(letters, candidates, among_the_largest, "({}) AS c".format)


@functools.cache
def find_other_statement(encoding: str, letters: int, *, in_country: bool = False) -> str:
    """Return the statement that finds cities by a part of their other names, as :func:`find_statement` does.

    Its parameters: the part as the index has it ($1), how many are wanted ($2), the folded part ($3), the
    part as it was given ($4), the country ($5). Its last column is the name that matched: of several that
    match equally well, one with the accents of the part, else the first.
    """
    indexed = encoding == "UTF8"
    here = "c.country = $5" if in_country else "true"
    patterns = (f"'%{BEGIN}' || {{}} || '{END}%'", f"'%{BEGIN}' || {{}} || '%'", "'%' || {} || '%'")

    def matches(rank: int) -> str:
        condition = f"n.folded LIKE {patterns[rank].format('folded_part')}"
        if not indexed:
            return condition
        by_index = f"n.compact LIKE {patterns[rank].format('part')}"
        if rank == 2 and letters == 2:
            by_index = f"n.compact ~ {_TWO_LETTERS.format('part')}"
        return f"{by_index} AND {condition}"

    def candidates(rank: int) -> str:
        return f"SELECT {', '.join(KEY)} FROM city_names n, sought WHERE {_only(rank, matches)}"

    def among_the_largest(rank: int) -> str:
        largest = f"SELECT {SELECTED} FROM cities c WHERE {here} ORDER BY {ORDER} LIMIT {LARGEST}"
        return (
            f"SELECT c.*, {rank} AS rank FROM ({largest}) AS c CROSS JOIN LATERAL (SELECT FROM city_names n, "
            f"sought WHERE {same_city('n', 'c')} AND {_only(rank, matches)} LIMIT 1) AS n LIMIT $2"
        )

    def cities(names: str) -> str:
        # LIMIT 1 makes the planner look up each city by its key.
        city = f"SELECT {SELECTED} FROM cities c WHERE {same_city('c', 'n')} AND {here} LIMIT 1"
        return f"({names}) AS n CROSS JOIN LATERAL ({city}) AS c"

    ranks = " ".join(
        f"WHEN {rank} THEN '{BEGIN}' || one.name || '{END}' LIKE {pattern.format('folded_part')}"
        for rank, pattern in enumerate(patterns)
    )
    every = f"string_to_array(substr(n.folded, 2, length(n.folded) - 2), '{END} {BEGIN}')"
    matched = f"""(
        SELECT n.other_names[one.position]
        FROM unnest({every}) WITH ORDINALITY AS one (name, position), sought
        WHERE CASE found.rank {ranks} END
        ORDER BY strpos(lower(n.other_names[one.position]), lower($4::text)) = 0, one.position
        LIMIT 1
    )"""
    names = f"SELECT other_names, folded FROM city_names n WHERE {same_city('n', 'found')} LIMIT 1"
    answer = f"SELECT found.*, {matched} FROM found CROSS JOIN LATERAL ({names}) AS n"
    return _by_rank(letters, candidates, among_the_largest, cities, answer)


def _by_rank(
    letters: int,
    candidates: Callable[[int], str],
    among_the_largest: Callable[[int], str],
    cities: Callable[[str], str],
    answer: str = "SELECT * FROM found",
) -> str:
    """Return the statement that finds the best cities: names that are the part, begin with it, contain it.

    Parameters
    ----------
    candidates, among_the_largest : callable
        For a rank, the SELECT of all matches, and of the matches among the largest cities.
    cities : callable
        For a SELECT of candidates, the FROM of their cities `c`.
    answer : str
        The SELECT from the cities that were `found`, with their `rank`.
    """

    def largest_of(rank: int, found: str, condition: str = "true") -> str:
        # OFFSET 0 keeps the planner from walking the population index instead of using the trigrams.
        return (
            f"(SELECT c.*, {rank} AS rank FROM {cities(f'{found} OFFSET 0')} WHERE {condition} "
            f"ORDER BY {ORDER} LIMIT $2)"
        )

    tables, branches = [], [largest_of(0, candidates(0))]
    for rank in (1, 2):
        tables.append(f"some{rank} AS MATERIALIZED ({candidates(rank)} LIMIT {FEW + 1})")
        tables.append(f"walked{rank} AS MATERIALIZED ({among_the_largest(rank)})")
        few = "false" if letters == 1 else f"(SELECT count(*) FROM some{rank}) <= {FEW}"
        enough = f"(SELECT count(*) FROM walked{rank}) >= $2"
        branches += [
            largest_of(rank, f"SELECT * FROM some{rank}", few),
            f"(SELECT * FROM walked{rank} WHERE CASE WHEN {few} THEN false ELSE {enough} END)",
            largest_of(rank, candidates(rank), f"CASE WHEN {few} THEN false ELSE NOT {enough} END"),
        ]
    # UNION ALL runs its branches in order; the LIMIT ends it, so that later branches may never run.
    return f"""
    WITH sought AS NOT MATERIALIZED (
            SELECT $1::text COLLATE "C" AS part, $3::text COLLATE "C" AS folded_part
        ), {", ".join(tables)},
        found AS NOT MATERIALIZED (SELECT * FROM ({" UNION ALL ".join(branches)}) AS every LIMIT $2)
    {answer}
    """


FEW = 500  # up to so many matches, all are looked up
# With more matches, enough are most likely among the largest cities: these are searched first.
LARGEST = 1_000
IN_NUMBERS = "0123456789\\"
# Two letters and the character after them (END at the end of a name) make a trigram.
_TWO_LETTERS = r"({} || E'[\\x01-\\x7f]')"


def _only(rank: int, matches: Callable[[int], str]) -> str:
    """Return the condition for names that match by this rank and by no better one."""
    return f"{matches(rank)} AND NOT ({matches(rank - 1)})" if rank else matches(rank)


def _literally(text: str) -> str:
    """Return a text expression escaped for LIKE."""
    for character, literally in _LITERALLY.items():
        text = f"replace({text}, {character}, {literally})"
    return text


async def create_search_indexes(engine: AsyncEngine) -> None:
    """Create the trigram index of each table that is large, owned by this role and not being written.

    The first search makes them and not `create_tables`: with them, every load takes 1.5 to 2 times as long,
    also of a table that is never searched.
    """

    async def wanted(connection: AsyncConnection) -> list[str]:
        args = (list(_INDEXES), list(_INDEXES.values()), _LARGE_BYTES, list(INDEXED_ENCODINGS))
        return list((await connection.exec_driver_sql(_WANTS_SEARCH_INDEX, args)).scalars())

    for table in await in_transaction(engine, wanted, effect="reads"):
        await in_transaction(engine, functools.partial(_create_search_index, table))


async def _create_search_index(table: str, connection: AsyncConnection) -> None:
    name = indexed_name() if table == "cities" else "compact"
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
    Condition.LOCK_NOT_AVAILABLE,  # another session writes: the next search tries again
    Condition.INSUFFICIENT_PRIVILEGE,  # no right to create the extension after all
    Condition.UNDEFINED_FILE,  # its library is missing
    Condition.UNDEFINED_OBJECT,  # it is in a schema that search_path leaves out
    Condition.DUPLICATE_OBJECT,  # another session created it just now
    Condition.UNIQUE_VIOLATION,
)
