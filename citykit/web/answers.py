"""The answers to errors over HTTP: `answer` chooses the status and the sentence, also for the pages."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import pandas as pd
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.routing import Match

from citykit.database import Condition, ConditionClass, sqlstate
from citykit.errors import (
    CitykitError,
    DatabaseUnavailableError,
    DuplicateCityError,
    DuplicateKeyError,
    InvalidFrameError,
    MissingTableError,
)
from citykit.web.schemas import LISTED, STORED_ALREADY

READING = ("GET", "HEAD", "OPTIONS")  # methods that change nothing
RETRY_AFTER = {"Retry-After": "5"}
_LOOK = "look before you send it again."
_IN_DOUBT = (
    "What was sent may have been stored: the connection to the database was lost while it was being "
    f"committed; {_LOOK}"
)
_FAILED = "The server failed; its log says how."


class Answer(NamedTuple):
    """The answer to an error. It holds no SQL, no path, no password and no class name."""

    status: int
    detail: str
    in_doubt: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After, where the client may send the request again."""
        return RETRY_AFTER if self.status == 503 and not self.in_doubt else {}

    def as_json(self) -> JSONResponse:
        """Return it as JSON."""
        return JSONResponse({"detail": self.detail, "in_doubt": self.in_doubt}, self.status, self.headers)


# SQLSTATEs of conditions that pass by themselves, so that a client may ask again.
_TRANSIENT = (
    ConditionClass.CONNECTION_EXCEPTION,
    ConditionClass.TRANSACTION_ROLLBACK,
    ConditionClass.INSUFFICIENT_RESOURCES,
    ConditionClass.LOCK_NOT_AVAILABLE,
    ConditionClass.OPERATOR_INTERVENTION,
)
_OTHER_TABLE = (
    "The table of cities in the database is not as this server needs it; the server's log says more."
)
_BAD_VALUE = "The database cannot store such a value."
# Status and sentence by SQLSTATE or its class, for errors that asking again does not end.
_PERMANENT: Mapping[str, tuple[int, str]] = {
    Condition.SEQUENCE_GENERATOR_LIMIT_EXCEEDED: (
        500,
        "The table can give no more ids: its sequence has ended.",
    ),
    Condition.UNTRANSLATABLE_CHARACTER: (422, "The encoding of the database lacks one of these characters."),
    Condition.NOT_NULL_VIOLATION: (500, _OTHER_TABLE),
    Condition.UNIQUE_VIOLATION: (
        500,
        "The table gave an id that is there already; the server's log has the SQL that mends its sequence.",
    ),
    Condition.READ_ONLY_SQL_TRANSACTION: (500, "The database may only be read: nothing can be stored."),
    Condition.INSUFFICIENT_PRIVILEGE: (500, "This server's database user has no right to do this."),
    Condition.OBJECT_NOT_IN_PREREQUISITE_STATE: (500, "The database accepts no connections."),
    ConditionClass.DATA_EXCEPTION: (422, _BAD_VALUE),
    ConditionClass.INTEGRITY_CONSTRAINT_VIOLATION: (422, _BAD_VALUE),
    ConditionClass.PLPGSQL_ERROR: (422, "The database refuses this."),  # as a trigger does with RAISE
    ConditionClass.INVALID_AUTHORIZATION_SPECIFICATION: (
        500,
        "The database does not let this server in: its user or password is refused.",
    ),
    ConditionClass.INVALID_CATALOG_NAME: (500, "The database that this server was given does not exist."),
    ConditionClass.SYNTAX_ERROR_OR_ACCESS_RULE: (500, _OTHER_TABLE),
}


def answer(exc: BaseException, *, writes: bool) -> Answer:
    """Return the answer to an error, for programs and for the page.

    `writes` tells whether the request stores something: it may have done so before an unforeseen error.
    """
    code = _code(exc)
    if isinstance(exc, DatabaseUnavailableError) and exc.in_doubt and writes:
        return Answer(503, _IN_DOUBT, in_doubt=True)
    if isinstance(exc, MissingTableError):
        return Answer(500, "The table of cities does not exist yet: citykit init creates it.")
    if isinstance(exc, DuplicateKeyError):
        return Answer(409, "Another city has a value that the table takes only once.")
    if permanent := _PERMANENT.get(code) or _PERMANENT.get(code[:2]):
        return Answer(*permanent)
    transient = exc.transient if isinstance(exc, DatabaseUnavailableError) else code.startswith(_TRANSIENT)
    if isinstance(exc, CitykitError) and transient:
        return Answer(503, "The database is busy or does not answer. Try again in a moment.")
    if isinstance(exc, CitykitError) or code:  # an error of the server undoes the transaction, also at COMMIT
        return Answer(500, "The database cannot do this; the server's log says why.")
    if writes:
        return Answer(500, f"{_FAILED} What was sent may have been stored: {_LOOK}", in_doubt=True)
    return Answer(500, _FAILED)


