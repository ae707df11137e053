"""Says what a picture shows, without anything learned: `python classify.py` checks it on drawn pictures.

The background is the border's colour; figures are connected regions that differ from it; a figure's shape is the one
whose drawn template, fitted to the region's bounding box, overlaps it best.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

import shapes

WORK_SIZE = 192  # pictures are looked at with this shorter side
TEMPLATE = 64
CONTRAST = 0.17  # how far (RGB, Euclidean) a figure's pixels are from the background's


@dataclass
class Seen:
    """One figure as it was found; x, y as fractions of the picture, radius of its shorter side."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


def colour_name(rgb):
    """The palette's nearest colour."""
    return min(shapes.COLOURS, key=lambda name: np.sum((np.asarray(shapes.COLOURS[name]) - rgb) ** 2))


def make_templates():
    """Each shape's mask cut to its bounding box and scaled to TEMPLATE², and its half-extent for radius 1."""
    axis = (np.arange(600) + 0.5) / 600 * 3 - 1.5
    y, x = axis[:, None] + 0 * axis, axis[None, :] + 0 * axis[:, None]
    templates = {}
    for shape in shapes.SHAPES:
        mask = shapes.distance(shape, x, y) < 0
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        templates[shape] = resized(box), max(box.shape) / 600 * 1.5, box.shape[1] / box.shape[0]
    return templates


def resized(mask):
    """A boolean mask scaled to TEMPLATE², as fractions."""
    return np.asarray(Image.fromarray(mask.astype(np.float32)).resize((TEMPLATE, TEMPLATE), Image.BOX))


def look(picture):
    """(background colour, figures) of an RGB PIL image; figures are sorted by size, the largest first."""
    scale = WORK_SIZE / min(picture.size)
    small = picture.convert("RGB").resize([round(e * scale) for e in picture.size], Image.BOX)
    rgb = np.asarray(small, np.float32) / 255
    height, width, _ = rgb.shape
    frame = max(2, WORK_SIZE // 40)
    border = np.ones((height, width), bool)
    border[frame:-frame, frame:-frame] = False
    ground = np.median(rgb[border], 0)
    regions, count = ndimage.label(np.sqrt(((rgb - ground) ** 2).sum(2)) > CONTRAST)
    areas = ndimage.sum_labels(regions > 0, regions, range(1, count + 1))
    figures = []
    for index in np.argsort(areas)[::-1]:
        if areas[index] < max(0.003 * height * width, 0.12 * areas.max()):
            break
        mask = regions == index + 1
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        filled = resized(box)
        shape = max(TEMPLATES, key=lambda s: np.minimum(TEMPLATES[s][0], filled).sum() / np.maximum(TEMPLATES[s][0], filled).sum())
        inner = ndimage.binary_erosion(mask, iterations=2)
        colour = colour_name(np.median(rgb[inner if inner.sum() > 20 else mask], 0))
        y, x = (rows[0] + rows[-1] + 1) / 2 / height, (cols[0] + cols[-1] + 1) / 2 / width
        figures.append(Seen(colour, shape, x, y, max(box.shape) / 2 / WORK_SIZE / TEMPLATES[shape][1]))
    return colour_name(ground), figures


def size_name(radius, pair):
    """The size word nearest to a radius."""
    sizes = shapes.PAIR_SIZES if pair else shapes.SIZES
    return min(sizes, key=lambda name: abs(np.log(radius / sizes[name])))


def place_name(x, y):
    """Which of the nine named places a centre is in."""
    row = "top" if y < 0.41 else "bottom" if y > 0.59 else ""
    column = "left" if x < 0.41 else "right" if x > 0.59 else ""
    return f"{row} {column}".strip() or "center"


def faults(picture, expected):
    """What is wrong in the picture, as a set of words; empty if it shows what is expected.

    `expected`: {"background", "relation", "figures": [{"colour", "shape", "size", "place"}]}, each may be missing; a figure's
    "not_colour" is a colour that it must not have. The figures of a pair are in reading order.
    """
    background, seen = look(picture)
    wrong = set()
    if background != expected.get("background", background):
        wrong.add("background")
    wanted = expected["figures"]
    if len(seen) != len(wanted):
        return wrong | {"count"}
    pair = len(wanted) == 2
    if pair:
        dx, dy = abs(seen[0].x - seen[1].x), abs(seen[0].y - seen[1].y)
        if (expected["relation"] == "beside") != (dx > dy):
            wrong.add("place")
        seen.sort(key=lambda f: f.x if dx > dy else f.y)
    for want, figure in zip(wanted, seen):
        if figure.colour != want.get("colour", figure.colour) or figure.colour == want.get("not_colour"):
            wrong.add("colour")
        if figure.shape != want.get("shape", figure.shape):
            wrong.add("shape")
        if want.get("size") and size_name(figure.radius, pair) != want["size"]:
            wrong.add("size")
        if want.get("place") and place_name(figure.x, figure.y) != want["place"]:
            wrong.add("place")
    return wrong


TEMPLATES = make_templates()


def check(count=1000):
    """The share of drawn pictures that are seen as what they are."""
    rng, right = np.random.default_rng(5), 0
    for _ in range(count):
        scene = shapes.random_scene(rng, fills=False)
        scene.gradient = False
        figures = [dict(colour=f.colour, shape=f.shape, size=f.size, place=f.place) for f in scene.figures]
        expected = dict(background=scene.background, relation=scene.relation, figures=figures)
        drawn = (shapes.draw(scene, 256, 256).transpose(1, 2, 0) * 255).round().astype(np.uint8)
        wrong = faults(Image.fromarray(drawn), expected)
        right += not wrong
        if wrong:
            print(wrong, expected, look(Image.fromarray(drawn)))
    print(f"{right} of {count} drawn pictures are seen as what they are ({100 * right / count:.1f} %)")
    return right / count


if __name__ == "__main__":
    check()
