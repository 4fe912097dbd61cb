"""Grids of tests: the ordinary run has each value of each parameter, but not their whole product."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

SMALL = 8  # cases, of which all run


def beyond(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """Give the cases of each grid whose values other cases have already."""
    cases = [item for item in items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    for _, grid in itertools.groupby(cases, key=lambda item: (item.path, item.cls, item.originalname)):
        in_order = list(grid)
        if len(in_order) > SMALL:
            random.Random(0).shuffle(in_order)  # noqa: S311  else the first value of all would have most cases
            seen: set[tuple[str, Any]] = set()
            for case in in_order:
                values = {
                    (name, value if isinstance(value, str) else id(value))
                    for name, value in case.callspec.params.items()
                }
                if values <= seen:
                    yield case
                seen |= values
