"""The table of cities: its model, loading it, the questions to it, the world's cities."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from citykit.cities.country_codes import country_meant
    from citykit.cities.model import CITIES, COLUMNS, KEY, Base, City
    from citykit.cities.questions import (
        FOUND,
        biggest_cities,
        biggest_rows,
        find_cities,
        find_rows,
        nearest_cities,
        summarize_countries,
    )
    from citykit.cities.schema import create_tables
    from citykit.cities.store import add_city, adding, load_cities
    from citykit.cities.world import world_cities, world_countries

__all__ = [
    "CITIES", "COLUMNS", "FOUND", "KEY", "Base", "City", "add_city", "adding", "biggest_cities",
    "biggest_rows", "country_meant", "create_tables", "find_cities", "find_rows", "load_cities",
    "nearest_cities", "summarize_countries", "world_cities", "world_countries",
]  # fmt: skip

# At first use: the model and the schema need neither pandas nor pyarrow, which take 0.4 s to import.
_MODULES = {
    "country_codes": ("country_meant",),
    "model": ("CITIES", "COLUMNS", "KEY", "Base", "City"),
    "questions": (
        "FOUND", "biggest_cities", "biggest_rows", "find_cities", "find_rows", "nearest_cities",
        "summarize_countries",
    ),
    "schema": ("create_tables",),
    "store": ("add_city", "adding", "load_cities"),
    "world": ("world_cities", "world_countries"),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
