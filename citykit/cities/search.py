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


def _part(encoding: str) -> tuple[str, str]:
    """Return the SQL expressions of the part $1 of a name for LIKE: as the index spells it, and folded."""
    sought = '($1::text COLLATE "C")'
    folded_part = folded(sought, encoding)
    part = spelled(sought) if encoding in INDEXED_ENCODINGS else folded_part
    for character, literally in _LITERALLY.items():
        part = f"replace({part}, {character}, {literally})"
        folded_part = f"replace({folded_part}, {character}, {literally})"
    return part, folded_part


@functools.cache
def find_statement(encoding: str, letters: int, *, in_country: bool = False) -> str:
    """Return the statement for a part of a name: $1, of which $2 cities are wanted (of the country $3).

    `encoding` is the database's; `letters` says what the index can tell of the part (:func:`letters_of`).
    """
    name = indexed_name(encoding)
    indexes = encoding in INDEXED_ENCODINGS
    part, folded_part = _part(encoding)
    here = "country = $3" if in_country else "true"

    def ranked(rank: int, condition: str, *, indexed: bool = True, among: str = "cities") -> str:
        # `population + 0` keeps the planner from walking the population index: the trigram index must serve
        # this query, also where the table has no statistics.
        order = ORDER.replace("population", "population + 0") if indexed else ORDER
        where = condition.format(name=name if among == "cities" else "spelled")
        return (
            f"(SELECT {SELECTED}, {rank} AS rank FROM {among}, sought WHERE {here} AND {where} "  # noqa: S608
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
            SELECT {SELECTED}, {name} AS spelled FROM cities WHERE {here} ORDER BY {ORDER}
            LIMIT {_LARGEST[letters]}
        ),
        begun AS MATERIALIZED {ranked(1, begins, indexed=False, among="largest")},
        contained AS MATERIALIZED {ranked(2, contains, indexed=False, among="largest")}
    SELECT * FROM ({" UNION ALL ".join(branches)}) AS found LIMIT $2
    """  # noqa: S608


@functools.cache
def find_other_statement(encoding: str, letters: int, *, numbers: bool, in_country: bool = False) -> str:
    """Return the statement that finds cities by a part of their other names, with the name that matched.

    Its parameters are those of :func:`find_statement`. `numbers`: the part has characters by which
    :func:`spelled` writes others, so that the folded names are compared as well. Of several names that
    match equally well, the one that matched is one with the same accents, else the first.
    """
    part, folded_part = _part(encoding)
    here = "country = $3" if in_country else "true"
    key = "AND ".join(f"{{0}}.{name} = {{1}}.{name} " for name in KEY)
    # By rank. Each name is between BEGIN and END, also in the texts with all names of a city.
    patterns = (f"'%{BEGIN}' || {{}} || '{END}%'", f"'%{BEGIN}' || {{}} || '%'", "'%' || {} || '%'")

    def name_matches(rank: int) -> str:
        if numbers:
            name = folded('(n.other_names[one.position] COLLATE "C")', encoding)
            return f"'{BEGIN}' || {name} || '{END}' LIKE {patterns[rank].format('folded_part')}"
        return f"'{BEGIN}' || one.name || '{END}' LIKE {patterns[rank].format('part')}"

    each = (
        f"FROM unnest(string_to_array(substr(n.sought, 2, length(n.sought) - 2), '{END} {BEGIN}')) "
        "WITH ORDINALITY AS one (name, position)"
    )

    def city_matches(rank: int) -> str:
        matches = f"n.sought LIKE {patterns[rank].format('part')}"
        if rank == 2 and letters == 2 and encoding in INDEXED_ENCODINGS:
            matches = r"n.sought ~ (part || E'[\\x01-\\x7f]')"
        if numbers:
            matches += f" AND EXISTS (SELECT {each} WHERE {name_matches(rank)})"
        return matches

    def ranked(rank: int, unless: str = "true") -> str:
        # OFFSET 0 and LIMIT 1 fix the plan: names are looked up by their index, then each city by its key.
        better = "".join(f" AND NOT ({city_matches(other)})" for other in range(rank))
        return f"""(
            SELECT c.*, {rank} AS rank
            FROM (SELECT {", ".join(KEY)} FROM city_names n, sought
                  WHERE {unless} AND {city_matches(rank)}{better} OFFSET 0) AS n
            CROSS JOIN LATERAL (SELECT {SELECTED} FROM cities c WHERE {key.format("c", "n")} LIMIT 1) AS c
            WHERE {here.replace("country", "c.country")} ORDER BY {ORDER} LIMIT $2)"""  # noqa: S608

    def among_the_largest(rank: int) -> str:
        better = "".join(f" AND NOT ({city_matches(other)})" for other in range(rank))
        return f"""(
            SELECT c.*, {rank} AS rank FROM (
                SELECT {SELECTED} FROM cities WHERE {here} ORDER BY {ORDER} LIMIT {_LARGEST[letters]}
            ) AS c CROSS JOIN LATERAL (
                SELECT FROM city_names n, sought
                WHERE {key.format("n", "c")} AND {city_matches(rank)}{better} LIMIT 1
            ) AS n LIMIT $2)"""  # noqa: S608

    enough = "(SELECT count(*) FROM {}) >= $2"
    branches = (
        ranked(0),
        f"(SELECT * FROM begun WHERE {enough.format('begun')})",  # noqa: S608
        ranked(1, f"NOT {enough.format('begun')}"),
        f"(SELECT * FROM contained WHERE {enough.format('contained')})",  # noqa: S608
        ranked(2, f"NOT {enough.format('contained')}"),
    )
    whens = " ".join(f"WHEN {rank} THEN {name_matches(rank)}" for rank in range(3))
    return f"""
    WITH sought AS NOT MATERIALIZED (SELECT {part} AS part, {folded_part} AS folded_part),
        begun AS MATERIALIZED {among_the_largest(1)},
        contained AS MATERIALIZED {among_the_largest(2)}
    SELECT found.*, (
        SELECT n.other_names[one.position] {each}, sought WHERE CASE found.rank {whens} END
        ORDER BY strpos(lower(n.other_names[one.position] COLLATE "C"), lower($1)) = 0, one.position LIMIT 1
    ) AS matched
    FROM (SELECT * FROM ({" UNION ALL ".join(branches)}) AS every LIMIT $2) AS found
    CROSS JOIN LATERAL (
        SELECT other_names, sought FROM city_names n WHERE {key.format("n", "found")} LIMIT 1
    ) AS n
    """  # noqa: S608


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
