"""Typed columns as the bytes that COPY takes. No I/O, no database."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import csv

# Every text is quoted and a NULL is not, which is how COPY tells '' from NULL (and keeps \. a text).
_OPTIONS = csv.WriteOptions(include_header=False, quoting_style="needed")


def encode_csv(batch: pa.RecordBatch) -> bytes:
    r"""Encode a batch for ``COPY … FROM STDIN (FORMAT csv)``.

    Examples
    --------
    >>> import pyarrow as pa
    >>> encode_csv(pa.record_batch({"name": ["Åre", "", None], "latitude": [63.4, None, -0.5]}))
    b'"\xc3\x85re",63.4\n"",\n,-0.5\n'
    """
    sink = pa.BufferOutputStream()
    csv.write_csv(batch, sink, _OPTIONS)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded
