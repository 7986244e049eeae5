"""Names beside marks and lines, where they cover neither one another nor anything else that is drawn.

Each name tries the places around its mark, near ones first, and takes the one that covers least. Names take turns until
none moves: then each has its best place, given those of the others.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import BboxBase

from figures.axes import line_width
from figures.style import Look, text_width

Boxes = np.ndarray  # (N, 4): left, low, right, high of rectangles, in inches
Anchors = dict[str, Sequence[tuple[float, float]]]  # one point (x, y) of a mark, or several along a line

DIRECTIONS = (
    (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1),
    (1, 0.5), (-1, 0.5), (1, -0.5), (-1, -0.5), (0.5, 1), (-0.5, 1), (0.5, -1), (-0.5, -1),
)  # fmt: skip
RINGS = 6  # distances that are tried; from the second on, a thin line leads to the mark
LEADER = 8  # boxes that stand for a ring of it
THIN = 0.02  # inches: half the width of what is drawn with lines
TURNS = 20
OUTSIDE = 100.0  # what it costs to leave the axes, where it costs 1 to cover something
FAR = 0.03  # squares of a line of text that a name covers rather than stand a ring further away


def add_labels(
    figure: Figure, axes: Axes, anchors: Anchors, marker: float, look: Look, others: Sequence[Artist] = ()
) -> None:
    """Write the name of every mark, this many points wide, and of every line. others: what else must not be covered.
    All that is drawn, and the limits of the axes, must be final: the layout is computed here."""
    figure.draw_without_rendering()
    half, frame = marker / 144, _inches(axes.bbox, figure)
    places = {name: axes.transData.transform(points) / figure.dpi for name, points in anchors.items()}
    drawn = [np.concatenate([p.min(0) - half, p.max(0) + half]) for p in places.values()]
    drawn += [_inches(other.get_window_extent(), figure) + THIN * np.array([-1, -1, 1, 1]) for other in others]
    tried = {name: _tried(text_width(name, look), 0.85 * look.row, points, half) for name, points in places.items()}
    for name, (n, ring, boxes) in _best(tried, np.stack(drawn), frame, FAR * look.row**2).items():
        left, low, right, high = boxes[0]
        shift = 72 * (np.array([left + right, low + high]) / 2 - places[name][n])
        leader = {"arrowstyle": "-", "color": "0.6", "linewidth": line_width() / 2, "shrinkA": 0, "shrinkB": marker / 2}
        text = axes.annotate(
            name, anchors[name][n], shift, textcoords="offset points", ha="center", va="center",
            arrowprops=leader if ring else None, annotation_clip=False,
        )  # fmt: skip
        text.set_in_layout(False)


Place = tuple[int, int, Boxes]  # which anchor, which ring, and the boxes of the name and of what leads to it


def _best(tried: dict[str, list[Place]], drawn: Boxes, frame: np.ndarray, far: float) -> dict[str, Place]:
    """Return the places where the names cover least of what is drawn, of one another and of what is outside. far: the
    cost of a ring."""
    own = {name: [_area(p[2][0]) - _shared(p[2][:1], frame[None]) for p in places] for name, places in tried.items()}
    fixed = {
        name: [OUTSIDE * out + far * p[1] + _shared(p[2], drawn) for p, out in zip(tried[name], own[name], strict=True)]
        for name in tried
    }
    chosen = {name: int(np.argmin(costs)) for name, costs in fixed.items()}
    for _ in range(TURNS):
        before = dict(chosen)
        for name, places in tried.items():
            taken = [tried[other][n][2] for other, n in chosen.items() if other != name]
            others = np.concatenate(taken) if taken else np.empty((0, 4))
            costs = [cost + _shared(p[2], others) for cost, p in zip(fixed[name], places, strict=True)]
            chosen[name] = int(np.argmin(costs))
        if chosen == before:
            break
    return {name: tried[name][n] for name, n in chosen.items()}


def _tried(width: float, height: float, points: np.ndarray, half: float) -> list[Place]:
    """Return the places around the points (N, 2) of one name, the nearest and most usual first. A line has no others
    than those beside it."""
    found = []
    size = np.array([width, height]) / 2
    for ring in range(RINGS if len(points) == 1 else 1):
        away = THIN + (half if len(points) == 1 else 0) + 0.8 * ring * height
        for n, point in enumerate(points):
            for direction in DIRECTIONS:
                middle = point + direction * (away / math.hypot(*direction) + size)
                boxes = np.concatenate([middle - size, middle + size])[None]
                if ring:
                    steps = np.linspace(0, 1, LEADER * ring)[:, None]
                    leader = middle + steps * (point - middle)
                    leader = leader[(np.abs(leader - middle) > size).any(1) & (np.abs(leader - point) > half).any(1)]
                    boxes = np.concatenate([boxes, np.concatenate([leader - THIN, leader + THIN], axis=1)])
                found.append((n, ring, boxes))
    return found


def _inches(box: BboxBase, figure: Figure) -> np.ndarray:  # -> (4,)
    return np.array(box.extents) / figure.dpi


def _area(box: np.ndarray) -> float:  # (4,)
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _shared(a: Boxes, b: Boxes) -> float:
    """Return the area that boxes of `a` share with boxes of `b`."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return float(np.maximum(sides, 0).prod(-1).sum())
