"""Log records: form, context, levels."""

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator

import hpack
import pytest

from k8s_ovs.errors import ConfigError
from k8s_ovs.runtime.logs import (
    LogSettings,
    current_context,
    log_context,
    parse_verbosity,
    set_verbosity,
    setup_logging,
)

log = logging.getLogger("k8s_ovs.agent.pods")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The logging set-up of the process, given back."""
    root, package = logging.getLogger(), logging.getLogger("k8s_ovs")
    handlers, levels = list(root.handlers), (root.level, package.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    package.setLevel(levels[1])


def plain(verbosity: int = 0) -> io.StringIO:
    stream = io.StringIO()
    setup_logging(LogSettings(verbosity), stream)
    return stream


def as_json() -> io.StringIO:
    stream = io.StringIO()
    setup_logging(LogSettings(as_json=True), stream)
    return stream


def test_no_verbosity_shows_the_headers_of_requests() -> None:
    stream = plain(verbosity=9)
    logging.getLogger("other.library").debug("details")
    header = hpack.Encoder().encode([("token", "s3cret.17"), ("authorization", "Bearer s3cret")])
    assert hpack.Decoder().decode(header)
    assert "details" in stream.getvalue()
    assert "s3cret" not in stream.getvalue()
    assert "header" not in stream.getvalue(), "nor in their encoded form"


def test_a_plain_record_is_one_line_with_time_level_logger_and_context() -> None:
    stream = plain()
    with log_context(pod="web/a", sandbox="0123"), log_context(request="7 8"):
        log.warning("no address in %s", "172.11.4.0/22")
    log.info("after")
    first, second = stream.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(
        stamp + r' WARNING agent\.pods: no address in 172\.11\.4\.0/22 pod=web/a sandbox=0123 request="7 8"',
        first,
    )
    assert re.fullmatch(stamp + r" INFO agent\.pods: after", second)


def test_what_comes_from_outside_cannot_forge_a_record() -> None:
    stream = plain()
    with log_context(pod="a\nb"):
        log.info("name is %s", "x\n2026-01-01T00:00:00.000Z ERROR forged \x1b[31m")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_a_json_record_is_one_object_and_the_context_replaces_none_of_its_fields() -> None:
    stream = as_json()
    with log_context(pod="web/ä", level="mine"):
        log.error("two\nlines")
    entry = json.loads(stream.getvalue())
    assert len(stream.getvalue().splitlines()) == 1
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "pod": "web/ä",
        "level": "error",
        "logger": "k8s_ovs.agent.pods",
        "message": "two\nlines",
    }


def test_an_exception_is_told_in_both_forms() -> None:
    streams = []
    for make in (plain, as_json):
        streams.append(make())
        log.error("failed", exc_info=ValueError("bad\nvalue"))
    assert "ValueError: bad\nvalue" in streams[0].getvalue()
    assert "ValueError: bad\nvalue" in json.loads(streams[1].getvalue())["exception"]


async def test_tasks_keep_the_context_they_were_begun_in() -> None:
    async def who() -> str:
        await asyncio.sleep(0)
        return current_context().get("pod", "")

    with log_context(pod="a"):
        one = asyncio.create_task(who())
    with log_context(pod="b"):
        other = asyncio.create_task(who())
    assert list(await asyncio.gather(one, other, who())) == ["a", "b", ""]


@pytest.mark.parametrize(
    ("verbosity", "ours", "theirs"),
    [
        (-2, logging.ERROR, logging.WARNING),
        (-1, logging.WARNING, logging.WARNING),
        (0, logging.INFO, logging.WARNING),
        (3, logging.INFO, logging.WARNING),
        (4, logging.DEBUG, logging.WARNING),
        (5, logging.DEBUG, logging.WARNING),
        (6, logging.DEBUG, logging.DEBUG),
    ],
)
def test_verbosity_sets_the_levels(verbosity: int, ours: int, theirs: int) -> None:
    set_verbosity(verbosity)
    assert log.getEffectiveLevel() == ours
    assert logging.getLogger("grpclib").getEffectiveLevel() == theirs


def test_verbosity_may_be_a_word() -> None:
    assert [parse_verbosity(text) for text in ("5", "info", " Debug\n", "trace")] == [5, 0, 4, 6]


@pytest.mark.parametrize("text", ["", "-1", "loud", "1.5", "²"])
def test_other_verbosity_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="info, debug or trace"):
        parse_verbosity(text)
