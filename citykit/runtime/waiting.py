"""`run`, which waits where ``await`` cannot be written."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import os
import select
import selectors
import signal
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from citykit.errors import WrongLoopError, say_interrupted, shown_outside
from citykit.runtime.kernel import in_kernel

T = TypeVar("T")

GIVE_UP_SECONDS = 10.0  # for what is cancelled to end
PATIENCE_SECONDS = 2.0  # after an interrupt, until another one no longer waits
LOOK_SECONDS = 0.2  # longest single wait of the main thread: a handler runs then if the signal did not end it

_thread = threading.local()
# The names of the tasks in which helpers work. The loop of `run` stands still when it has returned, so that
# it first cancels those that still work; a stream between two frames may be read further in the next `run`.
WORKING = "citykit: works"
BETWEEN_FRAMES = "citykit: waits between two frames"


class _LastingLoop:
    """A thread's loop, closed when the thread or the process ends."""

    def __init__(self) -> None:
        self.loop, selector = _new_loop()
        self.pid = os.getpid()  # in a forked child it is the parent's, whose threads are not there
        weakref.finalize(self, _end, self.loop, selector, self.pid)

    def complete(self, future: asyncio.Future[None]) -> None:
        """Run the loop until `future` is done."""
        self.loop.run_until_complete(future)


class _LoopBeside(_LastingLoop):
    """A lasting loop that runs in a second thread, for a thread whose own loop is running."""

    def __init__(self) -> None:
        super().__init__()
        self._threads = concurrent.futures.ThreadPoolExecutor(1, "citykit.run")
        self._turn: concurrent.futures.Future[None] | None = None

    def complete(self, future: asyncio.Future[None]) -> None:
        if self._turn is None or self._turn.done():  # else this goes on with a wait that an exception ended
            self._turn = self._threads.submit(super().complete, future)
        while not self._turn.done():
            concurrent.futures.wait([self._turn], LOOK_SECONDS)
        self._turn.result()


def _new_loop() -> tuple[asyncio.AbstractEventLoop, selectors.BaseSelector | None]:
    """Return a new event loop, and its selector where it is asyncio's own loop (not uvloop's)."""
    loop = asyncio.new_event_loop()
    if type(loop) is not asyncio.SelectorEventLoop:
        return loop, None
    loop.close()
    selector = selectors.DefaultSelector()
    return asyncio.SelectorEventLoop(selector), selector


def _end(loop: asyncio.AbstractEventLoop, selector: selectors.BaseSelector | None, pid: int) -> None:
    if pid != os.getpid():
        _unshare(selector)
    else:
        with contextlib.suppress(RuntimeError):  # another loop runs here
            loop.run_until_complete(_end_tasks(loop))  # as asyncio.run does
    loop.close()


async def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what still runs, and end the asynchronous generators, of which one closes the connections."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for other in others:
        other.cancel()
    if others:
        await asyncio.wait(others, timeout=GIVE_UP_SECONDS)
    await loop.shutdown_asyncgens()


def _unshare(selector: selectors.BaseSelector | None) -> None:
    """Give a forked child's copy of a loop its own epoll: closing the shared one would stop the parent's."""
    if sys.platform == "linux" and isinstance(selector, selectors.EpollSelector):
        fresh = select.epoll()
        os.dup2(fresh.fileno(), selector.fileno(), inheritable=False)
        fresh.close()


@shown_outside
def run(awaitable: Awaitable[T]) -> T:
    """Wait for an awaitable and return its result, where ``await`` cannot be written.

    Outside of a running event loop (a script, the Python prompt, a thread) it runs on one loop per
    thread, which lasts, so that an engine made in one call works in the next. Inside a running loop (a
    notebook cell that is not to have an ``await``) it runs on a second such loop, in a thread beside. An
    engine from ``citykit.connect()`` works in both. The running loop stands still meanwhile, and asyncio
    is not patched.

    The loop stands still between two calls. What the awaitable has left running of citykit's helpers (the
    others of an ``asyncio.gather`` that failed, a task that was not awaited, a stream that was left early) is
    cancelled, and has ended on the server when this returns. A stream that is kept can be read further.

    It costs some 0.1 ms over ``await``. An interrupt (Ctrl-C, the notebook's Interrupt) cancels the
    awaitable, and KeyboardInterrupt is raised when that has ended. It is abandoned where it has not ended
    10 s later, or at another interrupt after 2 s.

    Parameters
    ----------
    awaitable : awaitable
        Such as the coroutine that a helper of citykit returns.

    Raises
    ------
    WrongLoopError
        The awaitable belongs to the loop that is running (a task, ``asyncio.gather(…)``), or uses a
        connection or a session of it: it needs ``await``.

    Examples
    --------
    >>> engine = citykit.run(citykit.connect())
    >>> frame = citykit.run(citykit.biggest_cities(engine))
    """
    if not inspect.isawaitable(awaitable):
        raise TypeError(f"an awaitable is needed, such as a helper returns, not {type(awaitable).__name__}")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _wait(_lasting(_LastingLoop), awaitable)
    try:
        return _wait(_lasting(_LoopBeside), awaitable)
    except WrongLoopError as error:
        error.add_note(
            "Inside a running loop (a notebook's cell), citykit.run waits on a loop of its own. "
            "Write await instead of citykit.run(…)."
        )
        raise


