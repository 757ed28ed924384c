"""For all tests: kubectl.

The one that `make kubectl` has brought, if the machine's own is missing or too old, comes first; and it keeps what it
knows of servers in the clone, not in the home directory.
"""

import os
from pathlib import Path

BUILD = Path(__file__).parent.parent / "build"

os.environ["PATH"] = f"{BUILD / 'bin'}{os.pathsep}{os.environ['PATH']}"
os.environ["KUBECACHEDIR"] = str(BUILD / "kube-cache")
