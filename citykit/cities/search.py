"""The statement that finds cities by a part of their names, best first, and the trigram index for it."""

from __future__ import annotations

import functools
import unicodedata

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.cities.folding import (
    BEGIN,
    END,
    INDEXED_ENCODINGS,
    SEARCH_INDEX,
    folded,
    indexed_name,
    spelled,
)
from citykit.cities.model import COLUMNS
from citykit.database import Condition, in_transaction, sqlstate
from citykit.encode import lacking

SELECTED = ", ".join(COLUMNS)
ORDER = "population DESC, name, country, region"
_LARGEST = {
    0: 4_000,
    1: 4_000,
    2: 4_000,
    3: 1_000,
}  # by `letters`: how many of the largest cities are scanned first
# Characters that stand for themselves in a pattern of LIKE once they are escaped, both as SQL literals.
# E'…', in which a backslash is doubled: standard_conforming_strings may be off.
_LITERALLY = {r"E'\\'": r"E'\\\\'", "'%'": r"E'\\%'", "'_'": r"E'\\_'"}


def part_in(encoding: str, part: str) -> str | None:
    """Return a part of a name as a database in that encoding can have it, None where no name can have it.

    Only UTF8 has combining accents: the others have é as one character.
    """
    if encoding not in INDEXED_ENCODINGS:
        part = unicodedata.normalize("NFC", part)
    return None if lacking(encoding, part) else part


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
def find_statement(encoding: str, letters: int) -> str:
    """Return the statement for a part of a name: $1, of which $2 cities are wanted.

    `encoding` is the database's; `letters` says what the index can tell of the part (:func:`letters_of`).
    """
    name = indexed_name(encoding)
    sought = '($1::text COLLATE "C")'
    indexes = encoding in INDEXED_ENCODINGS
    folded_part = folded(sought, encoding)
    part = spelled(sought) if indexes else folded_part
    for character, literally in _LITERALLY.items():
        part = f"replace({part}, {character}, {literally})"
        folded_part = f"replace({folded_part}, {character}, {literally})"

    def ranked(rank: int, condition: str, *, indexed: bool = True, among: str = "cities") -> str:
        # `population + 0` keeps the planner from walking the population index: the trigram index must serve
        # this query, also where the table has no statistics.
        order = ORDER.replace("population", "population + 0") if indexed else ORDER
        where = condition.format(name=name if among == "cities" else "spelled")
        return (
            f"(SELECT {SELECTED}, {rank} AS rank FROM {among}, sought WHERE {where} "  # noqa: S608
            f"ORDER BY {order} LIMIT $2)"
        )

    anywhere = "%" if letters > 1 else ""  # without it, the pattern has the trigram "  q" of every name
    exact = f"{{name}} LIKE '{anywhere}{BEGIN}' || part || '{END}'"
    begins = f"{{name}} LIKE '{anywhere}{BEGIN}' || part || '%'"
    contains = f"{folded('name', encoding)} LIKE '%' || folded_part || '%'"
    if letters in (0, 3):
        contains = "{name} LIKE '%' || part || '%' AND " + contains
    elif letters == 2 and indexes:
        # The two letters and one more character, at the end of a name END, make a trigram.
        contains = r"{name} ~ (part || E'[\\x01-\\x7f]') AND " + contains
    begins, contains = f"{begins} AND NOT {exact}", f"{contains} AND NOT {begins}"
    # If very many names match, enough of them are among the largest cities, and the rest is not searched.
    enough = "(SELECT count(*) FROM {}) >= $2"
    branches = (
        ranked(0, exact),
        f"(SELECT * FROM begun WHERE {enough.format('begun')})",  # noqa: S608
        ranked(1, f"NOT {enough.format('begun')} AND {begins}"),
        f"(SELECT * FROM contained WHERE {enough.format('contained')})",  # noqa: S608
        ranked(2, f"NOT {enough.format('contained')} AND {contains}", indexed=letters != 1),
    )
    # UNION ALL runs its branches in order; the LIMIT ends it, so that later branches may never run.
    return f"""
    WITH sought AS NOT MATERIALIZED (SELECT {part} AS part, {folded_part} AS folded_part),
        largest AS MATERIALIZED (
            SELECT {SELECTED}, {name} AS spelled FROM cities ORDER BY {ORDER} LIMIT {_LARGEST[letters]}
        ),
        begun AS MATERIALIZED {ranked(1, begins, indexed=False, among="largest")},
        contained AS MATERIALIZED {ranked(2, contains, indexed=False, among="largest")}
    SELECT * FROM ({" UNION ALL ".join(branches)}) AS found LIMIT $2
    """  # noqa: S608


async def create_search_index(engine: AsyncEngine) -> None:
    """Create the trigram index, if the table is large, owned by this role and not being written.

    It is made by the first search and not with the table: every load of a table that nobody searches
    would take 1.5 to 2 times as long.
    """

    async def wanted(connection: AsyncConnection) -> bool:
        args = (SEARCH_INDEX, _LARGE_BYTES, list(INDEXED_ENCODINGS))
        return bool((await connection.exec_driver_sql(_WANTS_SEARCH_INDEX, args)).scalar())

    async def create(connection: AsyncConnection) -> None:
        index = f"INDEX IF NOT EXISTS {SEARCH_INDEX} ON cities USING gin ({indexed_name()} gin_trgm_ops)"
        try:
            async with connection.begin_nested():
                # This lock lets readers go on.
                await connection.exec_driver_sql("LOCK TABLE cities IN SHARE ROW EXCLUSIVE MODE NOWAIT")
                await connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                await connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_trgm")
                await connection.exec_driver_sql(f"CREATE {index}")
        except DBAPIError as exc:
            if sqlstate(exc) not in _WITHOUT_SEARCH_INDEX:
                raise

    if await in_transaction(engine, wanted, effect="reads"):
        await in_transaction(engine, create)


_LARGE_BYTES = 1_000_000  # some 10,000 cities: a scan of them takes 5 ms
_WANTS_SEARCH_INDEX = """
SELECT CASE WHEN to_regclass($1) IS NOT NULL OR pg_relation_size(oid) < $2 THEN false ELSE
    current_setting('server_encoding') = ANY($3::text[])
    AND current_setting('transaction_read_only') = 'off'
    AND pg_has_role(relowner, 'USAGE')
    AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm' AND (
        installed_version IS NOT NULL OR has_database_privilege(current_database(), 'CREATE')
    ))
END FROM pg_class WHERE oid = to_regclass('cities')
"""
_WITHOUT_SEARCH_INDEX = (
    Condition.LOCK_NOT_AVAILABLE,  # somebody writes: the next search tries again
    Condition.INSUFFICIENT_PRIVILEGE,  # no right to create the extension after all
    Condition.UNDEFINED_FILE,  # its library is missing
    Condition.UNDEFINED_OBJECT,  # it is in a schema that search_path leaves out
    Condition.DUPLICATE_OBJECT,  # somebody else created it just now
    Condition.UNIQUE_VIOLATION,
)
