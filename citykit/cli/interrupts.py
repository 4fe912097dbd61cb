"""Work in an event loop that Ctrl-C cancels."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import citykit

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")


class Interrupted(BaseException):
    """Ctrl-C; its message says what state the database is in."""


class _Interrupts:
    """The handler of SIGINT: the first one cancels the running work, the second ends the process at once."""

    def __init__(self) -> None:
        self.began = False  # the command, which may have something to undo
        self.cancel: Callable[[], object] | None = None
        self.said = "interrupted; nothing was loaded or changed"
        self.raised = False
        self._happened = False

    def __call__(self, *_: object) -> None:
        if self._happened:
            os.write(2, b"\n")
            self.say("ended; what was not committed is undone")
            end_now()
        self._happened = True
        if not self.began:  # an exception would go through imports, whose C code may drop it
            self.say(self.said)
            end_now()
        if self.cancel is None:
            self.raised = True
            raise Interrupted(self.said)
        self.cancel()

    def say(self, text: str) -> None:
        """Print a line on stderr, also in the middle of an import or of another print."""
        os.write(2, f"citykit: {text}\n".encode())


interrupts = _Interrupts()


def say_unraisable(lost: Any) -> None:
    """Print an exception that nobody can catch, unless it is an interrupt: `wait` ends the command then."""
    if not isinstance(lost.exc_value, Interrupted):
        sys.__unraisablehook__(lost)


def end_now() -> None:
    """End by the default action of SIGINT, which waits for no thread (one may be reading stdin)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


def flush() -> None:
    """Send to stdout what is still held back."""
    if sys.stdout:  # None where the process was started without it
        sys.stdout.flush()


def ask(question: Callable[[AsyncEngine], Awaitable[T]], **options: Any) -> T:
    """Connect, and return the answer of the database to a question."""

    async def asked() -> T:
        engine = await citykit.connect(**options)
        try:
            answer = await question(engine)
            interrupts.cancel, interrupts.said = lambda: None, "interrupted"  # too late to cancel
        finally:
            await engine.dispose()
        return answer

    return wait(asked)


def wait(work: Callable[[], Awaitable[T]]) -> T:
    """Run work in an event loop; Ctrl-C cancels it."""
    import asyncio

    async def answered() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  for the type checker
        loop = task.get_loop()
        interrupts.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        # The exception that the handler raised is lost if C code, such as that of an import, dropped it.
        if interrupts.raised:
            raise asyncio.CancelledError
        return await work()

    runner = asyncio.Runner()
    try:
        answer = runner.run(answered())
    except asyncio.CancelledError as exc:  # runner.close() would wait for a thread that reads stdin
        raise Interrupted(exc.args[0] if exc.args else interrupts.said) from exc
    except BaseException:
        runner.close()
        raise
    finally:
        interrupts.cancel = None
    runner.close()
    return answer
