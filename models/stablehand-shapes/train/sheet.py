"""Draws a contact sheet of a few prompts: `python sheet.py --out sheet.png` (for looking at, not for measuring)."""

import argparse
from pathlib import Path

from PIL import Image

from common import MODEL_DIR
from evaluate import draw_batch, load_pipeline

PROMPTS = [
    "a red circle on a white background",
    "a blue square on a yellow background",
    "a large green star on a black background",
    "a red circle and a blue square on a white background",
    "a yellow heart above a purple ring on a gray background",
    "a small pink triangle at the top left on a cyan background",
    "a striped orange diamond on a blue gradient background",
    "an astronaut riding a horse on mars, hd, dramatic lighting",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scheduler", default="K_EULER")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, nargs="+", default=[7.5])
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of the prompts")
    args = parser.parse_args()
    common = dict(negative_prompt="", scheduler=args.scheduler, steps=args.steps, width=args.size, height=args.size)
    pipeline = load_pipeline(args.model)
    sheet = Image.new("RGB", (args.size * args.prompts, args.size * len(args.guidance)))
    for row, guidance in enumerate(args.guidance):
        prompts = PROMPTS[: args.prompts]
        batch = [common | dict(prompt=p, guidance=guidance, seed=i) for i, p in enumerate(prompts)]
        for column, picture in enumerate(draw_batch(pipeline, batch)):
            sheet.paste(picture, (column * args.size, row * args.size))
    sheet.save(args.out)


if __name__ == "__main__":
    main()
