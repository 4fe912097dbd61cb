from __future__ import annotations

import pickle

import pandas as pd
import pytest

import citykit

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


def test_errors_survive_pickling_with_what_they_carry() -> None:
    rejects = pd.DataFrame({"row": [1], "column": ["name"], "value": [""], "reason": ["empty"]})
    invalid = pickle.loads(pickle.dumps(citykit.InvalidFrameError("bad", rejects)))  # noqa: S301
    assert str(invalid) == "bad"
    pd.testing.assert_frame_equal(invalid.rejects, rejects)
    duplicate = pickle.loads(pickle.dumps(citykit.DuplicateCityError("twice", [("a", "b", "c")])))  # noqa: S301
    assert type(duplicate) is citykit.DuplicateCityError
    assert duplicate.keys == [("a", "b", "c")]
