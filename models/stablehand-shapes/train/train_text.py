"""Trains the text encoder to say what a caption describes: `python train_text.py --minutes 6`, continued with `--resume`.

Linear heads read the scene (colours, shapes, places, sizes …) off the end-of-text position and off the padding after
it. Afterwards the heads are thrown away and the encoder stays as it is: the UNet's cross-attention finds the whole
scene, sorted by figure, in every padding position, and the words themselves before it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import captions
import shapes
import tokenizer as tokenizers
from common import DEFAULT_WORK_DIR, DEVICE, Clock, load_checkpoint, new_text_encoder, save_atomically, seed_everything

TOKENS_PER_BATCH = 6144
LENGTHS, LENGTH_SHARES = [24, 32, 44, 77], [0.45, 0.25, 0.1, 0.2]
RELATIONS = [None, "beside", "above"]
FIGURE_CLASSES = [len(shapes.COLOUR_NAMES), len(shapes.SHAPES), len(shapes.FILLS)]
SCENE_CLASSES = [len(shapes.COLOUR_NAMES), 2, len(RELATIONS)]
CLASSES = SCENE_CLASSES + FIGURE_CLASSES * 2
NUMBERS = 6  # x, y, radius of both figures
ABSENT = -100  # the class of a figure that is not there; cross-entropy leaves it out


def targets(scene):
    """The scene as class indices (`CLASSES`) and numbers (`NUMBERS`; NaN for what is not there)."""
    classes = [shapes.COLOUR_NAMES.index(scene.background), int(scene.gradient), RELATIONS.index(scene.relation)]
    numbers = []
    for i in range(2):
        if i < len(scene.figures):
            f = scene.figures[i]
            classes += [shapes.COLOUR_NAMES.index(f.colour), shapes.SHAPES.index(f.shape), shapes.FILLS.index(f.fill)]
            numbers += [(f.x - 0.5) * 4, (f.y - 0.5) * 4, (f.radius - 0.2) * 10]
        else:
            classes += [ABSENT] * 3
            numbers += [float("nan")] * 3
    return classes, numbers


def examples(rng, tokenizer, count):
    """Token ids padded to 77, caption lengths in tokens, class targets and number targets."""
    pairs = [captions.random_example(rng) for _ in range(count)]
    ids = tokenizers.encode(tokenizer, [text for _, text in pairs])
    goals = [targets(scene) for scene, _ in pairs]
    lengths = (ids == ids.max()).int().argmax(1) + 1
    return ids, lengths, torch.tensor([c for c, _ in goals]), torch.tensor([n for _, n in goals])


def read_off(hidden, lengths, rng):
    """The hidden states at the end-of-text position and at three positions from there on, [4 · batch, width]."""
    last = hidden.shape[1] - 1
    ends = (lengths - 1).numpy()
    places = [ends] + [ends + (rng.random(len(ends)) * (last - ends + 1)).astype(int) for _ in range(3)]
    rows = torch.arange(len(hidden))
    return torch.cat([hidden[rows, torch.from_numpy(p)] for p in places])


def loss_and_accuracy(outputs, classes, numbers):
    """Cross-entropy of every class, squared error of the numbers, and the share of right classes."""
    loss, right, parts = 0.0, [], outputs.split([*CLASSES, NUMBERS], dim=1)
    for i, logits in enumerate(parts[:-1]):
        there = classes[:, i] != ABSENT
        if there.any():
            loss = loss + F.cross_entropy(logits, classes[:, i], ignore_index=ABSENT) * (0.5 if i >= 6 else 1.0)
            right.append((logits.argmax(1) == classes[:, i])[there].float().mean().item())
        else:
            right.append(float("nan"))
    known = ~numbers.isnan()
    return loss + F.mse_loss(parts[-1][known], numbers[known]), np.array(right)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint, on its schedule")
    parser.add_argument("--work-dir", type=Path, default=DEFAULT_WORK_DIR)
    args = parser.parse_args()
    path = args.work_dir / "text.pt"

    saved = load_checkpoint(path) if args.resume else None
    rng = seed_everything(args.seed + (saved["step"] if saved else 0))
    tokenizer = tokenizers.load()
    model = new_text_encoder(len(tokenizer)).to(DEVICE)
    heads = torch.nn.Linear(model.config.hidden_size, sum(CLASSES) + NUMBERS).to(DEVICE)
    weights = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.01)
    if saved:
        model.load_state_dict(saved["model"])
        heads.load_state_dict(saved["heads"])
        optimizer.load_state_dict(saved["optimizer"])
    clock, step = Clock(args.minutes, saved["spent"] if saved else 0.0, warmup=15), saved["step"] if saved else 0

    def save():
        state = dict(model=model.state_dict(), heads=heads.state_dict(), optimizer=optimizer.state_dict())
        save_atomically(state | dict(step=step, spent=clock.spent()), path)

    shown, losses, accuracy = clock.spent(), [], []
    while not clock.done():
        for group in optimizer.param_groups:
            group["lr"] = clock.learning_rate(args.learning_rate)
        length = int(rng.choice(LENGTHS, p=LENGTH_SHARES))
        ids, lengths, classes, numbers = examples(rng, tokenizer, TOKENS_PER_BATCH // length)
        fits = lengths <= length
        ids, lengths, classes, numbers = ids[fits, :length], lengths[fits], classes[fits], numbers[fits]
        hidden = model(ids.to(DEVICE)).last_hidden_state
        outputs = heads(read_off(hidden, lengths, rng))
        loss, right = loss_and_accuracy(outputs, classes.repeat(4, 1).to(DEVICE), numbers.repeat(4, 1).to(DEVICE))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.item())
        accuracy.append(right)
        step += 1
        if clock.spent() - shown > 20 or clock.done():
            shares = " ".join(f"{share:.2f}" for share in np.nanmean(accuracy, 0))
            print(f"{clock.spent():5.0f}s step {step} loss {np.mean(losses):.3f} right {shares}", flush=True)
            shown, losses, accuracy = clock.spent(), [], []
            save()
    save()


if __name__ == "__main__":
    main()
