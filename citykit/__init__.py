"""Move DataFrames of cities into PostgreSQL and back, ask which are the biggest, and chart them.

>>> engine = await citykit.connect()
>>> await citykit.create_tables(engine)
>>> report = await citykit.load_cities(engine, citykit.world_cities(), on_conflict="skip")
>>> frame = await citykit.biggest_cities(engine, 20)
>>> ax = citykit.plot_biggest(frame)

Importing citykit changes nothing in the process and loads nothing: each name is fetched at first use.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
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
        world_countries,
    )
    from citykit.database import Bind, Numeric, connect, sessions
    from citykit.decode import DtypeBackend
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
    from citykit.files import open_file, read_file
    from citykit.load import (
        LoadReport,
        OnConflict,
        OnInvalid,
        Source,
        create_table,
        last_rejects,
        load_frame,
    )
    from citykit.read import Statement, execute, read_frame, stream_frames
    from citykit.runtime import Progress, run

__version__ = "0.1.0"

__all__ = [
    "Base", "Bind", "City", "CitykitError", "DatabaseUnavailableError", "DtypeBackend", "DuplicateCityError",
    "DuplicateKeyError", "InvalidFrameError", "LoadReport", "MissingDependencyError", "MissingTableError",
    "Numeric", "OnConflict", "OnInvalid", "Progress", "Source", "Statement", "WrongLoopError", "__version__",
    "add_city", "biggest_cities", "connect", "create_table", "create_tables", "execute", "find_cities",
    "last_rejects", "load_cities", "load_frame", "nearest_cities", "open_file", "plot_biggest",
    "plot_countries", "plot_map", "plot_rank_size", "read_file", "read_frame", "run", "sessions",
    "stream_frames", "summarize_countries", "world_cities", "world_countries",
]  # fmt: skip

# Where each public name is defined. Tab after `citykit.` offers them, and the rooms.
_NAMES = {
    "charts": ("plot_biggest", "plot_countries", "plot_map", "plot_rank_size"),
    "cities": (
        "Base", "City", "add_city", "biggest_cities", "create_tables", "find_cities", "load_cities",
        "nearest_cities", "summarize_countries", "world_cities", "world_countries",
    ),
    "database": ("Bind", "Numeric", "connect", "sessions"),
    "decode": ("DtypeBackend",),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "files": ("open_file", "read_file"),
    "load": ("LoadReport", "OnConflict", "OnInvalid", "Source", "create_table", "last_rejects", "load_frame"),
    "magic": ("load_ipython_extension",),
    "read": ("Statement", "execute", "read_frame", "stream_frames"),
    "runtime": ("Progress", "run"),
}  # fmt: skip
_HOME = {name: room for room, names in _NAMES.items() for name in names}
_ROOMS = (
    "charts", "cities", "cli", "database", "decode", "encode", "files", "load", "read", "runtime", "web",
)  # fmt: skip

if not _typing.TYPE_CHECKING:  # with a __getattr__, type checkers accept every misspelled name

    def __getattr__(name):
        if name in _ROOMS:
            try:
                return _importlib.import_module(f"citykit.{name}")
            except ImportError as exc:  # an extra is missing: help() passes over an AttributeError alone
                raise AttributeError(str(exc)) from exc
        if name not in _HOME:
            raise AttributeError(f"module 'citykit' has no attribute {name!r}")
        value = getattr(_importlib.import_module(f"citykit.{_HOME[name]}"), name)
        if name in __all__:
            globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS})
