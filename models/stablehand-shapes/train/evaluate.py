"""Measures how faithfully the model follows prompts whose combinations were never in training.

    python evaluate.py --out DIR                    the whole table, through diffusers; the pictures go to DIR
    python evaluate.py --out DIR --quick            a small share of it
    python evaluate.py --out DIR --server URL       through a running Stablehand, as its users do

A picture counts as right if background, number, colours and shapes, and the places and sizes that the prompt names are
all right. In the group "negative" the prompt leaves the colour open, and the negative prompt is the very colour that the
model chose for the same seed without one: right is any other colour.
"""

import argparse
import collections
import io
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from PIL import Image

import classify
import shapes
from common import DEVICE, MODEL_DIR

SCHEDULERS = {
    "DDIM": DDIMScheduler,
    "K_EULER": EulerDiscreteScheduler,
    "DPMSolverMultistep": DPMSolverMultistepScheduler,
    "K_EULER_ANCESTRAL": EulerAncestralDiscreteScheduler,
    "PNDM": PNDMScheduler,
    "KLMS": LMSDiscreteScheduler,
}
# (size, steps, prompts for each scheduler) of the groups with one figure and with two, and of the negative prompts.
GRID = [(256, 15, 40), (256, 30, 10), (512, 20, 12), (768, 20, 6)]
QUICK_GRID = [(256, 15, 8), (512, 15, 2), (768, 15, 1)]


def single(rng):
    """A held-out prompt with one figure, half of them with a place or a size."""
    while True:
        colour, shape = rng.choice(shapes.COLOUR_NAMES), rng.choice(shapes.SHAPES)
        ground = rng.choice(shapes.COLOUR_NAMES)
        if colour != ground and shapes.is_held_out(colour, shape, ground):
            break
    figure, kind = dict(colour=str(colour), shape=str(shape)), rng.random()
    words = f"{colour} {shape}"
    if kind < 0.25:
        figure["size"] = str(rng.choice(list(shapes.SIZES)))
        words = f"{figure['size']} {words}"
    place = ""
    if 0.25 <= kind < 0.5:
        figure["place"] = str(rng.choice(list(shapes.PLACES)))
        place = {"center": " in the center", "left": " on the left", "right": " on the right"}.get(
            figure["place"], f" at the {figure['place']}"
        )
    article = "an" if words[0] in "aeiou" else "a"
    prompt = f"{article} {words}{place} on {'an' if ground[0] in 'aeiou' else 'a'} {ground} background"
    return dict(prompt=prompt, expected=dict(background=str(ground), relation=None, figures=[figure]))


def pair(rng):
    """A held-out prompt with two figures, side by side or one above the other."""
    while True:
        first, second = single(rng)["expected"], single(rng)["expected"]
        one, two = first["figures"][0], second["figures"][0]
        ground = first["background"]
        if two["colour"] not in (ground, one["colour"]) and shapes.is_held_out(two["colour"], two["shape"], ground):
            break
    word, relation = [("and", "beside"), ("next to", "beside"), ("above", "above")][rng.integers(3)]
    one, two = (dict(colour=f["colour"], shape=f["shape"]) for f in (one, two))
    a, b = (f"{'an' if f['colour'][0] in 'aeiou' else 'a'} {f['colour']} {f['shape']}" for f in (one, two))
    prompt = f"{a} {word} {b} on {'an' if ground[0] in 'aeiou' else 'a'} {ground} background"
    return dict(prompt=prompt, expected=dict(background=ground, relation=relation, figures=[one, two]))


def colourless(rng):
    """A prompt that leaves the figure's colour open."""
    shape, ground = str(rng.choice(shapes.SHAPES)), str(rng.choice(shapes.COLOUR_NAMES))
    prompt = f"a {shape} on {'an' if ground[0] in 'aeiou' else 'a'} {ground} background"
    return dict(prompt=prompt, expected=dict(background=ground, relation=None, figures=[dict(shape=shape)]))


