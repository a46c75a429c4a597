"""How each class of the generated shapes is built from parts.

A builder draws its proportions and its parts from a generator and returns the parts, in units of
about one; `shapes.py` puts them together and disturbs them. Builders vary what real objects
vary (legs or a pedestal, arms or none, one lamp shade or another), so that no single part gives
a class away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sharedmlp.data.shape_parts import (
    board,
    box,
    lathe,
    legs,
    move,
    named,
    pedestal,
    ring,
    rod,
    stand,
)

if TYPE_CHECKING:
    import trimesh

    from sharedmlp.data.shape_parts import Parts

    Builder = Callable[[np.random.Generator], Parts]


def airplane(rng: np.random.Generator) -> Parts:
    """A fuselage along x, swept wings, a tail and, mostly, engines."""
    length, radius = rng.uniform(1.2, 1.8), rng.uniform(0.06, 0.13)
    profile = [(0, -0.5), (0.5, -0.46), (1, -0.36), (1, 0.15), (0.3, 0.48), (0, 0.5)]
    fuselage = lathe(rng, [(radius * r, length * z) for r, z in profile])
    # The nose, at the lower end of the profile, goes to +x.
    fuselage.vertices = fuselage.vertices[:, [2, 1, 0]] * (-1, 1, 1)
    parts = [named("body", fuselage)]
    span, sweep, height = rng.uniform(0.9, 1.7), rng.uniform(0, 0.5), rng.uniform(-0.06, 0.08)
    tail_span, tail_z = span * rng.uniform(0.25, 0.45), rng.choice([0.0, rng.uniform(0.15, 0.3)])
    tail_x, chord = -0.45 * length, rng.uniform(0.2, 0.35)
    for side in (-1, 1):
        parts.append(named("wing", _wing(chord, span / 2 * side, sweep, (0.05, 0, height))))
        tail = _wing(0.14, tail_span / 2 * side, sweep / 2, (tail_x, 0, tail_z))
        parts.append(named("tail", tail))
    fin = stand(_wing(0.18, rng.uniform(0.2, 0.35), 0.12, (0, 0, 0)))
    parts.append(named("tail", move(fin, tail_x, 0, 0)))
    for offset in rng.choice([0.0, 0.25, 0.4], size=int(rng.integers(0, 3)), replace=False):
        for side in (-1, 1) if offset else (1,):
            y = side * offset * span
            x, z = 0.1 - abs(y) * sweep, height - (0.06 if offset else -0.15)
            engine = rod(rng, (x - 0.12, y, z), (x + 0.12, y, z), rng.uniform(0.03, 0.05))
            parts.append(named("engine", engine))
    return parts


def _wing(chord: float, span: float, sweep: float, root: Sequence[float]) -> trimesh.Trimesh:
    """A tapered, swept plate from `root` to y = span."""
    plate = box((1, 1, 0.025), (0, 0.5, 0))
    x, y = plate.vertices[:, 0].copy(), plate.vertices[:, 1].copy()
    plate.vertices[:, 0] = x * chord * (1 - 0.6 * y) - sweep * abs(span) * y + root[0]
    plate.vertices[:, 1] = y * span + root[1]
    plate.vertices[:, 2] += root[2]
    return plate


def bed(rng: np.random.Generator) -> Parts:
    """A mattress on a frame, a headboard, mostly pillows and sometimes a footboard."""
    length, width = rng.uniform(1.7, 2.1), rng.uniform(0.8, 1.7)
    base, mattress = rng.uniform(0.15, 0.4), rng.uniform(0.12, 0.3)
    parts = [named("base", box((length, width, mattress), (0, 0, base + mattress / 2)))]
    if rng.random() < 0.5:
        parts.append(named("base", box((length, width, base), (0, 0, base / 2))))
    else:
        frame = named("base", box((length, width, 0.06), (0, 0, base - 0.03)))
        parts += [frame, *legs(rng, length, width, base)]
    for side, chance, high in ((-1, 0.9, 1.3), (1, 0.4, 0.8)):
        if rng.random() < chance:
            height = rng.uniform(0.55, high)
            end = box((0.06, width, height), (side * length / 2, 0, height / 2))
            parts.append(named("headboard", end))
    pillows = int(rng.integers(0, 3))
    for index in range(pillows):
        y = (index + 0.5) * width / pillows - width / 2
        top = base + mattress + 0.05
        pillow = box((0.35, 0.75 * width / pillows, 0.1), (-0.38 * length, y, top))
        parts.append(named("pillow", pillow))
    return parts


def bookshelf(rng: np.random.Generator) -> Parts:
    """Two sides, shelves, mostly a back, sometimes a divider and books."""
    width, depth, height = rng.uniform(0.5, 1.3), rng.uniform(0.2, 0.4), rng.uniform(1.0, 2.0)
    thickness = rng.uniform(0.02, 0.05)
    count = int(rng.integers(3, 8))
    parts = [box((thickness, depth, height), (side * width / 2, 0, height / 2)) for side in (-1, 1)]
    shelves = np.linspace(thickness, height - thickness, count)
    missing = int(rng.integers(count)) if rng.random() < 0.2 else -1
    for index, z in enumerate(shelves):
        if index != missing:
            parts.append(box((width, depth, thickness), (0, 0, z)))
        if rng.random() < 0.3 and index < count - 1:
            share = rng.uniform(0.2, 0.8)
            tall = 0.7 * (shelves[1] - shelves[0])
            x = (share - 1) * width / 2
            parts.append(box((share * width, 0.7 * depth, tall), (x, 0, z + tall / 2)))
    if rng.random() < 0.7:
        parts.append(box((width, 0.02, height), (0, depth / 2, height / 2)))
    if rng.random() < 0.4:
        parts.append(box((thickness, depth, height), (0, 0, height / 2)))
    return parts


def bottle(rng: np.random.Generator) -> Parts:
    """A body, a shoulder, a neck and sometimes a cap."""
    radius, body = rng.uniform(0.16, 0.32), rng.uniform(0.5, 0.9)
    neck, shoulder = radius * rng.uniform(0.25, 0.5), rng.uniform(0.05, 0.3)
    top = body + shoulder + rng.uniform(0.1, 0.4)
    waist = radius * rng.uniform(0.8, 1.0)
    profile = [(0, 0), (radius, 0), (waist, body / 2), (radius, body), (neck, body + shoulder)]
    parts = [lathe(rng, [*profile, (neck, top)])]
    if rng.random() < 0.5:
        cap = neck * rng.uniform(1.05, 1.4)
        parts.append(
            lathe(rng, [(0, top - 0.04), (cap, top - 0.04), (cap, top + 0.05), (0, top + 0.05)])
        )
    return parts


def chair(rng: np.random.Generator) -> Parts:
    """A seat, a back, solid or of slats, legs or a pedestal, sometimes arms."""
    width, depth, seat = rng.uniform(0.4, 0.65), rng.uniform(0.4, 0.65), rng.uniform(0.35, 0.55)
    top, lean = seat + rng.uniform(0.35, 0.75), rng.uniform(0, 0.15)
    parts = [named("seat", board(rng, width, depth, seat))]
    if rng.random() < 0.25:
        parts += pedestal(rng, width / 2, seat)
    else:
        parts += legs(rng, width, depth, seat)
    back = -depth / 2
    if rng.random() < 0.5:
        panel = box((width, 0.05, top - seat), (0, back, (top + seat) / 2))
        panel.vertices[:, 1] -= lean * (panel.vertices[:, 2] - seat) / (top - seat)
        parts.append(named("back", panel))
    else:
        count = int(rng.integers(2, 7))
        for x in np.linspace(-0.45, 0.45, count) * width:
            parts.append(named("back", rod(rng, (x, back, seat), (x, back - lean, top), 0.02)))
        parts.append(named("back", box((width, 0.05, 0.1), (0, back - lean, top))))
    if rng.random() < 0.35:
        arm = seat + rng.uniform(0.15, 0.25)
        for side in (-1, 1):
            x = side * width / 2
            parts.append(named("arm", box((0.05, depth, 0.04), (x, 0, arm))))
            post = rod(rng, (x, 0.4 * depth, seat), (x, 0.4 * depth, arm), 0.02)
            parts.append(named("arm", post))
    return parts


def dumbbell(rng: np.random.Generator) -> Parts:
    """A bar along x with weights at both ends: balls, or one to three discs."""
    from trimesh.creation import icosphere

    bar, radius = rng.uniform(0.4, 1.2), rng.uniform(0.15, 0.35)
    ends = bar / 2 + radius
    parts = [named("bar", rod(rng, (-ends, 0, 0), (ends, 0, 0), rng.uniform(0.03, 0.07)))]
    balls, discs = rng.random() < 0.4, int(rng.integers(1, 4))
    thickness, taper = rng.uniform(0.08, 0.16), rng.uniform(0.7, 1.0)
    for side in (-1, 1):
        if balls:
            ball = icosphere(subdivisions=int(rng.integers(1, 3)), radius=radius)
            parts.append(named("weight", move(ball, side * bar / 2, 0, 0)))
            continue
        for index in range(discs):
            x = side * (bar / 2 + 1.15 * thickness * index)
            size = radius * taper**index
            disc = rod(rng, (x, 0, 0), (x + side * thickness, 0, 0), size)
            parts.append(named("weight", disc))
    return parts


def ladder(rng: np.random.Generator) -> Parts:
    """Two rails and rungs, upright or leaning, sometimes a second pair of rails: a step ladder."""
    width, height, lean = rng.uniform(0.3, 0.6), rng.uniform(1.2, 2.4), rng.uniform(0, 0.4)
    rail, taper = rng.uniform(0.02, 0.045), rng.uniform(0.7, 1.0)
    count = int(rng.integers(4, 11))
    missing = int(rng.integers(count)) if rng.random() < 0.25 else -1
    parts = []
    for side in (-1, 1):
        foot, top = (side * width / 2, 0, 0), (side * taper * width / 2, lean * height, height)
        parts.append(named("rail", rod(rng, foot, top, rail)))
        if rng.random() < 0.25:
            support = rod(rng, (foot[0], 2 * lean * height + 0.2, 0), top, rail)
            parts.append(named("rail", support))
    for index, share in enumerate(np.linspace(0.08, 0.94, count)):
        if index != missing:
            x, y, z = width / 2 * (1 - share * (1 - taper)), share * lean * height, share * height
            rung = rod(rng, (-x, y, z), (x, y, z), rail * rng.uniform(0.5, 0.9))
            parts.append(named("rung", rung))
    return parts


def lamp(rng: np.random.Generator) -> Parts:
    """A foot, a stem, straight or bent, and a shade: a cone, a drum or a ball."""
    from trimesh.creation import icosphere

    height, foot, shade = rng.uniform(0.6, 1.5), rng.uniform(0.12, 0.28), rng.uniform(0.15, 0.35)
    stem = rng.uniform(0.015, 0.04)
    base = rng.uniform(0.02, 0.12)
    profile = [(0, 0), (foot, 0), (foot * rng.uniform(0.3, 1), base), (0, base)]
    parts = [named("base", lathe(rng, profile))]
    parts.append(named("stem", rod(rng, (0, 0, 0), (0, 0, height), stem)))
    reach = float(rng.choice([0.0, 0.0, rng.uniform(0.15, 0.4)]))
    if reach:
        parts.append(named("stem", rod(rng, (0, 0, height), (reach, 0, height), stem)))
    kind = rng.integers(3)
    if kind == 2:
        head = icosphere(subdivisions=int(rng.integers(1, 4)), radius=0.8 * shade)
        parts.append(named("shade", move(head, reach, 0, height)))
    else:
        upper = shade * (rng.uniform(0.3, 0.7) if kind == 0 else 1)
        tall = rng.uniform(0.2, 0.4)
        cone = lathe(rng, [(shade, height - tall / 2), (upper, height + tall / 2)])
        parts.append(named("shade", move(cone, reach, 0, 0)))
    return parts


def mug(rng: np.random.Generator) -> Parts:
    """A hollow cup with a handle."""
    radius, height = rng.uniform(0.3, 0.45), rng.uniform(0.5, 1.0)
    foot, wall = radius * rng.uniform(0.7, 1.05), rng.uniform(0.02, 0.05)
    profile = [(0, 0), (foot, 0), (radius, height), (radius - wall, height), (foot - wall, wall)]
    parts = [named("cup", lathe(rng, [*profile, (0, wall)]))]
    size = height * rng.uniform(0.22, 0.36)
    handle = ring(rng, size, rng.uniform(0.025, 0.06))
    move(stand(handle), (foot + radius) / 2, 0, height / 2)
    if rng.random() < 0.9:
        parts.append(named("handle", handle))
    return parts


def ring_shape(rng: np.random.Generator) -> Parts:
    """A ring: a torus, thin or thick, lying or standing, or a flat band, sometimes with spokes."""
    from trimesh.creation import annulus

    radius, thickness = 0.5, rng.uniform(0.05, 0.2)
    if rng.random() < 0.3:
        inner, height = radius - thickness, rng.uniform(0.08, 0.4)
        parts = [annulus(inner, radius, height=height, sections=int(rng.integers(10, 40)))]
    else:
        parts = [ring(rng, radius, thickness)]
    if rng.random() < 0.3:
        turn = rng.uniform(0, np.pi)
        for angle in turn + np.pi * np.arange(int(rng.integers(1, 4))) / 3:
            tip = (0.9 * radius * np.cos(angle), 0.9 * radius * np.sin(angle), 0)
            parts.append(rod(rng, (-tip[0], -tip[1], 0), tip, 0.03))
    if rng.random() < 0.5:
        for part in parts:
            stand(part)
    return parts


def stool(rng: np.random.Generator) -> Parts:
    """A small seat, high above three or four legs or a pedestal, mostly with a foot ring."""
    size, height = rng.uniform(0.3, 0.5), rng.uniform(0.45, 0.9)
    parts = [named("seat", board(rng, size, size * rng.uniform(0.85, 1.1), height))]
    if rng.random() < 0.3:
        return parts + pedestal(rng, size / 2, height)
    parts += legs(rng, size, size, height, count=int(rng.integers(3, 5)))
    if rng.random() < 0.5:
        foot_ring = ring(rng, 0.45 * size, 0.015)
        foot_ring = move(foot_ring, 0, 0, height * rng.uniform(0.25, 0.5))
        parts.append(named("foot ring", foot_ring))
    return parts


def table(rng: np.random.Generator) -> Parts:
    """A wide top on four legs or a pedestal, sometimes with a shelf or a drawer below."""
    width, depth, height = rng.uniform(0.9, 1.9), rng.uniform(0.6, 1.0), rng.uniform(0.4, 0.9)
    parts = [named("top", board(rng, width, depth, height))]
    if rng.random() < 0.25:
        parts += pedestal(rng, depth / 2, height)
    else:
        parts += legs(rng, 0.9 * width, 0.9 * depth, height)
    if rng.random() < 0.3:
        z = height * rng.uniform(0.2, 0.5)
        parts.append(named("shelf", box((0.85 * width, 0.85 * depth, 0.03), (0, 0, z))))
    if rng.random() < 0.25:
        drawer = box((0.4 * width, 0.8 * depth, 0.15), (0, 0, height - 0.12))
        parts.append(named("top", drawer))
    return parts


PARTS: dict[str, tuple[str, ...]] = {
    "airplane": ("body", "wing", "tail", "engine"),
    "bed": ("base", "leg", "headboard", "pillow"),
    "chair": ("seat", "back", "leg", "arm"),
    "dumbbell": ("bar", "weight"),
    "ladder": ("rail", "rung"),
    "lamp": ("base", "stem", "shade"),
    "mug": ("cup", "handle"),
    "stool": ("seat", "leg", "foot ring"),
    "table": ("top", "leg", "shelf"),
}
"""The parts of the classes whose parts can be told apart from outside, by `named`."""

BUILDERS: dict[str, Builder] = {
    "airplane": airplane,
    "bed": bed,
    "bookshelf": bookshelf,
    "bottle": bottle,
    "chair": chair,
    "dumbbell": dumbbell,
    "ladder": ladder,
    "lamp": lamp,
    "mug": mug,
    "ring": ring_shape,
    "stool": stool,
    "table": table,
}
