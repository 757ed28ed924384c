"""Runs the command line inside the test process, as the console script would."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import pytest

from fakes.store import FakeStore
from k8s_ovs.cli.main import main
from k8s_ovs.sources.etcd.settings import EtcdSettings


class OpenStore(FakeStore):
    """A FakeStore that can be opened like the real one."""

    opened: tuple[EtcdSettings, str | None] | None = None

    def open(self, settings: EtcdSettings, network: str | None) -> "OpenStore":
        self.opened = settings, network
        return self

    async def __aenter__(self) -> "OpenStore":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code and what it printed."""

    code: int
    out: str
    err: str


@dataclass
class CommandLine:
    """`k8s_ovs("drops", "--all")` is what `k8s-ovs drops --all` would be."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Ended:
        self.capture.readouterr()
        code: object = 0
        with _own_logging():
            try:
                main(arguments)
            except SystemExit as end:
                code = end.code
        said = self.capture.readouterr()
        assert code is None or isinstance(code, int), code
        return Ended(code or 0, said.out, said.err)


@contextmanager
def _own_logging() -> Iterator[None]:
    """Commands set up logging for their process; the tests' own comes back afterwards."""
    loggers = (logging.getLogger(), logging.getLogger("k8s_ovs"))
    levels, handlers = [logger.level for logger in loggers], loggers[0].handlers[:]
    try:
        yield
    finally:
        loggers[0].handlers[:] = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
