from __future__ import annotations

import csv
import io

import pyarrow as pa

from citykit.encode.copy_format import encode_csv


def test_null_is_unquoted_and_empty_text_is_quoted() -> None:
    assert encode_csv(pa.record_batch({"a": ["", None, "x"]})) == b'""\n\n"x"\n'


def test_text_with_everything_that_csv_treats_specially_is_read_back_as_it_was() -> None:
    texts = ['"', ",", "\n", "\r\n", "\\.", "a\n\\.\nb", "\\N", " a ", "'", ";", "\t", "é東京🏙", "NULL"]
    encoded = encode_csv(pa.record_batch({"a": texts, "b": texts}))
    rows = list(csv.reader(io.StringIO(encoded.decode(), newline="")))
    assert rows == [[text, text] for text in texts]


def test_floats_keep_every_bit() -> None:
    numbers = [0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, 64.13548]
    encoded = encode_csv(pa.record_batch({"a": numbers})).decode().split()
    assert [float(text).hex() for text in encoded] == [number.hex() for number in numbers]
