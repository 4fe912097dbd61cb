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
    from citykit.charts import plot_biggest, plot_countries, plot_map, plot_rank_size
    from citykit.cities import (
        Base,
        City,
        add_city,
        biggest_cities,
        create_tables,
        find_cities,
        load_cities,
        nearest_cities,
        summarize_countries,
        world_cities,
    )
    from citykit.database import Bind, connect, sessions
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
    from citykit.load import LoadReport, load_frame
    from citykit.read import read_frame, stream_frames
    from citykit.runtime import run

__version__ = "0.1.0"

__all__ = [
    "Base", "Bind", "City", "CitykitError", "DatabaseUnavailableError", "DuplicateCityError",
    "DuplicateKeyError", "InvalidFrameError", "LoadReport", "MissingDependencyError", "MissingTableError",
    "WrongLoopError", "__version__", "add_city", "biggest_cities", "connect", "create_tables", "find_cities",
    "load_cities", "load_frame", "nearest_cities", "plot_biggest", "plot_countries", "plot_map",
    "plot_rank_size", "read_frame", "run", "sessions", "stream_frames", "summarize_countries", "world_cities",
]  # fmt: skip

_ROOMS = {
    "charts": ("plot_biggest", "plot_countries", "plot_map", "plot_rank_size"),
    "cities": (
        "Base", "City", "add_city", "biggest_cities", "create_tables", "find_cities", "load_cities",
        "nearest_cities", "summarize_countries", "world_cities",
    ),
    "database": ("Bind", "connect", "sessions"),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "load": ("LoadReport", "load_frame"),
    "magic": ("load_ipython_extension",),
    "read": ("read_frame", "stream_frames"),
    "runtime": ("run",),
}  # fmt: skip
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
