"""Collects the pages of the documentation site in build/docs and makes those of the API reference (`make docs`)."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "docs"
# Page of the API reference -> the modules whose public names it lists.
API = {
    "headgate": ["headgate"],
    "idempotency": ["headgate.idempotency", "headgate.inbox"],
    "consume": ["headgate.consume"],
    "healing": ["headgate.healing"],
    "intake": ["headgate.intake", "headgate.items"],
    "resilience": ["headgate.resilience"],
    "checkpoint": ["headgate.checkpoint"],
    "workflow": ["headgate.workflow"],
    "ports": ["headgate.ports"],
    "errors": ["headgate.errors"],
    "testing": ["headgate.testing.conformance", "headgate.testing.simulation"],
}


def public_names(module: str) -> list[str]:
    """The names in a module's `__all__` without constants, else its public classes and functions. Imports nothing."""
    path = ROOT / "python" / Path(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [name for name in ast.literal_eval(node.value) if not name.startswith("_") and not name.isupper()]
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def api_page(title: str, modules: list[str]) -> str:
    """A page that mkdocstrings fills: one entry for each public name."""
    lines = [f"# API: {title}", ""]
    for module in modules:
        names = public_names(module)
        lines += [f"## `{module}`", "", *(f"::: {module}.{name}\n" for name in names)]
    return "\n".join(lines) + "\n"


def rewritten(text: str, folder: str) -> str:
    """A page's text with links as they are in the site.

    Args:
        text: the page.
        folder: where its links start, relative to the repository: "" or "docs".
    """

    def link(match: re.Match[str]) -> str:
        label, target = match[1], match[2]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        path = re.sub(r"^(\.\./)+", "", path) if path.startswith("../") else f"{folder}/{path}".lstrip("/")
        anchor = f"#{anchor}" if anchor else ""
        if path.startswith("docs/decisions") and not path.endswith(".md"):
            return f"[{label}](decisions/index.md)"
        if path.startswith("docs/"):
            return f"[{label}]({path.removeprefix('docs/')}{anchor})"
        if path in {"ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"}:
            return f"[{label}]({path}{anchor})"
        if path.startswith("examples/") and path.endswith(".py"):
            return f"[{label}](examples/{Path(path).stem}.md)"
        return label  # a file of the repository that is no page

    parts = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    pattern = re.compile(r"(?<!!)\[([^\]\[]+)\]\(([^)\s]+)\)")
    return "".join(part if part.startswith("```") else pattern.sub(link, part) for part in parts)


def make(out: Path = OUT) -> None:
    """Write every page below `out`, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    for folder in ("api", "examples", "decisions"):
        (out / folder).mkdir(parents=True)
    for page in (ROOT / "docs").glob("*.md"):
        (out / page.name).write_text(rewritten(page.read_text(), "docs"))
    for page in (ROOT / "docs").glob("*.svg"):
        shutil.copy(page, out)
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    for page in decisions:
        shutil.copy(page, out / "decisions")
    titles = [f"- [{page.read_text().splitlines()[0].lstrip('# ')}]({page.name})" for page in decisions]
    (out / "decisions" / "index.md").write_text("\n".join(["# Decisions", "", *titles]) + "\n")
    for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        (out / name).write_text(rewritten((ROOT / name).read_text(), ""))
    home = rewritten((ROOT / "README.md").read_text(), "").replace("](docs/", "](")
    (out / "index.md").write_text(home)
    for example in (ROOT / "examples").glob("*.py"):
        text = f"# {example.name}\n\n```python\n{example.read_text()}```\n"
        (out / "examples" / f"{example.stem}.md").write_text(text)
    for title, modules in API.items():
        (out / "api" / f"{title}.md").write_text(api_page(title, modules))


if __name__ == "__main__":
    make()
