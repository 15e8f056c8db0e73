"""A bill of materials (CycloneDX 1.5, JSON) of headgate and what it needs, as installed in this environment.

    .venv/bin/python tools/make_sbom.py dist/headgate.cdx.json [EXTRA ...]

It names every Python package that the base install and the given extras bring along, with version, licence and package
URL. Libraries that a wheel carries (libcurl, SQLite, hiredis, OpenSSL, Expat) come from the image that builds it.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def collect(requirements: list[str], extras: set[str]) -> dict[str, Distribution]:
    """Every distribution that the requirements lead to, by its normalised name.

    Raises:
        SystemExit: one of them is not installed here.
    """
    found: dict[str, Distribution] = {}
    waiting = [(Requirement(text), extras) for text in requirements]
    while waiting:
        requirement, wanted = waiting.pop()
        if requirement.marker is not None and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in (wanted or {""})
        ):
            continue
        name = normalised(requirement.name)
        if name in found or name == "headgate":
            continue
        try:
            found[name] = distribution(requirement.name)
        except PackageNotFoundError:
            message = f"{requirement.name}: not installed here, so that its version is not known"
            raise SystemExit(message) from None
        waiting += [(Requirement(text), requirement.extras) for text in found[name].requires or []]
    return found


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def component(name: str, package: Distribution) -> dict[str, object]:
    licence = package.metadata.get("License-Expression") or package.metadata.get("License") or ""
    entry: dict[str, object] = {
        "type": "library", "name": name, "version": package.version, "purl": f"pkg:pypi/{name}@{package.version}",
        "bom-ref": f"pkg:pypi/{name}@{package.version}",
    }  # fmt: skip
    first = licence.splitlines()[0] if licence else ""
    return {**entry, "licenses": [{"license": {"name": first[:100]}}]} if first else entry


def bill(extras: set[str]) -> dict[str, object]:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    unknown = sorted(extras - set(project["optional-dependencies"]))
    if unknown:
        message = f"{unknown[0]}: there is no such extra"
        raise SystemExit(message)
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    packages = collect(texts, extras)
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "component": {
                "type": "application", "name": "headgate", "version": project["version"],
                "purl": f"pkg:pypi/headgate@{project['version']}",
            }
        },
        "components": [component(name, package) for name, package in sorted(packages.items())],
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    if not arguments:
        message = "expected the file to write, and extras"
        raise SystemExit(message)
    target = Path(arguments[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(bill(set(arguments[1:])), indent=2) + "\n", encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main(sys.argv[1:])
