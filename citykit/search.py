"""The statement that finds cities by a part of their names, best first. No I/O, no database."""

from __future__ import annotations

import functools

from citykit.cities import COLUMNS
from citykit.folding import folded

SELECTED = ", ".join(COLUMNS)
ORDER = "population DESC, name, country, region"
_LARGEST = 1_000


@functools.cache
def find_statement(folds: bool, letters: int) -> str:
    """Return the statement for a part of a name with so many letters (3: or more)."""
    fold = folded if folds else "lower({})".format
    name = fold("name")

    def ranked(rank: int, condition: str, *, indexed: bool = True, cities: str = "cities") -> str:
        # Nothing but an order that no index has makes sure, without statistics, that names are looked up.
        order = ORDER.replace("population", "population + 0") if indexed else ORDER
        return (
            f"(SELECT {SELECTED}, {rank} AS rank FROM {cities}, sought WHERE {condition} "  # noqa: S608
            f"ORDER BY {order} LIMIT $2)"
        )

    # Few letters begin so many names that enough are among the largest cities, which are soon looked through.
    largest = f"(SELECT {SELECTED} FROM cities ORDER BY population DESC, name LIMIT {_LARGEST}) AS cities"  # noqa: S608
    begins = f"{name} LIKE part || '%' AND {name} NOT LIKE part"
    contains = f"{name} LIKE '%' || part || '%' AND {name} NOT LIKE part || '%'"
    enough = "(SELECT count(*) FROM begun) >= $2"
    branches = (
        ranked(0, f"{name} LIKE part"),
        f"(SELECT * FROM begun WHERE {enough})",  # noqa: S608
        ranked(1, f"NOT {enough} AND {begins}", indexed=letters > 1),
        ranked(2, contains, indexed=letters > 2),
    )
    # They run one after the other, and those that the limit does not need never do.
    return f"""
    WITH sought AS NOT MATERIALIZED (SELECT {fold('($1::text COLLATE "C")')} AS part),
        begun AS MATERIALIZED ({ranked(1, begins, indexed=False, cities=largest)})
    SELECT * FROM ({" UNION ALL ".join(branches)}) AS found LIMIT $2
    """  # noqa: S608
