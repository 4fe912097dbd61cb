"""What is said of an error over HTTP, to programs and on the page: one function decides."""

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
    InvalidFrameError,
    MissingTableError,
)
from citykit.web.schemas import LISTED, STORED_ALREADY

READING = ("GET", "HEAD", "OPTIONS")  # the methods that change nothing
RETRY_AFTER = {"Retry-After": "5"}
_LOOK = "look before you send it again."
_IN_DOUBT = (
    "What was sent may have been stored: the connection to the database was lost while it was being "
    f"committed; {_LOOK}"
)
_FAILED = "The server failed; its log says how."


class Answer(NamedTuple):
    """What is said of an error over HTTP. No SQL, path, password or class is in it."""

    status: int
    detail: str
    in_doubt: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """Those that tell a client whether to ask again."""
        return RETRY_AFTER if self.status == 503 and not self.in_doubt else {}

    def as_json(self) -> JSONResponse:
        """Return it as programs get it."""
        return JSONResponse({"detail": self.detail, "in_doubt": self.in_doubt}, self.status, self.headers)


# What passes by itself, by SQLSTATE: lost connections, deadlocks, resources, locks, cancels and shutdowns.
_PASSES = (
    ConditionClass.CONNECTION_EXCEPTION,
    ConditionClass.TRANSACTION_ROLLBACK,
    ConditionClass.INSUFFICIENT_RESOURCES,
    ConditionClass.LOCK_NOT_AVAILABLE,
    ConditionClass.OPERATOR_INTERVENTION,
)
_LASTS: Mapping[str, str] = {  # and what does not, by SQLSTATE or its class
    Condition.READ_ONLY_SQL_TRANSACTION: "The database may only be read: nothing can be stored.",
    ConditionClass.INVALID_AUTHORIZATION_SPECIFICATION: "The database does not let this server in: "
    "its user or password is refused.",
    ConditionClass.INVALID_CATALOG_NAME: "The database that this server was given does not exist.",
    ConditionClass.SYNTAX_ERROR_OR_ACCESS_RULE: "The table of cities in the database is not as this "
    "server needs it; the server's log says more.",
    Condition.INSUFFICIENT_PRIVILEGE: "This server's database user has no right to do this.",
}


def answer(exc: BaseException, *, writes: bool) -> Answer:
    """Return what is said of an error, for programs and for the page alike.

    `writes` tells whether the request was to store something: where nobody thought of an error, that may
    have been done before it.
    """
    code = _code(exc)
    if isinstance(exc, DatabaseUnavailableError) and exc.in_doubt and writes:
        return Answer(503, _IN_DOUBT, in_doubt=True)
    if isinstance(exc, MissingTableError):
        return Answer(500, "The table of cities does not exist yet: citykit init creates it.")
    if code.startswith((ConditionClass.DATA_EXCEPTION, ConditionClass.INTEGRITY_CONSTRAINT_VIOLATION)):
        return Answer(422, "The database cannot store such a value.")
    passes = exc.transient if isinstance(exc, DatabaseUnavailableError) else code.startswith(_PASSES)
    if isinstance(exc, CitykitError) and passes:
        return Answer(503, "The database is busy or does not answer. Try again in a moment.")
    if isinstance(exc, CitykitError) or code:  # the server's refusal, also that of a COMMIT, undoes all
        said = _LASTS.get(code) or _LASTS.get(code[:2])
        return Answer(500, said or "The database cannot do this; the server's log says why.")
    if writes:
        return Answer(500, f"{_FAILED} What was sent may have been stored: {_LOOK}", in_doubt=True)
    return Answer(500, _FAILED)


def _code(exc: BaseException) -> str:
    """Return the SQLSTATE from which an error comes, or nothing."""
    cause: BaseException | None = exc
    while cause is not None:
        if code := sqlstate(cause):
            return code
        cause = cause.__cause__
    return ""


def answer_errors(app: FastAPI) -> None:
    """Answer each error that can be foreseen with its status and a sentence."""
    app.add_exception_handler(CitykitError, _failure)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(InvalidFrameError, _invalid_frame)
    app.add_exception_handler(DuplicateCityError, _duplicate)
    app.add_exception_handler(405, _method_not_allowed)


async def _method_not_allowed(request: Request, _: Exception) -> JSONResponse:
    """Name every method of the path in ``Allow``; Starlette names those of the first route alone."""
    allowed = [
        method
        for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    ]
    return JSONResponse({"detail": "Method Not Allowed"}, 405, {"Allow": ", ".join(dict.fromkeys(allowed))})


async def _invalid_request(_: Request, exc: Exception) -> JSONResponse:
    # Without the inputs themselves, which may be anything: large, secret, or no text at all.
    errors: Sequence[Any] = getattr(exc, "errors", list)()
    detail = [
        {"loc": place(each["loc"]), "msg": legible(each["msg"]), "type": each["type"]} for each in errors
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
    return invalid((("body",), said.detail)) if said.status == 422 else said.as_json()


def logged(request: Request, exc: Exception) -> Answer:
    """Return what is said of an error to the client; to the log it is written as it is, in one line.

    What nobody thought of is raised again: the guard answers it, and ends the connection.
    """
    if not isinstance(exc, CitykitError) and not _code(exc):
        raise exc
    said = answer(exc, writes=request.method not in READING)
    if said.status != 422:
        text = " ".join(f"{type(exc).__name__}: {getattr(exc, 'orig', None) or exc}".split())
        logging.getLogger("citykit").warning("%s %s: %s", request.method, request.url.path, text)
    return said


def invalid(*problems: tuple[Sequence[str | int], str], kind: str = "value_error") -> JSONResponse:
    """Return the answer that names what is wrong: where it is, and what was expected."""
    detail = [{"loc": place(loc), "msg": msg, "type": kind} for loc, msg in problems]
    return JSONResponse({"detail": detail}, 422)


def rejected(rejects: pd.DataFrame) -> dict[str, Any]:
    """Return bad values as an answer lists them."""
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
    return legible(str(value)[:200])


def legible(text: str) -> str:
    """Return a text as UTF-8 can say it."""
    return text.encode(errors="backslashreplace").decode()


def place(loc: Sequence[str | int]) -> list[str | int]:
    """Return where something is wrong as UTF-8 can say it."""
    return [legible(part) if isinstance(part, str) else part for part in loc]
