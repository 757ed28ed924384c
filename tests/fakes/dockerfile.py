"""Reads a Dockerfile, as far as ours needs it: stages with their instructions, and what a stage's COPY takes along."""

import json
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """A stage: `base` is what FROM names."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for instruction, rest in self.instructions if instruction == word]

    def runs(self) -> list[list[str]]:
        """The commands of the RUN lines, split at `&&` and into words."""
        return [shlex.split(part) for run in self.all("RUN") for part in run.split("&&")]

    def packages(self) -> set[str]:
        """What apt-get installs."""
        found: set[str] = set()
        for argv in self.runs():
            if argv[:2] == ["apt-get", "install"]:
                found |= {word for word in argv[2:] if not word.startswith("-")}
        return found

    def entrypoint(self) -> list[str]:
        given = self.all("ENTRYPOINT")
        words: list[str] = json.loads(given[-1]) if given else []
        return words

    def copies(self) -> list[tuple[str, list[str], str]]:
        """COPY lines: the stage that they take from (empty: the context), sources, destination."""
        found = []
        for line in self.all("COPY"):
            words = line.split()
            origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
            found.append((origin, words[:-1], words[-1]))
        return found


def parse(text: str) -> dict[str, Stage]:
    """The stages by name."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = stages[name] = Stage(name, base)
        elif word and stage is not None:
            stage.instructions.append((word, " ".join(rest.split())))
    return stages


def ignored(dockerignore: str, path: str) -> bool:
    """Whether the context lacks a file: patterns in order, the last that matches decides (only the forms that we use)."""
    verdict = False
    for line in dockerignore.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keeps, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        name = pattern.removeprefix("**/")
        everywhere = name != pattern and name in Path(path).parts
        if pattern == "*" or everywhere or path == pattern or path.startswith(f"{pattern}/"):
            verdict = not keeps
    return verdict


def copy_context(stage: Stage, context: Path, dockerignore: str, root: Path, workdir: str) -> None:
    """Do the COPY lines of a stage that take from the context; FileNotFoundError if a source is not there."""
    for origin, sources, destination in stage.copies():
        if origin:
            continue
        target = root / (Path("/") / workdir / destination).relative_to("/")
        for source in sources:
            _copy(context, source, dockerignore, target, into=destination.endswith("/") or len(sources) > 1)


def _copy(context: Path, source: str, dockerignore: str, target: Path, *, into: bool) -> None:
    origin = context / source
    if origin.is_file():
        if ignored(dockerignore, source):
            raise FileNotFoundError(f"{source}: .dockerignore leaves it out")
        place = target / origin.name if into else target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin, place)
        return

    def leave_out(folder: str, names: list[str]) -> list[str]:
        return [
            name for name in names if ignored(dockerignore, str((Path(folder) / name).relative_to(context)))
        ]

    shutil.copytree(origin, target, dirs_exist_ok=True, ignore=leave_out)
