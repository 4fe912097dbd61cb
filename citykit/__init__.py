"""Move DataFrames of cities into PostgreSQL and back, ask which are the biggest, and chart them.

>>> engine = await citykit.connect()
>>> await citykit.create_tables(engine)
>>> report = await citykit.load_cities(engine, citykit.world_cities(), on_conflict="skip")
>>> frame = await citykit.biggest_cities(engine, 20)
>>> ax = citykit.plot_biggest(frame)

Importing citykit changes nothing in the process and loads nothing: each name is fetched at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from citykit.charts.plots import plot_biggest, plot_countries, plot_map, plot_rank_size
    from citykit.cities.model import Base, City
    from citykit.cities.questions import biggest_cities, find_cities, nearest_cities, summarize_countries
    from citykit.cities.schema import create_tables
    from citykit.cities.store import add_city, load_cities
    from citykit.cities.world import world_cities
    from citykit.database.engine import connect, sessions
    from citykit.database.transactions import Bind
    from citykit.errors import (
        CitykitError,
        DatabaseUnavailableError,
        DuplicateCityError,
        DuplicateKeyError,
        InvalidFrameError,
        MissingDependencyError,
        MissingTableError,
        WrongLoopError,
    )
    from citykit.load.loading import LoadReport, load_frame
    from citykit.read.reading import read_frame, stream_frames
    from citykit.runtime.waiting import run

__version__ = "0.1.0"

__all__ = [
    "Base",
    "Bind",
    "City",
    "CitykitError",
    "DatabaseUnavailableError",
    "DuplicateCityError",
    "DuplicateKeyError",
    "InvalidFrameError",
    "LoadReport",
    "MissingDependencyError",
    "MissingTableError",
    "WrongLoopError",
    "__version__",
    "add_city",
    "biggest_cities",
    "connect",
    "create_tables",
    "find_cities",
    "load_cities",
    "load_frame",
    "nearest_cities",
    "plot_biggest",
    "plot_countries",
    "plot_map",
    "plot_rank_size",
    "read_frame",
    "run",
    "sessions",
    "stream_frames",
    "summarize_countries",
    "world_cities",
]

_ROOMS = {
    "cities.model": ("Base", "City"),
    "cities.questions": ("biggest_cities", "find_cities", "nearest_cities", "summarize_countries"),
    "cities.schema": ("create_tables",),
    "cities.store": ("add_city", "load_cities"),
    "cities.world": ("world_cities",),
    "charts.plots": ("plot_biggest", "plot_countries", "plot_map", "plot_rank_size"),
    "database.engine": ("connect", "sessions"),
    "database.transactions": ("Bind",),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "load.loading": ("LoadReport", "load_frame"),
    "magic": ("load_ipython_extension",),
    "read.reading": ("read_frame", "stream_frames"),
    "runtime.waiting": ("run",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'citykit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"citykit.{_HOME[name]}"), name)
    if name in __all__:
        globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
