"""A state machine as SVG and as HTML for notebooks, with the timings of a run."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any

from headgate.workflow._graph import read_graph
from headgate.workflow._layout import PADDING, Box, Layout, lay_out, text_width
from headgate.workflow._timings import Timing, state_timings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Json

# status or kind -> (fill, border)
_COLOURS = {
    "succeeded": ("#e6f4ea", "#34a853"), "retried": ("#fef7e0", "#f29900"), "failed": ("#fce8e6", "#d93025"),
    "running": ("#e8f0fe", "#1a73e8"), "missing": ("#fce8e6", "#d93025"), "": ("#ffffff", "#5f6368"),
}  # fmt: skip
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARGIN, _DOT, _ROOM = 24.0, 9.0, 44.0


def to_svg(definition: Json, history: Any = None) -> str:
    """A state machine as an SVG image.

    Args:
        definition: Amazon States Language, as an object.
        history: of an execution, to draw timings and outcomes at the states.

    Returns:
        SVG text without scripts or references to anything outside; all text of the definition is escaped.

    Raises:
        InvalidInputError: it is no state machine.

    Example:
        >>> to_svg({"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}})[:4]
        '<svg'
    """
    timings = state_timings(history)
    layout = lay_out(read_graph(definition), {name: timing.text() for name, timing in timings.items()})
    labels = [text_width(route.edge.label) for route in layout.routes]
    width = max(layout.width, 120.0, *labels, 0.0) + 2 * _MARGIN
    height = layout.height + 2 * (_MARGIN + _ROOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f"<title>{_text(str(definition.get('Comment', 'state machine')))}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#5f6368"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
    ]
    x, y = (width - layout.width) / 2, _MARGIN + _ROOM
    start = layout.boxes[layout.graph.start]
    top = (x + start.x, y + start.y)
    parts.append(f'<circle cx="{top[0]:.1f}" cy="{_MARGIN + _DOT:.1f}" r="{_DOT}" fill="#34a853"/>')
    parts.append(_line([(top[0], _MARGIN + 2 * _DOT), top]))
    parts += _level(layout, x, y, timings)
    bottom = height - _MARGIN - 2 * _DOT
    middle = width / 2
    for name in layout.graph.ends:
        box = layout.boxes[name]
        parts.append(_line([(x + box.x, y + box.y + box.height), (middle, bottom)]))
    if layout.graph.ends:
        parts.append(f'<circle cx="{middle:.1f}" cy="{bottom + _DOT:.1f}" r="{_DOT}" fill="#5f6368"/>')
    return "\n".join([*parts, "</svg>"])


def to_html(definition: Json | None, history: Any = None, *, title: str = "", problems: Sequence[str] = ()) -> str:
    """What a notebook shows: the graph, or the list of what keeps the workflow from running."""
    if definition is None:
        return f"<ul>{''.join(f'<li>{_text(problem)}</li>' for problem in problems)}</ul>"
    head = f"<p><b>{_text(title)}</b></p>" if title else ""
    return f'{head}<div style="overflow:auto">{to_svg(definition, history)}</div>'


def _level(layout: Layout, x: float, y: float, timings: dict[str, Timing]) -> list[str]:
    parts = []
    labels: dict[str, int] = {}
    for route in layout.routes:
        points = [(x + px, y + py) for px, py in route.points]
        is_catch = route.edge.kind == "catch"
        parts.append(_line(points, dashed=is_catch, red=is_catch))
        if route.edge.label:
            # At the target, where the edges of one state have parted; a target's labels are stacked.
            number = labels.get(route.edge.target, 0)
            labels[route.edge.target] = number + 1
            at_x, at_y = points[-1]
            up = 1 if route.is_back else -1
            parts.append(_label(route.edge.label, at_x, at_y + up * (14 + 13 * (number % 3)), red=is_catch))
    for edge in layout.graph.edges:
        if edge.source == edge.target:
            box = layout.boxes[edge.source]
            side, middle = x + box.x + box.width / 2, y + box.y + box.height / 2
            parts.append(
                f'<path d="M{side:.1f},{middle - 8:.1f} c 26,-10 26,26 0,16" fill="none" stroke="#5f6368" '
                'marker-end="url(#tip)"/>'
            )
    for box in layout.boxes.values():
        if box.node is not None:
            parts += _state(box, x, y, timings)
    return parts


def _state(box: Box, x: float, y: float, timings: dict[str, Timing]) -> list[str]:
    assert box.node is not None
    timing = timings.get(box.node.name)
    status = timing.status if timing else ("missing" if box.node.kind == "missing" else "")
    fill, border = _COLOURS[status]
    left, top = x + box.x - box.width / 2, y + box.y
    radius = 23 if box.node.kind in ("Succeed", "Fail", "Wait") and not box.inner else 6
    parts = [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius}" '
        f'fill="{fill}" stroke="{border}" stroke-width="1.5"/>'
    ]
    kind = box.node.kind
    if kind == "Choice":
        parts.append(_small("?", left + 9, top + 13))
    parts.append(f"<title>{_text(f'{box.node.name} ({kind})')}</title>")
    first = top + (18 if box.inner else box.height / 2 - 7 * (len(box.lines) - 1) + 4)
    for number, line in enumerate(box.lines):
        weight = ' font-weight="bold"' if number == 0 else ' fill="#5f6368"'
        parts.append(
            f'<text x="{x + box.x:.1f}" y="{first + 14 * number:.1f}" text-anchor="middle"{weight}>{_text(line)}</text>'
        )
    inside = sum(layout.width for layout in box.inner) + PADDING * (len(box.inner) - 1)
    inner_x = x + box.x - inside / 2
    inner_y = top + 22 + 14 * len(box.lines)
    for layout in box.inner:
        parts.append(_small(layout.graph.label, inner_x, inner_y - 5))
        parts += _level(layout, inner_x, inner_y, timings)
        inner_x += layout.width + PADDING
    return ["<g>", *parts, "</g>"]


def _line(points: list[tuple[float, float]], *, dashed: bool = False, red: bool = False) -> str:
    """A smooth line down (or up) through the points."""
    (x, y), *rest = points
    path = [f"M{x:.1f},{y:.1f}"]
    for px, py in rest:
        half = (py - y) / 2
        path.append(f"C{x:.1f},{y + half:.1f} {px:.1f},{py - half:.1f} {px:.1f},{py:.1f}")
        x, y = px, py
    style = f'stroke="{"#d93025" if red else "#5f6368"}"' + (' stroke-dasharray="4 3"' if dashed else "")
    return f'<path d="{" ".join(path)}" fill="none" {style} marker-end="url(#tip)"/>'


def _label(text: str, x: float, y: float, *, red: bool) -> str:
    colour = "#d93025" if red else "#3c4043"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="11" fill="{colour}" paint-order="stroke" '
        f'stroke="#ffffff" stroke-width="3">{_text(text)}</text>'
    )


def _small(text: str, x: float, y: float) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="#5f6368">{_text(text)}</text>'


def _text(text: str) -> str:
    """Escaped, and without characters that XML does not allow."""
    return escape(_NOT_XML.sub("\ufffd", text), quote=True)
