"""What citykit raises on purpose, but for TypeError and ValueError on arguments of a wrong type or name.

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

import copy
import difflib
import functools
import html
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args

if TYPE_CHECKING:
    import asyncio

    import pandas as pd

P = ParamSpec("P")
T = TypeVar("T")


class CitykitError(Exception):
    """Base of the errors that citykit raises on purpose, but for those of wrong arguments.

    Attributes
    ----------
    sqlstate : str or None
        The server's SQLSTATE for it, where citykit refuses what it has not sent.
    """

    sqlstate: str | None = None

    def _render_traceback_(self) -> list[str]:
        return _shown(self)

    def _repr_html_(self) -> str:
        return f"<b>{type(self).__name__}</b><pre>{html.escape(str(self))}</pre>"


def _shown(error: BaseException) -> list[str]:
    """Render the user's own lines and the message in the cell that failed; for ``%tb``, all of it."""
    from IPython import get_ipython  # it is there: it calls this

    shell: Any = get_ipython()
    render: Callable[..., list[str]] = shell.InteractiveTB.structured_traceback
    cell = vars(error).setdefault("_cell", shell.execution_count)  # the number of the cell that it ended
    if cell != shell.execution_count:
        return render(type(error), error, error.__traceback__)
    if not isinstance(error, Exception):  # an interrupt
        return [f"{type(error).__name__}: {error}"]
    alone = copy.copy(error)  # without its cause and context, with its notes
    return render(type(error), alone, _outside(error.__traceback__))


def _show_last() -> list[str]:
    """Render the last error. A function of its own, kept by that error, would be a reference cycle."""
    assert sys.last_value is not None  # noqa: S101  IPython has just set it
    return _shown(sys.last_value)


class _ShownOutside:
    """Makes a cell show only the user's own lines of a TypeError or ValueError of citykit's own code."""

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            with self:
                return function(*args, **kwargs)

        return called

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, step: TracebackType | None) -> None:
        if isinstance(error, (TypeError, ValueError)) and not isinstance(error, CitykitError):
            while step and step.tb_next:
                step = step.tb_next
            if step and _is_in("citykit", step):
                vars(error)["_render_traceback_"] = _show_last


shown_outside = _ShownOutside()


def say_interrupted(error: asyncio.CancelledError | KeyboardInterrupt, said: str) -> None:
    """Give an interrupt its message, which a cell shows in one line.

    A message that is there stays: anyio recognises its own cancels by it.
    """
    error.args = error.args or (said,)
    vars(error)["_render_traceback_"] = _show_last


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise ValueError if an argument is none of the values of a ``Literal`` type."""
    if value not in get_args(choices):
        raise ValueError(f"{name} is one of {', '.join(map(repr, get_args(choices)))}, not {value!r}")


def did_you_mean(name: object, there: Iterable[object]) -> str:
    """Return the question for the one or two of these names that are spelled most alike; '' for none."""
    by_plain = {plain(each): each for each in there}
    close = difflib.get_close_matches(plain(name), by_plain, n=2)
    return f" (did you mean {' or '.join(repr(by_plain[each]) for each in close)}?)" if close else ""


def plain(name: object) -> str:
    """Return a name in lower case, without blanks, underscores and punctuation."""
    return re.sub(r"[\W_]+", "", str(name).casefold())


def _outside(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback up to where it enters citykit, or IPython's code if a magic leads there."""
    steps = []
    while traceback and not _is_in("citykit", traceback):
        steps.append(traceback)
        traceback = traceback.tb_next
    while len(steps) > 1 and _is_in("IPython", steps[-1]):
        steps.pop()
    outside = None
    for step in reversed(steps):
        outside = TracebackType(outside, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return outside


def _is_in(package: str, step: TracebackType) -> bool:
    module = str(step.tb_frame.f_globals.get("__name__", ""))
    return module == package or module.startswith(f"{package}.")


class DatabaseUnavailableError(CitykitError):
    """The server cannot be reached or started; the message says what was tried and what to do.

    Attributes
    ----------
    in_doubt : bool
        The COMMIT was sent and its answer was lost: the work may or may not have been stored. False: nothing
        was stored.
    transient : bool
        Trying again later may help; False where it cannot (a wrong password, a database that does not exist).
    """

    def __init__(self, message: str, *, in_doubt: bool = False, transient: bool = True) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt
        self.transient = transient


class MissingTableError(CitykitError):
    """A table does not exist; the message says how it is made.

    Attributes
    ----------
    table : str or None
        Its name in the statement, without its schema, if the server says where that is.
    """

    table: str | None = None


class InvalidFrameError(CitykitError, ValueError):
    """A frame, or some of its rows, cannot be loaded.

    Attributes
    ----------
    rejects : DataFrame, shape (number of bad values, 4)
        One line per bad value: ``row`` (the frame's index label), ``column``, ``value``, ``reason``.
        Where a whole column is wrong (unknown, missing, repeated, or of a dtype that the table's column
        cannot take), it is one line, whose ``row`` and ``value`` are None.
    """

    def __init__(self, message: str, rejects: pd.DataFrame) -> None:
        super().__init__(message)
        self.rejects = rejects

    def _repr_html_(self) -> str:
        return super()._repr_html_() + self.rejects.to_html(index=False, max_rows=10)

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
