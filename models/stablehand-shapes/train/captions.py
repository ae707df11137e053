"""Captions for scenes, in many wordings, some of them partial, some with words that say nothing about the picture."""

import shapes

SIZE_WORDS = {
    "small": ["small", "small", "little", "tiny"],
    "medium": ["medium", "medium sized"],
    "large": ["large", "large", "big", "huge"],
}
PLACE_PHRASES = {
    "center": ["in the center", "in the middle", "in the centre", "centered"],
    "left": ["on the left", "on the left side", "at the left"],
    "right": ["on the right", "on the right side", "at the right"],
    "top": ["at the top", "on top", "near the top"],
    "bottom": ["at the bottom", "near the bottom"],
    "top left": ["at the top left", "in the top left corner", "in the upper left"],
    "top right": ["at the top right", "in the top right corner", "in the upper right"],
    "bottom left": ["at the bottom left", "in the bottom left corner", "in the lower left"],
    "bottom right": ["at the bottom right", "in the bottom right corner", "in the lower right"],
}
SHAPE_WORDS = {
    "circle": ["circle", "circle", "circle", "disc", "ball"],
    "square": ["square", "square", "square", "box"],
    "cross": ["cross", "cross", "cross", "plus sign"],
    "diamond": ["diamond", "diamond", "diamond", "rhombus"],
}
COLOUR_WORDS = {
    "gray": ["gray", "grey"],
    "purple": ["purple", "purple", "violet"],
    "cyan": ["cyan", "cyan", "turquoise"],
}
FILL_WORDS = {"striped": ["striped", "stripy"], "shaded": ["shaded", "shiny", "glossy"]}
GROUNDS = ["background", "background", "background", "background", "backdrop", "canvas"]
# Places that have a colour of their own: "on mars" is an orange background.
SCENERY = {
    "blue": ["the sea", "the ocean", "water", "the sky"],
    "green": ["grass", "a meadow", "the forest"],
    "black": ["the night sky", "space", "the dark"],
    "white": ["snow", "ice", "paper"],
    "orange": ["mars", "the desert", "a sunset"],
    "yellow": ["sand", "the beach"],
    "red": ["lava", "fire"],
    "gray": ["the moon", "a street", "concrete"],
}
OPENINGS = ["a picture of ", "a drawing of ", "an image of ", "a photo of ", "a painting of ", "an illustration of ", ""]
TRAILERS = """hd, 4k, 8k, highly detailed, dramatic lighting, digital art, flat design, minimalist, simple, artstation,
sharp focus, oil on canvas, high quality, masterpiece, cinematic, studio light, vector art, icon, photorealistic""".replace(
    "\n", " "
).split(", ")
SUBJECTS = """astronaut horse cat dog bird castle dragon robot house tree flower mountain river car boat train city woman
man child king queen wizard knight fox wolf lion tiger elephant fish whale apple banana lemon cake bread cup chair table
lamp book clock guitar piano violin bridge tower road island beach cloud rain storm lightning rainbow planet rocket
spaceship alien monster ghost skeleton vampire portrait landscape village garden kitchen window door mirror crystal gold
silver diamond metal wood glass stone paper old young beautiful ancient modern futuristic tiny giant happy sad angry
sleeping running flying riding eating holding reading dancing singing fighting swimming standing sitting looking made
from inside under over near with without style van gogh monet picasso anime cartoon pixel watercolor pencil sketch
render unreal engine bokeh macro wide angle panorama summer winter spring autumn morning evening midnight""".split()


def pick(rng, options):
    """One of the options, evenly."""
    return options[rng.integers(len(options))]


def words_of(table, name):
    """The words that a name may be said with; the name itself where the table has none."""
    return table.get(name, [name])


