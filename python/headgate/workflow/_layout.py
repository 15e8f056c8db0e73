"""Places the states of a graph: rows by the distance from the start, edges through the gaps between them.

Ranks are longest paths (edges that close a cycle are turned round for that), an edge over several rows gets a narrow
place in each row between, and the order within a row follows the middle of the neighbours (four sweeps).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headgate.workflow._graph import Edge, Graph, Node

NODE_HEIGHT = 46.0
GAP_X, GAP_Y, PADDING = 28.0, 40.0, 18.0
_CHARACTER = 6.9  # average width of a character in the 12-pixel font
_PASSAGE = 16.0
_SWEEPS = 4


@dataclass
class Box:
    """A state's place; a passage of a long edge has no node."""

    width: float
    height: float
    node: Node | None = None
    lines: tuple[str, ...] = ()
    inner: list[Layout] = field(default_factory=list)
    x: float = 0.0  # x of the centre
    y: float = 0.0  # y of the top edge
    row_end: float = 0.0  # where the row's tallest box ends


@dataclass
class Route:
    """An edge's points, from its source to its target."""

    edge: Edge
    points: list[tuple[float, float]]
    is_back: bool


@dataclass
class Layout:
    """The places of one level, from (0, 0) to (width, height)."""

    width: float
    height: float
    boxes: dict[str, Box]
    routes: list[Route]
    graph: Graph


def text_width(text: str) -> float:
    """How wide a line is, about."""
    return sum(_CHARACTER if ord(character) < 0x1100 else 12.5 for character in text)


def lay_out(graph: Graph, notes: dict[str, str]) -> Layout:
    """Place a graph and those inside it.

    Args:
        graph: what to place.
        notes: state name -> a line of its own in the state's box.
    """
    boxes = {name: _box(node, notes) for name, node in graph.nodes.items()}
    order, back = _order(graph)
    ranks = _ranks(graph, order, back)
    rows: list[list[str]] = [[] for _ in range(max(ranks.values(), default=0) + 1)]
    for name in order:
        rows[ranks[name]].append(name)
    chains: list[tuple[Edge, list[str], bool]] = []
    for number, edge in enumerate(graph.edges):
        if edge.source == edge.target:
            continue
        turned = (edge.source, edge.target) in back
        above, below = (edge.target, edge.source) if turned else (edge.source, edge.target)
        chain = [above]
        for rank in range(ranks[above] + 1, ranks[below]):
            passage = f"\0{number}.{rank}"
            boxes[passage] = Box(_PASSAGE, NODE_HEIGHT)
            rows[rank].append(passage)
            chain.append(passage)
        chains.append((edge, [*chain, below], turned))
    _sort_rows(rows, chains)
    labelled = any(edge.label for edge in graph.edges)
    width, height = _place(rows, boxes, GAP_Y + (24.0 if labelled else 0.0))
    return Layout(width, height, boxes, _routes(chains, boxes), graph)


def _box(node: Node, notes: dict[str, str]) -> Box:
    lines = tuple(line for line in (node.name, node.detail, notes.get(node.name, "")) if line)
    lines = tuple(line if len(line) <= 52 else line[:49] + "..." for line in lines)
    width = max(120.0, *(text_width(line) + 24 for line in lines))
    if not node.children:
        return Box(width, NODE_HEIGHT + 14 * max(0, len(lines) - 2), node, lines)
    inner = [lay_out(child, notes) for child in node.children]
    inside = sum(layout.width for layout in inner) + PADDING * (len(inner) - 1)
    head = 22 + 14 * len(lines)
    return Box(max(width, inside + 2 * PADDING), max(i.height for i in inner) + head + PADDING, node, lines, inner)


def _order(graph: Graph) -> tuple[list[str], set[tuple[str, str]]]:
    """States in the order of a depth-first walk, reversed by their ends (topological), and the edges back."""
    following: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for edge in graph.edges:
        following[edge.source].append(edge.target)
    done: list[str] = []
    seen: dict[str, int] = {}  # 1: on the path, 2: done
    back: set[tuple[str, str]] = set()
    for root in [graph.start, *graph.nodes]:
        stack = [(root, iter(following[root]))] if root not in seen else []
        seen.setdefault(root, 1)
        while stack:
            name, rest = stack[-1]
            for target in rest:
                if seen.get(target) == 1:
                    back.add((name, target))
                elif target not in seen:
                    seen[target] = 1
                    stack.append((target, iter(following[target])))
                    break
            else:
                stack.pop()
                seen[name] = 2
                done.append(name)
    return done[::-1], back


def _ranks(graph: Graph, order: list[str], back: set[tuple[str, str]]) -> dict[str, int]:
    ranks = dict.fromkeys(order, 0)
    following: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for edge in graph.edges:
        if (edge.source, edge.target) not in back:
            following[edge.source].append(edge.target)
    for name in order:
        for target in following[name]:
            ranks[target] = max(ranks[target], ranks[name] + 1)
    return ranks


def _sort_rows(rows: list[list[str]], chains: list[tuple[Edge, list[str], bool]]) -> None:
    beside: dict[str, tuple[list[str], list[str]]] = {name: ([], []) for row in rows for name in row}
    for _, chain, _ in chains:
        for above, below in pairwise(chain):
            beside[below][0].append(above)
            beside[above][1].append(below)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else rows[::-1]:
            places = {name: n / max(1, len(r) - 1) if len(r) > 1 else 0.5 for r in rows for n, name in enumerate(r)}

            def middle(name: str, places: dict[str, float] = places, side: int = 0 if down else 1) -> float:
                near = beside[name][side]
                return sum(places[other] for other in near) / len(near) if near else places[name]

            row.sort(key=middle)


def _place(rows: list[list[str]], boxes: dict[str, Box], gap_y: float) -> tuple[float, float]:
    widths = [sum(boxes[name].width for name in row) + GAP_X * (len(row) - 1) for row in rows if row]
    width = max(widths, default=0.0)
    y = 0.0
    for row in rows:
        x = (width - sum(boxes[name].width for name in row) - GAP_X * (len(row) - 1)) / 2
        tallest = max((boxes[name].height for name in row), default=0.0)
        for name in row:
            box = boxes[name]
            box.x, box.y, box.row_end = x + box.width / 2, y, y + tallest
            if box.node is None:
                box.height = tallest
            x += box.width + GAP_X
        y += tallest + gap_y
    return width, max(0.0, y - gap_y)


def _routes(chains: list[tuple[Edge, list[str], bool]], boxes: dict[str, Box]) -> list[Route]:
    routes = []
    for edge, chain, turned in chains:
        points = []
        for above, below in pairwise(chain):
            box = boxes[above]
            points.append((box.x, box.y + box.height))
            if box.row_end > box.y + box.height:
                points.append((box.x, box.row_end))  # straight down past taller boxes of the row
            points.append((boxes[below].x, boxes[below].y))
        routes.append(Route(edge, points[::-1] if turned else points, turned))
    return routes
