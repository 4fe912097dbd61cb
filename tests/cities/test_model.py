"""What is known of a city's columns stands in the model; all else follows it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import citykit
from citykit.cities import CITIES, COLUMNS

# Runs with a copy of the model that has one column more.
WITH_ELEVATION = """
import json, sys, tempfile, types
from importlib.util import find_spec
from pathlib import Path

copy = types.ModuleType("citykit.cities.model")
source = Path(find_spec(copy.__name__).origin).read_text(encoding="utf-8")
column = '''    elevation: Mapped[int | None] = _limited(
        "elevation", Integer(), -500, 9000, "Elevations are metres.", unit="metres", example=61
    )

'''
sys.modules[copy.__name__] = copy
exec(source.replace("    __table_args__", column + "    __table_args__", 1), copy.__dict__)

from citykit.cities import CITIES, COLUMNS
from citykit.encode import rules_of, validate
from citykit.files import read_file
from citykit.web import page, schemas

read = {}
texts = {
    "csv": "name,population,elevation\\na,1,61\\n",
    "ndjson": '{"name": "a", "population": 1, "elevation": 61.0}',
}
for kind, text in texts.items():
    path = Path(tempfile.mkdtemp()) / f"rows.{kind}"
    path.write_text(text)
    read[kind] = validate(read_file(path), rules_of(CITIES))[0]["elevation"].to_pylist()
print(json.dumps({
    "columns": COLUMNS["elevation"],
    "taken": schemas.NewCity.model_json_schema()["properties"]["elevation"],
    "given": schemas.ListedCity.model_json_schema()["properties"]["elevation"]["anyOf"],
    "label": page._FIELDS["elevation"].label,
    "read": read,
}))
"""


@pytest.mark.slow
def test_a_new_column_of_the_model_is_in_the_schemas_the_form_and_the_readers() -> None:
    command = [sys.executable, "-c", WITH_ELEVATION]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    limits = {"type": "integer", "minimum": -500, "maximum": 9000}
    assert found["columns"] == "int64"
    assert found["taken"]["anyOf"] == [limits, {"type": "null"}]
    assert found["taken"]["description"] == "Elevations are metres."
    assert found["given"] == [{"type": "integer"}, {"type": "null"}]
    assert found["label"] == "Elevation (metres)"
    assert found["read"] == {"csv": [61], "ndjson": [61]}


@pytest.mark.slow
def test_the_columns_are_those_of_the_table_without_the_id() -> None:
    assert COLUMNS == {
        "name": "str", "country": "str", "region": "str",
        "population": "int64", "latitude": "float64", "longitude": "float64",
    }  # fmt: skip
    assert ["id", *COLUMNS] == CITIES.columns.keys()
    assert citykit.world_cities(10_000_000, other_names=False).dtypes.astype(str).to_dict() == COLUMNS