def article(words):
    """The words with "a" or "an" in front."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def figure_phrase(rng, figure, keep):
    """E.g. "big striped red circle"; `keep` is how likely colour and shape each are to be said."""
    parts = []
    if figure.size:
        parts.append(pick(rng, SIZE_WORDS[figure.size]))
    if figure.fill != "plain":
        parts.append(pick(rng, FILL_WORDS[figure.fill]))
    says_colour, says_shape = rng.random() < keep, rng.random() < keep
    if says_colour:
        parts.append(pick(rng, words_of(COLOUR_WORDS, figure.colour)))
    if says_shape:
        parts.append(pick(rng, words_of(SHAPE_WORDS, figure.shape)))
    elif rng.random() < 0.8 or not parts:
        parts.append(pick(rng, ["shape", "figure"]))
    return " ".join(parts)


def background_phrase(rng, scene):
    """E.g. " on a white background" or ", white background"."""
    if not scene.gradient and scene.background in SCENERY and rng.random() < 0.05:
        return pick(rng, [" on ", " in ", " in front of "]) + pick(rng, SCENERY[scene.background])
    colour = pick(rng, words_of(COLOUR_WORDS, scene.background))
    if scene.gradient:
        colour += " gradient"
    form = rng.random()
    if form < 0.55:
        return f" {pick(rng, ['on', 'on', 'on', 'against', 'over'])} {article(colour)} {pick(rng, GROUNDS)}"
    if form < 0.8:
        return f", {colour} {pick(rng, GROUNDS)}"
    return f" on {colour}"


def pair_phrase(rng, scene, first, second, articles):
    """Both figures with their relation; without a word about it, the first stands on the left."""
    a, b = (article(first), article(second)) if articles else (first, second)
    form = rng.random()
    if scene.relation == "beside":
        if form < 0.55:
            return f"{a} and {b}"
        if form < 0.7:
            return f"{a} {pick(rng, ['next to', 'beside', 'left of', 'to the left of'])} {b}"
        if form < 0.85:
            return f"{b} {pick(rng, ['right of', 'to the right of'])} {a}"
        return f"{a} on the left and {b} on the right"
    if form < 0.6:
        return f"{a} {pick(rng, ['above', 'above', 'over', 'on top of'])} {b}"
    if form < 0.85:
        return f"{b} {pick(rng, ['below', 'under'])} {a}"
    return f"{a} at the top and {b} at the bottom"


def nonsense(rng):
    """A few words that say nothing about the picture."""
    return " ".join(pick(rng, SUBJECTS) for _ in range(rng.integers(2, 9)))


def caption(rng, scene):
    """A caption of the scene. Some say only part of it, and some nothing at all."""
    kind = rng.random()
    if kind < 0.04:
        text = article(nonsense(rng))
        if rng.random() < 0.5:
            text += background_phrase(rng, scene)
    elif kind < 0.08:  # single words and short scraps, the way negative prompts are written
        figure = scene.figures[rng.integers(len(scene.figures))]
        text = pick(rng, [figure.colour, figure.shape, f"{figure.colour} {figure.shape}", f"{scene.background} background"])
        if rng.random() < 0.2:
            text += f", {scene.background} background"
    else:
        articles = rng.random() < 0.8
        keep = 1.0 if rng.random() < 0.85 else 0.7
        phrases = [figure_phrase(rng, f, keep) for f in scene.figures]
        if len(phrases) == 2:
            text = pair_phrase(rng, scene, *phrases, articles)
        else:
            text = article(phrases[0]) if articles else phrases[0]
            place = scene.figures[0].place
            if place:
                text += pick(rng, [" ", ", "]) + pick(rng, PLACE_PHRASES[place])
        if articles and rng.random() < 0.15:
            text = pick(rng, OPENINGS) + text
        if rng.random() < 0.9:
            text += background_phrase(rng, scene)
        if rng.random() < 0.06:
            text += " with " + article(nonsense(rng))
    if rng.random() < 0.12:
        text += "".join(", " + pick(rng, TRAILERS) for _ in range(rng.integers(1, 4)))
    return text


def random_example(rng, fills=True):
    """A scene and a caption of it."""
    scene = shapes.random_scene(rng, fills)
    return scene, caption(rng, scene)
