"""The warning for a country that no city has, with the country that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.cities.world import spellings_of_countries
from citykit.database import Bind, in_transaction
from citykit.runtime import warn_at_caller

# Each step is one look into the index (country, population, name).
_STORED = """
WITH RECURSIVE stored AS (
    (SELECT country FROM cities ORDER BY country LIMIT 1)
    UNION ALL
    SELECT (SELECT c.country FROM cities c WHERE c.country > s.country ORDER BY c.country LIMIT 1)
    FROM stored s WHERE s.country IS NOT NULL
)
SELECT country FROM stored WHERE country IS NOT NULL LIMIT 2000
"""


async def warn_of_country(bind: Bind, country: str) -> None:
    """Warn, at the caller's line, if no city has this country and another was probably meant."""

    async def stored(connection: AsyncConnection) -> Sequence[str]:
        return (await connection.exec_driver_sql(_STORED)).scalars().all()

    if meant := _meant(country, await in_transaction(bind, stored, effect="reads")):
        warn_at_caller(f"no city has country {country!r}{meant}")


def _meant(country: str, stored: Sequence[str]) -> str:
    """Return the hint: the country that was probably meant, or where codes are listed; '' for none."""
    if meant := country_meant(country, stored):
        return f": did you mean {meant!r}?"
    asked = country.strip().casefold()
    is_code = len(asked) in (2, 3) and asked.isascii() and asked.isalpha()
    is_known = any(asked in map(str.casefold, names) for names in spellings_of_countries())
    lists = stored and country not in stored and is_code and not is_known
    return ": citykit.world_countries() lists the codes" if lists else ""


def country_meant(country: str, stored: Sequence[str]) -> str | None:
    """Return the stored country that was probably meant by one that is not stored, or None."""
    if country in stored:
        return None
    by_case = {spelling.casefold(): spelling for spelling in reversed(stored)}
    asked = country.strip().casefold()
    same = next((names for names in spellings_of_countries() if asked in map(str.casefold, names)), ())
    close = difflib.get_close_matches(asked, by_case, n=1, cutoff=0.8)
    for spelling in (asked, *map(str.casefold, same), *close):
        if spelling in by_case:
            return by_case[spelling]
    return None
