"""The line of %%cities: which value a parameter has."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.error import UsageError

from citykit.magic import _read_line

VALUES: dict[str, Any] = {
    "x=42": 42,
    "x=-2.5": -2.5,
    "x=None": None,
    "x=True": True,
    "x='42'": "42",
    'x="42"': "42",
    "\"x='42'\"": "42",
    "x='a b'": "a b",
    '"x=a b"': "a b",
    'x="it\'s"': "it's",
    "x=[1,2]": [1, 2],
    "x=[1, 2]": [1, 2],
    "x=['a b', 'c']": ["a b", "c"],
    "x=(1,2)": (1, 2),
    "x=IS": "IS",
    "x=": "",
    "x=a=b": "a=b",
    "x=2024-02-29": "2024-02-29",
    "x=2024-10-11": "2024-10-11",
    "x='2024-02-29 12:00'": "2024-02-29 12:00",
    "x=007": "007",
    "x=1+1": "1+1",
    "x={[]:1}": "{[]:1}",  # TypeError
    f"x={'(' * 9999}": "(" * 9999,  # MemoryError or SyntaxError
    f"x={'-' * 9999}1": "-" * 9999 + "1",  # RecursionError
    "x=São": "São",
}


@pytest.mark.parametrize("given", VALUES, ids=lambda given: given[:20])
@pytest.mark.parametrize("option", ["-p", "--param"])
def test_a_value_is_the_literal_that_python_reads_else_text(given: str, option: str) -> None:
    assert _read_line(f"found {option} {given}") == ("found", {"x": VALUES[given]}, None)


def test_the_last_of_several_parameters_is_read_too() -> None:
    assert _read_line("-p a=1 name --param b='x y' -p c=[1, 2]") == (
        "name",
        {"a": 1, "b": "x y", "c": [1, 2]},
        None,
    )


def test_numerics_are_read_as_is_said() -> None:
    assert _read_line("found --numeric decimal -p a=1") == ("found", {"a": 1}, "decimal")
    assert _read_line("--numeric=float") == (None, {}, "float")
    with pytest.raises(UsageError, match="invalid choice: 'double'"):
        _read_line("--numeric double")


def test_the_variable_that_cells_run_on_is_not_assigned() -> None:
    with pytest.raises(UsageError, match="another NAME"):
        _read_line("engine")


@pytest.mark.parametrize("line", ["'x", "-p x='a", '-p x="a', "-p x=it's"])
def test_a_quote_that_is_not_closed_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="No closing quotation"):
        _read_line(line)
