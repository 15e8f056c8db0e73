"""What the texts of the project may not say: papers that are not in the repository, and domains in the engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {".py", ".pyi", ".hpp", ".cpp", ".md", ".tf", ".toml", ".txt"}
# Papers that a reader of the repository does not have. A comment gives the reason itself, or names a decision record
# of docs/decisions by its four digits.
PAPERS = re.compile(
    r"\bspec(ification)? 0\d\d|\btask lists?\b|\bissue \d+|\b(SC|FR)-\d{3}\b|\((section|requirement) \d|\(decision (?!0\d{3}\b)\d",
    re.IGNORECASE,
)


def texts_of(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in TEXTS]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}


@pytest.mark.parametrize("folder", ["python", "cpp", "bindings", "docs", "examples", "infra"])
def test_no_paper_is_cited_that_the_repository_does_not_have(folder):
    texts = texts_of(ROOT / folder)
    assert texts
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for name, text in texts.items()
        for match in PAPERS.finditer(text)
    ]
    assert found == []
