"""A file of rows, read chunk by chunk, by its ending."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from citykit.errors import CitykitError
from citykit.files import csv_files, ndjson


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
        ".csv": csv_files.read,
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
            batch.validate(full=True)  # what a stream says of itself may be wrong, and is relied on later
            yield batch