def _code(exc: BaseException) -> str:
    """Return the SQLSTATE of an error or of the first of its causes that has one, else ``''``."""
    cause: BaseException | None = exc
    while cause is not None:
        if code := sqlstate(cause):
            return code
        cause = cause.__cause__
    return ""


def answer_errors(app: FastAPI) -> None:
    """Register the handlers of the foreseen errors."""
    app.add_exception_handler(CitykitError, _failure)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(InvalidFrameError, _invalid_frame)
    app.add_exception_handler(DuplicateCityError, _duplicate)
    app.add_exception_handler(405, _method_not_allowed)


_METHODS = ("OPTIONS", "POST", "PUT", "PATCH", "DELETE")
_ALLOWED = {"GET": ("GET", "HEAD"), **{method: (method,) for method in _METHODS}}  # by the one that is routed


async def _method_not_allowed(request: Request, _: Exception) -> JSONResponse:
    """Name every method of the path in ``Allow``; Starlette names those of the first route alone."""
    allowed = [
        method
        for asked, methods in _ALLOWED.items()
        for route in request.app.routes
        if route.matches({**request.scope, "method": asked})[0] is Match.FULL
        for method in methods
    ]
    return JSONResponse({"detail": "Method Not Allowed"}, 405, {"Allow": ", ".join(dict.fromkeys(allowed))})


def _message(error: Mapping[str, Any]) -> str:
    """Return what is wrong; of JSON that cannot be read, FastAPI has the reason beside its message."""
    reason = error["ctx"]["error"] if error["type"] == "json_invalid" else ""
    return f"{error['msg']}: {reason}" if reason else str(error["msg"])


async def _invalid_request(_: Request, exc: Exception) -> JSONResponse:
    # Without the inputs: they may be large, secret or not encodable.
    errors: Sequence[Any] = getattr(exc, "errors", list)()
    detail = [
        {"loc": place(each["loc"]), "msg": encodable(_message(each)), "type": each["type"]} for each in errors
    ]
    return JSONResponse({"detail": detail}, 422)


async def _invalid_frame(_: Request, exc: Exception) -> JSONResponse:
    rejects: pd.DataFrame = getattr(exc, "rejects")  # noqa: B009  registered for this class alone
    return invalid(
        *((("body", str(column)), str(reason)) for column, reason in rejects[["column", "reason"]].to_numpy())
    )


async def _duplicate(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse({"detail": STORED_ALREADY}, 409)


async def _failure(request: Request, exc: Exception) -> JSONResponse:
    said = logged(request, exc)
    part = "query" if request.method in READING else "body"
    return invalid(((part,), said.detail)) if said.status == 422 else said.as_json()


def logged(request: Request, exc: Exception) -> Answer:
    """Return the answer to an error, and log the error itself in one line.

    An error that is neither citykit's nor the server's is raised again: `Guard` answers it with 500 and
    closes the connection.
    """
    if not isinstance(exc, CitykitError) and not _code(exc):
        raise exc
    said = answer(exc, writes=request.method not in READING)
    if said.status != 422:
        text = " ".join(f"{type(exc).__name__}: {getattr(exc, 'orig', None) or exc}".split())
        logging.getLogger("citykit").warning("%s %s: %s", request.method, request.url.path, text)
    return said


def invalid(*problems: tuple[Sequence[str | int], str], kind: str = "value_error") -> JSONResponse:
    """Return a 422 that lists each problem by its location in the request and its message."""
    detail = [{"loc": place(loc), "msg": msg, "type": kind} for loc, msg in problems]
    return JSONResponse({"detail": detail}, 422)


def rejected(rejects: pd.DataFrame) -> dict[str, Any]:
    """Return the first rejects and their number, as JSON has them."""
    listed = [
        {"row": _row(row), "column": column, "value": _plain(value), "reason": reason}
        for row, column, value, reason in rejects.head(LISTED).itertuples(index=False, name=None)
    ]
    return {"rejects": listed, "rejects_total": len(rejects)}


def _row(label: object) -> int | None:
    return int(label) if isinstance(label, Integral) else None


def _plain(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value) if abs(int(value)) < 2**53 else "a very large number"
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return encodable(str(value)[:200])


def encodable(text: str) -> str:
    """Return a text with its lone surrogates escaped: UTF-8 cannot encode them."""
    return text.encode(errors="backslashreplace").decode()


def place(loc: Sequence[str | int]) -> list[str | int]:
    """Return a location whose texts can be encoded."""
    return [encodable(part) if isinstance(part, str) else part for part in loc]
