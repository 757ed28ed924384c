"""For all tests: the kubectl that `make kubectl` has brought, if the machine's own is missing or too old, comes first."""

import os
from pathlib import Path

BROUGHT = Path(__file__).parent.parent / "build" / "bin"

os.environ["PATH"] = f"{BROUGHT}{os.pathsep}{os.environ['PATH']}"
