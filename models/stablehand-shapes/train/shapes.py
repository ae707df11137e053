"""The pictures the model is trained on: scenes of coloured figures, drawn with signed distance functions.

A `Scene` is plain data in units of the picture (nothing in it depends on the resolution), so the same scene can be
drawn at any size, and any window of it can be drawn alone. `is_held_out` is the split: a combination of figure colour,
shape and background colour for which it is true never occurs in training.
"""

from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (0.88, 0.11, 0.12),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.98, 0.89, 0.15),
    "green": (0.12, 0.62, 0.20),
    "cyan": (0.12, 0.82, 0.88),
    "blue": (0.12, 0.24, 0.85),
    "purple": (0.50, 0.14, 0.66),
    "pink": (0.98, 0.55, 0.76),
    "white": (0.98, 0.98, 0.98),
    "gray": (0.52, 0.52, 0.52),
    "black": (0.04, 0.04, 0.04),
}
COLOUR_NAMES = list(COLOURS)
NEUTRAL = ("white", "gray", "black")
SHAPES = ["circle", "square", "triangle", "star", "ring", "heart", "diamond", "cross"]
SIZES = {"small": 0.12, "medium": 0.20, "large": 0.30}
PAIR_SIZES = {"small": 0.11, "medium": 0.155, "large": 0.205}
FILLS = ["plain", "striped", "shaded"]
# Named places of a single figure, as fractions of the picture's width and height.
PLACES = {
    "center": (0.5, 0.5),
    "left": (0.26, 0.5),
    "right": (0.74, 0.5),
    "top": (0.5, 0.26),
    "bottom": (0.5, 0.74),
    "top left": (0.26, 0.26),
    "top right": (0.74, 0.26),
    "bottom left": (0.26, 0.74),
    "bottom right": (0.74, 0.74),
}
PAIR_PLACES = {"beside": ((0.27, 0.5), (0.73, 0.5)), "above": ((0.5, 0.27), (0.5, 0.73))}


@dataclass
class Figure:
    """One figure: names for the caption, numbers for the drawing (x, y: fractions; radius: of the shorter side)."""

    colour: str
    shape: str
    size: str | None  # None: the caption says nothing about it
    place: str | None
    fill: str
    x: float
    y: float
    radius: float
    rgb: np.ndarray


@dataclass
class Scene:
    """A background and one or two figures; `relation` is how a pair stands ("beside" or "above")."""

    background: str
    gradient: bool
    rgb: np.ndarray
    figures: list[Figure]
    relation: str | None


def is_held_out(colour, shape, background):
    """Whether this combination is kept out of training, for the evaluation (one in nine)."""
    c, s, b = COLOUR_NAMES.index(colour), SHAPES.index(shape), COLOUR_NAMES.index(background)
    return (c + 3 * s + 5 * b) % 9 == 4


def jittered(rng, colour):
    """A colour's RGB with the slight variation that training pictures have."""
    return np.clip(np.asarray(COLOURS[colour]) + rng.uniform(-0.02, 0.02, 3), 0.0, 1.0)


def make_figure(rng, colour, shape, sizes, size, place, centre, fill):
    """A figure of named attributes with natural variation; it always lies inside the picture."""
    radius = sizes[size] * rng.uniform(0.92, 1.08) if size else rng.uniform(0.85, 1.2) * sizes["medium"]
    x, y = (c + rng.uniform(-0.025, 0.025) for c in centre)
    edge = radius * 1.02 + 0.01
    x, y = np.clip(x, edge, 1 - edge), np.clip(y, edge, 1 - edge)
    return Figure(colour, shape, size, place, fill, float(x), float(y), float(radius), jittered(rng, colour))


def random_scene(rng, fills=True):
    """A scene for training: never a held-out combination. `fills=False` leaves fine stripes out (small pictures)."""
    background = COLOUR_NAMES[rng.integers(len(COLOUR_NAMES))]
    gradient = background not in NEUTRAL and rng.random() < 0.2
    pair = rng.random() < 0.4
    relation = ("beside" if rng.random() < 0.6 else "above") if pair else None
    figures, used = [], {background}
    for i in range(2 if pair else 1):
        while True:
            colour = COLOUR_NAMES[rng.integers(len(COLOUR_NAMES))]
            shape = SHAPES[rng.integers(len(SHAPES))]
            if colour != background and not is_held_out(colour, shape, background):
                if colour not in used or rng.random() < 0.3:
                    break
        used.add(colour)
        fill = rng.choice(FILLS, p=[0.7, 0.15, 0.15]) if fills else "plain"
        if pair:
            size = rng.choice(list(PAIR_SIZES)) if rng.random() < 0.35 else None
            figures.append(make_figure(rng, colour, shape, PAIR_SIZES, size, None, PAIR_PLACES[relation][i], fill))
        else:
            size = rng.choice(list(SIZES)) if rng.random() < 0.5 else None
            place = rng.choice(list(PLACES)) if rng.random() < 0.5 else None
            figures.append(make_figure(rng, colour, shape, SIZES, size, place, PLACES[place or "center"], fill))
    return Scene(background, gradient, jittered(rng, background), figures, relation)


