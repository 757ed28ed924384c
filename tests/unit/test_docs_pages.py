"""The pages for administrators: both languages show the same output, and links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("README*.md"), *DOCS.glob("*.md")])


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def test_both_languages_show_the_same_output() -> None:
    english = blocks(DOCS / "admin.md")
    assert len(english) > 20
    assert blocks(DOCS / "admin.zh-CN.md") == english


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    targets = {(page.parent / target).resolve() for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)}
    missing = {target for target in targets if not target.exists()}
    assert not missing


@pytest.mark.parametrize("page", [DOCS / "admin.md", DOCS / "admin.zh-CN.md"], ids=lambda page: page.name)
def test_the_list_of_contents_leads_to_headings(page: Path) -> None:
    text = page.read_text()
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    wanted = re.findall(r"\]\(#([^)]+)\)", text)
    assert wanted
    assert set(wanted) <= headings
