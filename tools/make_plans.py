"""Writes the schema plans of the shipped models; a test holds them equal to compiling the models."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "python" / "headgate" / "pipelines"


def plans() -> dict[Path, str]:
    """Path of each plan file -> its text."""
    from headgate.checkpoint.schema import compile_model
    from headgate.pipelines.market.models import NewsItem
    from headgate.pipelines.visits.models import VisitEvent

    return {
        ROOT / folder / "plan.json": json.dumps(compile_model(model), indent=1) + "\n"
        for folder, model in (("market", NewsItem), ("visits", VisitEvent))
    }


if __name__ == "__main__":
    for path, text in plans().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT.parent.parent.parent)}")
