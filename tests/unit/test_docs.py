"""The documentation: every link leads somewhere, every file it names exists, and its words are those of the glossary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
# Words of an earlier private vocabulary, and the word of docs/glossary.md that replaces each.
REPLACED = {
    "rooms?": "module",
    "undertakers?": "dead-letter sink",
    "bur(?:y|ies|ied|ials?)": "dead letter",
    "seams?": "port",
}


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            wrong.append(target)
    assert wrong == []


def test_the_architecture_names_files_that_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"`((?:cpp|python|examples|bindings|tests|docs)/[\w/.]*)`", text)
    named += [f"python/headgate/{name}" for name in re.findall(r"`((?:cli|serve)/[\w.]*)`", text)]
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_use_the_words_of_the_glossary(page):
    text = without_code(page.read_text())
    found = [
        f"{match[0]}: say {say}" for word, say in REPLACED.items() for match in re.finditer(rf"(?i)\b{word}\b", text)
    ]
    assert found == []


def test_the_site_has_every_page():
    """mkdocs.yml lists each page of docs/, and tools/make_docs.py makes every page that it lists."""
    listed = re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= set(listed)
    made = {page.name for page in PAGES} | {"index.md"}
    api = {
        f"api/{title}.md" for title in re.findall(r'^    "(\w+)": \[', (ROOT / "tools/make_docs.py").read_text(), re.M)
    }
    assert set(listed) <= made | api


DECISIONS = [page for page in PAGES if "decisions" in page.parts]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_decisions_have_one_form(page):
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert headings == ["Problem", "Options", "Decision", "Consequences", "Testing"]
    assert page.read_text().startswith(f"# {page.name[:4]}: ")
