"""`make test` names the folders of tests in an order of its own: none is left out, and none is there twice."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_file_of_tests_is_run_once() -> None:
    printed = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    folders = [ROOT / word for word in printed.stdout.split() if word.startswith("tests/")]
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    times = {str(file): sum(folder in file.parents for folder in folders) for file in files}
    assert len(files) > 200
    assert {file: count for file, count in times.items() if count != 1} == {}
