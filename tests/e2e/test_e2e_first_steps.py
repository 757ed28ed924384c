"""A new user who follows `docs/first-steps.md` literally: every command is run, every line that the page shows comes out.

What comes before (packages, clone, `make demo`) is what whoever runs this test has done.
"""

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.labs import CLI, PYTHON
from fakes.transcripts import Shown, missing, transcripts

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs" / "first-steps.md"


@pytest.fixture
def name() -> Iterator[str]:
    """The lab is called `lab` on the page, and otherwise here, where others run beside."""
    made = f"t{os.getpid()}{secrets.token_hex(2)}"
    yield made
    subprocess.run([CLI, "lab", "down", "--name", made], check=True, capture_output=True, timeout=60)


def run(shown: Shown, name: str) -> list[str]:
    """Do what the page says, in a shell with the lab's environment; what it promises and did not come."""
    command = shown.command.replace(".venv/bin/k8s-ovs", CLI)
    script = f'eval "$("{CLI}" lab env 2>/dev/null)"; {command}'
    environment = {**os.environ, "K8S_OVS_LAB": name, "PYTHON": PYTHON}
    done = subprocess.run(
        ["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    printed = (done.stdout + done.stderr).replace(f"lab {name}", "lab lab")
    return [f"$ {shown.command}\n  page: {line}\n  came: {printed}" for line in missing(shown, printed)]


def test_a_new_user_gets_what_the_page_shows(name: str) -> None:
    page = transcripts(PAGE.read_text())
    assert len(page) > 25
    assert page[0].command.endswith("lab up")
    assert page[-1].command.endswith("lab down")
    wrong = [line for shown in page for line in run(shown, name)]
    assert not wrong, "\n".join(wrong)