def cases(grid, seed=7):
    """All the pictures to draw."""
    rng, out = np.random.default_rng(seed), []
    for size, steps, count in grid:
        for scheduler in SCHEDULERS:
            for i in range(count):
                made = {"one": single, "two": pair}["one" if i % 2 == 0 else "two"](rng)
                group = "one" if i % 2 == 0 else "two"
                out.append(made | dict(group=group, scheduler=scheduler, size=size, steps=steps))
            if size == grid[0][0] and steps == grid[0][1]:
                for _ in range(max(2, count // 4)):
                    out.append(colourless(rng) | dict(group="negative", scheduler=scheduler, size=size, steps=steps))
    for i, case in enumerate(out):
        case.update(id=f"{i:04d}", seed=1000 + i, guidance=7.5, negative_prompt="", width=case["size"], height=case["size"])
    return out


def load_pipeline(directory):
    """The model as diffusers loads it, in f32."""
    pipeline = StableDiffusionPipeline.from_pretrained(directory, torch_dtype=torch.float32).to(DEVICE)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_batch(pipeline, batch):
    """PIL pictures, by diffusers, of cases that share scheduler, size and steps."""
    first = batch[0]
    pipeline.scheduler = SCHEDULERS[first["scheduler"]].from_config(pipeline.scheduler.config)
    return pipeline(
        [c["prompt"] for c in batch],
        negative_prompt=[c["negative_prompt"] for c in batch],
        generator=[torch.Generator().manual_seed(c["seed"]) for c in batch],
        num_inference_steps=first["steps"],
        guidance_scale=first["guidance"],
        width=first["width"],
        height=first["height"],
    ).images


def draw_on_server(url, case):
    """The PIL picture of one case, by a running Stablehand."""
    given = dict(num_inference_steps=case["steps"], guidance_scale=case["guidance"])
    given |= {k: case[k] for k in ("prompt", "negative_prompt", "scheduler", "seed", "width", "height")}
    body = json.dumps(dict(version="stability-ai/stable-diffusion", input=given)).encode()
    headers = {"Content-Type": "application/json", "Prefer": "wait"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/predictions", body, headers)) as answer:
        prediction = json.load(answer)
    while prediction["status"] in ("starting", "processing"):
        with urllib.request.urlopen(prediction["urls"]["get"]) as answer:
            prediction = json.load(answer)
    with urllib.request.urlopen(prediction["output"][0]) as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")


def draw_all(draw, todo, out):
    """Draws all cases into `out`; `draw` makes the pictures of cases that share scheduler, size and steps."""
    out.mkdir(parents=True, exist_ok=True)
    queues = collections.defaultdict(list)
    for case in todo:
        queues[case["scheduler"], case["size"], case["steps"], case["group"] == "negative"].append(case)
    for (scheduler, size, steps, negative), queue in queues.items():
        width = max(1, 8 * 256 * 256 // size**2)
        for start in range(0, len(queue), width):
            batch = queue[start : start + width]
            if negative:  # first without a negative prompt, then against the colour that came
                for case, picture in zip(batch, draw(batch)):
                    figures = classify.look(picture)[1]
                    case["negative_prompt"] = figures[0].colour if figures else "red"
                    case["expected"]["figures"][0]["not_colour"] = case["negative_prompt"]
            for case, picture in zip(batch, draw(batch)):
                picture.save(out / f"{case['id']}.png")
        print(f"drew {scheduler} {size} {steps} steps {'negative' if negative else ''}", flush=True)


def table(todo, pictures):
    """The accuracy table in Markdown; what went wrong is printed on the way."""
    right, wrong = collections.defaultdict(list), collections.Counter()
    for case in todo:
        faults = classify.faults(Image.open(pictures / f"{case['id']}.png"), case["expected"])
        column = f"{case['size']}², {case['steps']} steps, {case['group']}"
        right[case["scheduler"], column].append(not faults)
        wrong.update(faults)
        if faults:
            print(case["id"], case["scheduler"], case["size"], case["prompt"], "| wrong:", ", ".join(sorted(faults)))
    columns = list(dict.fromkeys(column for _, column in right))
    lines = ["| | " + " | ".join(columns) + " | all |", "|---" * (len(columns) + 2) + "|"]
    for scheduler in [*SCHEDULERS, "all"]:
        cells = [[r for (s, c), rs in right.items() if c == column and scheduler in (s, "all") for r in rs] for column in columns]
        cells.append([r for cell in cells for r in cell])
        lines.append(f"| {scheduler} | " + " | ".join(f"{sum(c)}/{len(c)}" if c else "–" for c in cells) + " |")
    total = [r for rs in right.values() for r in rs]
    lines += ["", f"Right: {sum(total)} of {len(total)} ({100 * np.mean(total):.1f} %). Faults: {dict(wrong.most_common())}"]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--server", help="draw through this server, not through diffusers")
    args = parser.parse_args()
    todo = cases(QUICK_GRID if args.quick else GRID)
    if args.server:
        with ThreadPoolExecutor(8) as threads:
            draw_all(lambda batch: list(threads.map(lambda case: draw_on_server(args.server, case), batch)), todo, args.out)
    else:
        pipeline = load_pipeline(args.model)
        draw_all(lambda batch: draw_batch(pipeline, batch), todo, args.out)
    print(table(todo, args.out))


if __name__ == "__main__":
    main()
