"""The pages in `docs/`: links and anchors lead somewhere, and both languages of a page have the same shape and output."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("deploy/**/*.md")])
TRANSLATED = sorted(page for page in PAGES if page.name.endswith(".zh-CN.md"))
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+://|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text())


def headings(page: Path) -> list[tuple[int, str]]:
    """Level and text, in the page's order."""
    return [(len(marks), text) for marks, text in re.findall(r"^(#+) (.*)$", prose(page), re.MULTILINE)]


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a link may name behind `#`, as GitHub makes it from headings: a second one of a name gets `-1`."""
    seen: Counter[str] = Counter()
    found = set()
    for _, text in headings(page):
        slug = re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(found)


def links(page: Path) -> list[tuple[Path, str]]:
    """Files and anchors that the page's links name; a link within the page names the page itself."""
    return [
        ((page.parent / target).resolve() if target else page, anchor)
        for target, anchor in LINK.findall(prose(page))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [str(target) for target, _ in links(page) if not target.exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_lead_to_headings(page: Path) -> None:
    wrong = [
        f"{target.name}#{anchor}"
        for target, anchor in links(page)
        if anchor and target.suffix == ".md" and target.exists() and anchor not in anchors(target)
    ]
    assert not wrong


def english(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh-CN.md", ".md"))


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: page.name)
def test_both_languages_show_the_same_output(page: Path) -> None:
    assert blocks(page)
    assert blocks(page) == blocks(english(page))


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: page.name)
def test_both_languages_have_the_same_headings(page: Path) -> None:
    assert [level for level, _ in headings(page)] == [level for level, _ in headings(english(page))]


def test_readme_install_and_admin_are_there_in_chinese() -> None:
    assert {page.name for page in TRANSLATED} >= {"README.zh-CN.md", "install.zh-CN.md", "admin.zh-CN.md"}
