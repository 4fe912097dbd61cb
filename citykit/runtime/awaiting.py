"""The coroutine that a helper returns: used as if it were the result, it names the forgotten `await`."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from types import CoroutineType, TracebackType
from typing import Any, NoReturn, ParamSpec, TypeVar

from citykit.errors import shown_outside

P = ParamSpec("P")
T = TypeVar("T")


class NotAwaited(Coroutine[Any, Any, T]):
    """A coroutine for ``await`` and asyncio; every other operation names the forgotten ``await``."""

    __slots__ = ("__weakref__", "_coroutine", "_has_said")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine: Any = coroutine
        self._has_said = False

    def __del__(self) -> None:
        if self._has_said:  # Python would say so once more, whenever it collects the garbage
            self._coroutine.close()

    def send(self, value: Any) -> Any:
        """Go on with the coroutine."""
        with shown_outside:
            return self._coroutine.send(value)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        """Raise an exception in the coroutine."""
        raised = typ if isinstance(typ, BaseException) else val if isinstance(val, BaseException) else typ()
        with shown_outside:
            return self._coroutine.throw(raised if tb is None else raised.with_traceback(tb))

    def close(self) -> None:
        """End the coroutine."""
        self._coroutine.close()

    def __await__(self) -> Any:
        with shown_outside:
            return (yield from self._coroutine.__await__())

    def _say(self) -> str:
        self._has_said = True
        call = f"{self._coroutine.__name__}(…)"
        return f"{call} was not awaited: await it (await {call}), or wait with citykit.run({call})"

    def __repr__(self) -> str:
        return f"<{self._say()}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("cr_", "__")):  # read by asyncio and inspect
            return getattr(self._coroutine, name)
        raise AttributeError(f"no attribute {name!r}: {self._say()}")

    def _refuse(self, *_: object) -> NoReturn:
        with shown_outside:
            raise TypeError(self._say())

    __getitem__ = __setitem__ = __delitem__ = __len__ = __iter__ = __reversed__ = __contains__ = _refuse
    __call__ = __int__ = __float__ = __complex__ = __index__ = __enter__ = __exit__ = _refuse
    __aenter__ = __aexit__ = __aiter__ = __anext__ = _refuse
    __reduce_ex__ = _refuse  # of copy and pickle
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _refuse
    __hash__ = object.__hash__
    __neg__ = __pos__ = __abs__ = __invert__ = __round__ = __trunc__ = __floor__ = __ceil__ = _refuse
    __add__ = __sub__ = __mul__ = __matmul__ = __truediv__ = __floordiv__ = __mod__ = __divmod__ = _refuse
    __pow__ = __lshift__ = __rshift__ = __and__ = __or__ = __xor__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rmatmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = _refuse
    __rdivmod__ = __rpow__ = __rlshift__ = __rrshift__ = __rand__ = __ror__ = __rxor__ = _refuse

    def __bool__(self) -> bool:
        return True  # asyncio asks for it in the repr of a task (Python 3.12)

    def __format__(self, spec: str) -> str:
        if spec:
            self._refuse()
        return repr(self)

    @property
    def __class__(self) -> type:  # read by `inspect.iscoroutine`
        return CoroutineType

    @__class__.setter
    def __class__(self, _: type) -> None:
        self._refuse()


def says_await(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make an async function return `NotAwaited`, so that using the call as its result names the ``await``.

    Examples
    --------
    >>> waiting = citykit.biggest_cities(engine)
    >>> waiting
    <biggest_cities(…) was not awaited: await it (await biggest_cities(…)), or wait with \
citykit.run(biggest_cities(…))>
    >>> frame = citykit.run(waiting)
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        with shown_outside:  # for the TypeError of a wrong argument
            return NotAwaited(function(*args, **kwargs))

    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(called)
    # Before Python 3.12 inspect.iscoroutinefunction() looks at this flag, which changes nothing else.
    code = called.__code__  # type: ignore[attr-defined]
    called.__code__ = code.replace(co_flags=code.co_flags | inspect.CO_COROUTINE)  # type: ignore[attr-defined]
    return called