def _lasting(kind: type[_LastingLoop]) -> _LastingLoop:
    """Return this thread's loop of a kind."""
    kept: _LastingLoop | None = getattr(_thread, kind.__name__, None)
    if kept is None or kept.pid != os.getpid() or kept.loop.is_closed() or kept.loop.is_running():
        kept = kind()  # a running one was abandoned, or a signal handler interrupted it
        setattr(_thread, kind.__name__, kept)
    return kept


def _wait(lasting: _LastingLoop, awaitable: Awaitable[T]) -> T:
    loop = lasting.loop
    if asyncio.isfuture(awaitable) and awaitable.get_loop() is not loop:
        raise WrongLoopError(
            "This task or future belongs to another event loop, and only that loop can end it. "
            "Write await in that loop, or give citykit.run a coroutine."
        )
    ended: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    def end_after_others() -> None:
        others = asyncio.all_tasks(loop)
        for other in others:
            if other.get_name() == WORKING and not other.cancelling():
                other.cancel()
        ours = [other for other in others if other.get_name() in (WORKING, BETWEEN_FRAMES)]
        if ending := [other for other in ours if other.cancelling()]:
            ending[0].add_done_callback(soon)
            loop.call_later(GIVE_UP_SECONDS, end)
        else:
            end()

    def soon(_: object) -> None:  # in between, a generator that the task has left begins to end, or ends
        loop.call_soon(end_after_others)

    cancelled: asyncio.CancelledError | None = None
    interrupts = _Interrupts(loop, lambda: task.cancel(), end)
    try:
        with interrupts:  # entered before the task exists: an interrupt in between would leave it running
            task = asyncio.ensure_future(awaitable, loop=loop)
            task.add_done_callback(soon)
            try:
                lasting.complete(ended)
            except BaseException:  # of another signal handler than ours, or sys.exit() in the coroutine
                if not interrupts.stuck:
                    interrupts.cancel()
                    lasting.complete(ended)
                raise
            finally:
                if not task.done():
                    interrupts.said = "interrupted; it has not ended in time and may still go on"
                elif task.cancelled():
                    cancelled = _cancelled(task)
                    interrupts.said = cancelled.args[0] if cancelled.args else interrupts.said
                else:
                    interrupts.failure = task.exception()
        if not task.done() or cancelled:
            cancelled = cancelled or asyncio.CancelledError()
            if interrupts.happened:
                say_interrupted(cancelled, interrupts.said)
            raise cancelled
        return task.result()
    finally:
        del cancelled  # its traceback refers to this frame


def _cancelled(task: asyncio.Future[Any]) -> asyncio.CancelledError:
    """Return the error that ended a cancelled task; the task itself gives it only once."""
    try:
        task.result()
    except asyncio.CancelledError as exc:
        return exc
    raise AssertionError


class _Interrupts:
    """Turns Ctrl-C and the notebook's Interrupt into a cancel, and raises them once the task has ended.

    An exception that is raised wherever the loop happens to be (in its selector, in a protocol's
    ``data_received``) loses callbacks, or ends the loop. So the handler only schedules the cancel. When the
    task has ended, the handler that was there before is called: Python's raises KeyboardInterrupt,
    ipykernel's cancels the cell.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, cancel: Callable[[], object], end: Callable[[], None]
    ) -> None:
        self._loop, self._cancel, self._end = loop, cancel, end
        self._first: float | None = None
        self._unheard: float | None = None  # when the signal came that the loop has not handled yet
        self._before: Any = None
        self.stuck = False
        self.failure: BaseException | None = None
        self.said = "interrupted"

    @property
    def happened(self) -> bool:
        """Whether a signal came."""
        return self._first is not None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before) and _stops(before):
                self._before = before
                signal.signal(signal.SIGINT, self._interrupted)

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        signal.signal(signal.SIGINT, self._before)
        if self._first is not None:
            try:
                self._before(signal.SIGINT, None)
            except KeyboardInterrupt as interrupt:
                say_interrupted(interrupt, self.said)
                raise interrupt from self.failure

    def _interrupted(self, *_signal: object) -> None:
        now, unheard = time.monotonic(), self._unheard
        if unheard is not None and now - unheard > PATIENCE_SECONDS:
            self.stuck = True  # synchronous code of the coroutine: only an exception ends it
            raise KeyboardInterrupt
        if self._first is None:
            self._first = now
        if unheard is None:
            self._unheard = now
        self.cancel()
        if now - self._first > PATIENCE_SECONDS:
            self._loop.call_soon_threadsafe(self._end)

    def cancel(self) -> None:
        """Cancel the task, from any thread; `GIVE_UP_SECONDS` later the wait for it ends."""
        self._loop.call_soon_threadsafe(self._heard)

    def _heard(self) -> None:
        self._unheard = None
        self._cancel()
        self._loop.call_later(GIVE_UP_SECONDS, self._end)


def _stops(handler: Any) -> bool:
    """Tell whether a handler of SIGINT stops the program; one of the user's own may do anything else."""
    owner = getattr(getattr(handler, "func", handler), "__self__", None)
    return (
        handler is signal.default_int_handler
        or isinstance(owner, (_Interrupts, asyncio.Runner))
        or in_kernel()
    )
