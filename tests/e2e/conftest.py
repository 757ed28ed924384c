"""One lab of three nodes for all end-to-end tests that do not harm it."""

from collections.abc import Iterator

import pytest

from fakes.labs import Lab, running_lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with running_lab() as lab:
        yield lab