def distance(shape, x, y):
    """Signed distance to the outline of a figure of radius about 1 (y points down); negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - 1.0
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.75) - 0.26
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.86
    if shape == "diamond":
        return (np.abs(x) / 0.78 + np.abs(y) / 1.1 - 1.0) * 0.636
    if shape == "cross":
        ax, ay = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(ax - 1.0, ay - 0.34), np.maximum(ax - 0.34, ay - 1.0))
    if shape == "triangle":
        up = 0.3 - y  # the bounding box is centred, not the centroid
        return np.maximum(-up, 0.866 * np.abs(x) + 0.5 * up) - 0.6
    if shape == "star":
        angle = np.arctan2(x, -(y - 0.08))
        fold = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        rho = np.hypot(x, y - 0.08)
        px, py = rho * np.cos(fold), rho * np.sin(fold)
        # The line from the tip (1.12, 0) to the notch at radius 0.48.
        nx, ny = 0.48 * np.cos(np.pi / 5) - 1.12, 0.48 * np.sin(np.pi / 5)
        return ((px - 1.12) * ny - py * nx) / np.hypot(nx, ny)
    if shape == "heart":
        hx, hy = np.abs(x) / 1.75, (0.98 - y) / 1.75
        lobe = np.hypot(hx - 0.25, hy - 0.75) - np.sqrt(2) / 4
        low = np.minimum(hx**2 + (hy - 1) ** 2, (hx - (m := np.maximum(hx + hy, 0) / 2)) ** 2 + (hy - m) ** 2)
        return 1.75 * np.where(hx + hy > 1, lobe, np.sqrt(low) * np.sign(hx - hy))
    raise ValueError(f"no such shape: {shape}")


def fill_colour(figure, x, y):
    """RGB of the figure's inside at local coordinates (figure radius 1)."""
    rgb = figure.rgb.astype(np.float32)[:, None, None]
    if figure.fill == "striped":
        other = rgb * 0.55 + (0.45 if figure.rgb.mean() < 0.75 else 0.1)
        wave = np.clip(0.5 + 3.0 * np.sin((x + y) * (2 * np.pi / 0.85)), 0, 1)
        return rgb + (other - rgb) * wave
    if figure.fill == "shaded":
        light = np.clip(1.05 - np.hypot(x + 0.35, y + 0.35) * 0.42, 0.35, 1.0)
        glow = 0.55 * np.exp(-((x + 0.35) ** 2 + (y + 0.35) ** 2) / 0.12)
        return rgb * light + (1 - rgb * light) * glow
    return np.broadcast_to(rgb, (3, *x.shape))


def draw(scene, height, width, window=None):
    """Draws the scene at height × width, or only `window` = (top, left, height, width) of it.

    Returns float32 [3, h, w] in 0..1, antialiased over one pixel.
    """
    top, left, h, w = window or (0, 0, height, width)
    side = min(height, width)
    rows = (np.arange(top, top + h, dtype=np.float32) + 0.5)
    cols = (np.arange(left, left + w, dtype=np.float32) + 0.5)
    base = scene.rgb.astype(np.float32)[:, None, None]
    if scene.gradient:
        f = (rows / height)[None, :, None]
        picture = np.broadcast_to((base + (1 - base) * 0.4) * (1 - f) + base * 0.6 * f, (3, h, w)).copy()
    else:
        picture = np.broadcast_to(base, (3, h, w)).copy()
    for figure in scene.figures:
        reach = figure.radius * side * 1.25 + 1
        cy, cx = figure.y * height, figure.x * width
        r0, r1 = np.searchsorted(rows, (cy - reach, cy + reach))
        c0, c1 = np.searchsorted(cols, (cx - reach, cx + reach))
        if r0 == r1 or c0 == c1:
            continue
        scale = figure.radius * side
        y = ((rows[r0:r1] - cy) / scale)[:, None] + np.zeros((1, c1 - c0), np.float32)
        x = ((cols[c0:c1] - cx) / scale)[None, :] + np.zeros((r1 - r0, 1), np.float32)
        cover = np.clip(0.5 - distance(figure.shape, x, y) * scale, 0, 1)
        patch = picture[:, r0:r1, c0:c1]
        patch += (fill_colour(figure, x, y) - patch) * cover
    return picture
