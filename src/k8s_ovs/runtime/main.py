"""Runs a daemon's async main to its end: signals, exit codes, and an end that comes in time.

Called by `cli` for `agent`, `controller` and both. It knows nothing of what the daemon does.

Exit codes: 0 ended by SIGTERM or SIGINT (or by itself), 1 failed or did not end in time, 2 wrong
configuration.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator

from k8s_ovs.errors import ConfigError, K8sOvsError
from k8s_ovs.runtime.notify import Notifier

_log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CONFIG = 2

GRACE_SECONDS = 0.8
"""From the signal to the forced end; the promise is to be gone within one second."""

Main = Callable[[], Coroutine[object, object, None]]


def run_daemon(main: Main, *, notifier: Notifier | None = None, grace: float = GRACE_SECONDS) -> int:
    """Run `main()` until it returns, fails, or SIGTERM or SIGINT cancels it. Returns the exit code.

    A main that is not through `grace` seconds after the signal is ended the hard way, with the names of the
    tasks that held it up in the log: a supervisor's kill -9 would hide them. Must be called in the main
    thread.
    """
    stop = _Stop(notifier or Notifier(), grace)
    try:
        asyncio.run(_until_stopped(main, stop))
    # Whatever escapes from a daemon is its end: it is logged here and nowhere else.
    except Exception as err:
        return _report(err)
    finally:
        stop.finished()
    return EXIT_OK


class _Stop:
    """The way from a signal to the end of the process."""

    def __init__(self, notifier: Notifier, grace: float) -> None:
        self.requested = False
        self._notifier = notifier
        self._grace = grace
        self._timer: threading.Timer | None = None

    def request(self, task: asyncio.Task[None], name: str) -> None:
        """Cancel `task`; from now on the clock runs. A second signal changes nothing."""
        if self.requested:
            return
        self.requested = True
        _log.info("%s: stopping", name)
        self._notifier.stopping(f"stopping ({name})")
        loop = asyncio.get_running_loop()
        # A thread, not the loop: the loop itself may be what hangs (a blocking call, an executor thread).
        self._timer = threading.Timer(self._grace, self._force, args=(loop,))
        self._timer.daemon = True
        self._timer.start()
        task.cancel()

    def finished(self) -> None:
        """The main is through."""
        if self._timer is not None:
            self._timer.cancel()

    def _force(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            own = {threading.main_thread(), threading.current_thread()}
            threads = [f"thread {thread.name}" for thread in threading.enumerate() if thread not in own]
            names = ", ".join(sorted(task.get_name() for task in asyncio.all_tasks(loop)) + threads)
            _log.error("not stopped within %.1f s (still running: %s): ending now", self._grace, names)
            sys.stderr.flush()
        finally:
            os._exit(EXIT_FAILED)


async def _until_stopped(main: Main, stop: _Stop) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("run_daemon has to run its main as a task")
    task.set_name("main")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.request, task, number.name)
    try:
        await main()
    except asyncio.CancelledError:
        if not stop.requested:
            raise
        task.uncancel()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _report(err: Exception) -> int:
    """Say why the daemon ended, each reason once, and choose the exit code."""
    leaves = list(dict.fromkeys(_leaves(err)))
    if all(isinstance(leaf, ConfigError) for leaf in leaves):
        for text in dict.fromkeys(str(leaf) for leaf in leaves):
            # For the person who typed the command, whatever the log settings are.
            sys.stderr.write(f"k8s-ovs: {text}\n")
        return EXIT_CONFIG
    for leaf in leaves:
        known = isinstance(leaf, K8sOvsError)
        # Errors raised on purpose speak for themselves; a traceback would only bury the remedy.
        trace = None if known and not _log.isEnabledFor(logging.DEBUG) else leaf
        _log.error("ended by %s", leaf if known else repr(leaf), exc_info=trace)
    return EXIT_FAILED


def _leaves(err: BaseException) -> Iterator[BaseException]:
    """The exceptions inside the groups that TaskGroups make."""
    if isinstance(err, BaseExceptionGroup):
        for inner in err.exceptions:
            yield from _leaves(inner)
    else:
        yield err
