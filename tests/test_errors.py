from __future__ import annotations

import inspect
import pickle
import re

import pandas as pd
import pytest

import citykit
from citykit import errors

TREE = {
    "DatabaseUnavailableError": citykit.CitykitError,
    "MissingTableError": citykit.CitykitError,
    "InvalidFrameError": (citykit.CitykitError, ValueError),
    "DuplicateKeyError": citykit.CitykitError,
    "DuplicateCityError": citykit.DuplicateKeyError,
    "WrongLoopError": (citykit.CitykitError, RuntimeError),
    "MissingDependencyError": (citykit.CitykitError, ImportError),
}


@pytest.mark.parametrize("name", TREE)
def test_tree(name: str) -> None:
    parents = TREE[name] if isinstance(TREE[name], tuple) else (TREE[name],)
    assert getattr(citykit, name).__bases__ == parents


def test_the_picture_of_the_tree_names_every_error() -> None:
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and "Error" in name}
    assert set(re.findall(r"\w+Error\b", errors.__doc__ or "")) - {
        "ValueError",
        "RuntimeError",
        "ImportError",
    } == (defined)


def test_errors_survive_pickling_with_what_they_carry() -> None:
    rejects = pd.DataFrame({"row": [1], "column": ["name"], "value": [""], "reason": ["empty"]})
    invalid = pickle.loads(pickle.dumps(citykit.InvalidFrameError("bad", rejects)))  # noqa: S301
    assert str(invalid) == "bad"
    pd.testing.assert_frame_equal(invalid.rejects, rejects)
    duplicate = pickle.loads(pickle.dumps(citykit.DuplicateCityError("twice", [("a", "b", "c")])))  # noqa: S301
    assert type(duplicate) is citykit.DuplicateCityError
    assert duplicate.keys == [("a", "b", "c")]
