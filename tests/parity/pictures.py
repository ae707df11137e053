"""Whole pictures: diffusers' pipelines on the CPU in f32 beside `stablehand generate --noise torch-cpu`, same folder, same arguments.

    python tests/parity/pictures.py --stablehand target/release/stablehand [--set quick|full|builtin] [--work DIR]
    python tests/parity/pictures.py --goldens tests/goldens/pictures

The first compares and prints a Markdown table; it fails when a picture is more than one 8-bit level off on more than 0.1 % of its
pixels. `quick` and `full` draw with random tiny pipelines, `builtin` with models/stablehand-shapes. The second writes the tiny pipelines
with a few of diffusers' pictures, for `tests/suite/generate.rs`.
"""

import argparse
import itertools
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import diffusers
import numpy as np
import torch
from PIL import Image

import tiny_pipelines

ROOT = pathlib.Path(__file__).parents[2]
CLASSES = {
    "DDIM": diffusers.DDIMScheduler,
    "K_EULER": diffusers.EulerDiscreteScheduler,
    "DPMSolverMultistep": diffusers.DPMSolverMultistepScheduler,
    "K_EULER_ANCESTRAL": diffusers.EulerAncestralDiscreteScheduler,
    "PNDM": diffusers.PNDMScheduler,
    "KLMS": diffusers.LMSDiscreteScheduler,
}
SIZES = [(256, 256), (320, 192), (512, 512)]
GUIDANCE = [1.0, 3.5, 7.5]
NEGATIVES = [None, "green star", ""]


def case(model, scheduler, size, outputs, guidance, negative, steps, prompt="a red circle on a white background"):
    return dict(model=model, scheduler=scheduler, width=size[0], height=size[1], num_outputs=outputs, guidance_scale=guidance,
                negative_prompt=negative, num_inference_steps=steps, seed=1234 + outputs, prompt=prompt)  # fmt: skip


def mixed(model, steps, every=1):
    """Sizes × guidance for each scheduler, with numbers of outputs and negative prompts that vary along."""
    combinations = list(itertools.product(CLASSES, SIZES, GUIDANCE))
    for i, (scheduler, size, guidance) in list(enumerate(combinations))[::every]:
        yield case(model, scheduler, size, 1 + (i + i // 9) % 4, guidance, NEGATIVES[(i // 2) % 3], steps)


def cases(which):
    if which == "builtin":
        for i, scheduler in enumerate(CLASSES):
            yield case("builtin", scheduler, (256, 256), 1 + i % 2, GUIDANCE[2 - i % 2], NEGATIVES[i % 3], 25)
        yield case("builtin", "K_EULER_ANCESTRAL", (320, 192), 4, 7.5, "green star", 20)
        yield case("builtin", "DPMSolverMultistep", (512, 512), 1, 7.5, None, 20)
        return
    every, stride = (1, 4) if which == "full" else (4, 17)
    yield from mixed("sd", 12, every)
    # Strides that share no factor with the three sizes and three scales.
    yield from mixed("sd2", 9, stride)
    yield from mixed("sdxl", 9, stride)


def goldens():
    """Small enough to commit: each scheduler once, each pipeline, several outputs, with and without guidance."""
    for i, scheduler in enumerate(CLASSES):
        yield case("sd", scheduler, (96, 64), 1 + i % 2, GUIDANCE[2 - i % 2], NEGATIVES[i % 3], 7)
    yield case("sd2", "PNDM", (64, 64), 1, 3.5, "green star", 6)
    yield case("sd2", "DPMSolverMultistep", (64, 96), 1, 7.5, None, 20)
    yield case("sdxl", "K_EULER_ANCESTRAL", (64, 64), 4, 7.5, None, 5)
    yield case("sdxl", "K_EULER", (64, 96), 1, 3.5, "", 8)
    yield case("sdxl", "KLMS", (72, 88), 1, 1.0, None, 5)


class Reference:
    """diffusers' pipelines, loaded once each."""

    def __init__(self, folders):
        self.folders, self.pipelines = folders, {}

    def draw(self, c):
        name = c["model"]
        if name not in self.pipelines:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(self.folders[name], torch_dtype=torch.float32, safety_checker=None)
            pipeline.set_progress_bar_config(disable=True)
            self.pipelines[name] = (pipeline, pipeline.scheduler.config)
        pipeline, config = self.pipelines[name]
        pipeline.scheduler = CLASSES[c["scheduler"]].from_config(config)
        same = {key: c[key] for key in ("prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale")}
        generator = torch.Generator("cpu").manual_seed(c["seed"])
        with torch.no_grad():
            return pipeline(**same, num_images_per_prompt=c["num_outputs"], generator=generator).images


def ours(binary, folder, c, out):
    """The same through `generate`."""
    command = [binary, "generate", "--model", folder, "--out-dir", out, "--noise", "torch-cpu", "--device", "cpu"]
    for key, value in c.items():
        if key != "model" and value is not None:
            command += [f"--{key.replace('_', '-')}", str(value)]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return [Image.open(pathlib.Path(out) / f"out-{i}.png") for i in range(c["num_outputs"])]


def compare(theirs, mine):
    """(pixels at most one level off, largest difference, share of values that are neither black nor white)"""
    a, b = (np.stack([np.asarray(p.convert("RGB"), dtype=np.int16) for p in pictures]) for pictures in (theirs, mine))
    worst = np.abs(a - b).max(axis=-1)
    return (worst <= 1).mean(), int(worst.max()), ((a > 0) & (a < 255)).mean()


def run(binary, which, work):
    folders = {name: work / name for name in ("sd", "sd2", "sdxl", "builtin")}
    if which == "builtin":  # a copy, so that both sides see the same weights even while it is being trained
        torch.set_num_threads(2)
        shutil.copytree(ROOT / "models" / "stablehand-shapes", folders["builtin"], dirs_exist_ok=True)
    else:
        tiny_pipelines.write(work)
    reference, failed = Reference(folders), 0
    print("| model | scheduler | size | steps | guidance | negative | outputs | at most one level off | largest | neither black nor white |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for c in cases(which):
        within, largest, shades = compare(reference.draw(c), ours(binary, folders[c["model"]], c, work / "out"))
        failed += within < 0.999
        print(f"| {c['model']} | {c['scheduler']} | {c['width']}×{c['height']} | {c['num_inference_steps']} | {c['guidance_scale']} | {c['negative_prompt']!r} "
              f"| {c['num_outputs']} | {within:.4%} | {largest} | {shades:.0%} |", flush=True)  # fmt: skip
    print(f"\n{failed} failed")
    return failed


def write_goldens(out):
    tiny_pipelines.write(out)
    reference = Reference({name: out / name for name in ("sd", "sd2", "sdxl")})
    made = list(goldens())
    for number, c in enumerate(made):
        for i, picture in enumerate(reference.draw(c)):
            picture.save(out / f"{number}-{i}.png", optimize=True)
    (out / "cases.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)  # tiny models: threads only wait for each other
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stablehand", type=pathlib.Path)
    parser.add_argument("--set", default="quick", choices=["quick", "full", "builtin"])
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--goldens", type=pathlib.Path)
    args = parser.parse_args()
    if args.goldens:
        write_goldens(args.goldens)
    if args.stablehand:
        with tempfile.TemporaryDirectory() as temporary:
            sys.exit(1 if run(args.stablehand.resolve(), args.set, args.work or pathlib.Path(temporary)) else 0)
