"""Runs a function inside a network namespace, in a thread of its own that ends with it.

For `links` and `netlink`. A namespace belongs to a thread (setns(2)); the main thread and the threads of a pool must
never change theirs, so the thread that does is used once. Sockets opened in it stay in the namespace. setns goes
through ctypes: `os.setns` exists from Python 3.12 on only.
"""

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from k8s_ovs.errors import LinkError

T = TypeVar("T")

CLONE_NEWNET = 0x40000000


def call_in(netns: str | None, function: Callable[[], T]) -> T:
    """Return `function()`, called in the namespace that the file `netns` stands for (None: in our own).

    Blocks. What `function` raises is raised here. LinkError with errno ENOENT if there is no such namespace.
    """
    if netns is None:
        return function()
    target = _open(netns)
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            _setns(target, netns)
            results.append(function())
        except BaseException as error:  # handed to the caller's thread, and raised there
            errors.append(error)

    try:
        thread = threading.Thread(target=body, name="netns")
        thread.start()
        thread.join()
    finally:
        os.close(target)
    if errors:
        raise errors[0]
    return results[0]


def _open(netns: str) -> int:
    try:
        return os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        message = f"network namespace {netns}: {error.strerror}"
        raise LinkError(message, errno=error.errno or 0, remedy="the sandbox may be gone") from error


def _setns(target: int, netns: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(target, CLONE_NEWNET) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EINVAL:
        # The file of a namespace that has been unmounted is an empty file: for the caller the namespace is missing.
        message, number = f"{netns} is no network namespace (any more)", errno.ENOENT
    else:
        message = f"network namespace {netns}: setns: {os.strerror(number)}"
    raise LinkError(message, errno=number)
