"""Everything that citykit raises on purpose.

CitykitError
├── DatabaseUnavailableError      the server cannot be reached or started
├── MissingTableError             the tables were not created yet
├── InvalidFrameError (ValueError)      .rejects
├── DuplicateKeyError                   .keys
│   └── DuplicateCityError
├── WrongLoopError (RuntimeError)       used from an event loop that cannot serve it
└── MissingDependencyError (ImportError)  an optional package is not installed

Every message says what is wrong, where, what state the database is in, and what to type next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class CitykitError(Exception):
    """Base of every error that citykit raises on purpose."""


class DatabaseUnavailableError(CitykitError):
    """The server cannot be reached or started; the message says what was tried and what to do."""


class MissingTableError(CitykitError):
    """A table does not exist yet; ``await citykit.create_tables(engine)`` creates it."""


class InvalidFrameError(CitykitError, ValueError):
    """A frame, or some of its rows, cannot be loaded.

    Attributes
    ----------
    rejects : DataFrame, shape (number of bad values, 4)
        One line per bad value: ``row`` (the frame's index label), ``column``, ``value``, ``reason``.
        Where a whole column is wrong (unknown, missing, repeated), ``row`` and ``value`` are None.
    """

    def __init__(self, message: str, rejects: pd.DataFrame) -> None:
        super().__init__(message)
        self.rejects = rejects

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.rejects)


class DuplicateKeyError(CitykitError):
    """Rows whose key is already there, in the table or earlier in the frame.

    Attributes
    ----------
    keys : list of tuple
        Every such key, in the order of the frame.
    """

    def __init__(self, message: str, keys: Sequence[tuple[Any, ...]] = ()) -> None:
        super().__init__(message)
        self.keys = list(keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.keys)


class DuplicateCityError(DuplicateKeyError):
    """Cities that are already stored; a key is ``(name, country, region)``."""


class WrongLoopError(CitykitError, RuntimeError):
    """Something was used from an event loop that cannot serve it; the message says how to go on."""


class MissingDependencyError(CitykitError, ImportError):
    """An optional package is not installed; the message has the pip command."""
