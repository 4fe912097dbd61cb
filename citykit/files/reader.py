"""A file of rows, read chunk by chunk; its suffix says how."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from citykit.errors import CitykitError
from citykit.files import csv_files, ndjson


def read_file(path: str | Path, dtypes: Mapping[str, str]) -> Iterator[pd.DataFrame | pa.RecordBatch]:
    """Yield the rows of a file chunk by chunk, for a load to check.

    Parameters
    ----------
    path : str or Path
        CSV, Parquet, lines of JSON objects (``.ndjson``) or an Arrow stream (``.arrows``). In a CSV file only
        an empty field is missing, so that Namibia's ``NA`` stays.
    dtypes : mapping of str to str
        For the kinds that do not say it themselves: which columns are of numbers ("int64", "float64"). All
        others are text.

    Raises
    ------
    CitykitError
        If there is no such file, it is of another kind, or it cannot be read.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Iterator[pd.DataFrame | pa.RecordBatch]]] = {
        ".csv": functools.partial(csv_files.read, dtypes=dtypes),
        ".parquet": _read_parquet,
        ".ndjson": functools.partial(ndjson.read, dtypes=dtypes),
        ".arrows": _read_arrow,
    }
    if path.suffix.lower() not in readers:
        raise CitykitError(f"{path} is neither a .csv nor a .parquet, .ndjson or .arrows file")
    try:
        yield from readers[path.suffix.lower()](path)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as exc:
        said = getattr(exc, "strerror", None) or " ".join(str(exc).split())
        if said.startswith("straddling object"):  # Arrow has no code for a row beyond a block
            said = (
                f"a row of it is longer than {csv_files.BLOCK_BYTES:,} bytes; perhaps a quote is never closed"
            )
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
            batch.validate(
                full=True
            )  # offsets and UTF-8 may be wrong in a stream, and later code relies on them
            yield batch
