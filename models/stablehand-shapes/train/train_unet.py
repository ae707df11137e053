"""Trains the UNet on latents of all sizes: `python train_unet.py --minutes 90`, continued with `--resume`.

`--resume` continues on the old schedule if it was cut short; with larger `--minutes` the learning rate rises again and
falls along the longer one. The autoencoder and the text encoder must be there (`vae.pt`, `text.pt`) and stay as they are.
"""

import argparse
import socket
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

import captions
import muon
import shapes
import tokenizer as tokenizers
from common import (
    DEFAULT_WORK_DIR,
    DEVICE,
    SCHEDULER_CONFIG,
    Average,
    Clock,
    load_checkpoint,
    new_text_encoder,
    new_unet,
    new_vae,
    save_atomically,
    seed_everything,
)

FRESH = 0.06  # the share of each batch that is newly drawn; the rest comes from the pool
CAPTION_DROPOUT = 0.12
OTHER_CAPTION, CLEAR_BELOW = 0.5, 500  # the share of wrong captions at timesteps where the picture is plain to see
EARLY_UNTIL = 0.2  # of the schedule: until then mostly small pictures, which teach what words mean three times as fast
# Latent (height, width): batch, for two cores. A step takes one batch of the first table and one of the second.
MAIN = {"early": ((16, 16), 48), "late": ((32, 32), 12)}
SIDE = [  # (height, width), batch, share early, share late
    ((16, 16), 32, 0.00, 0.04),
    ((32, 32), 12, 0.55, 0.00),
    ((48, 48), 6, 0.10, 0.08),
    ((64, 64), 6, 0.15, 0.40),
    ((96, 96), 2, 0.08, 0.30),
    ((32, 48), 8, 0.03, 0.05),
    ((48, 32), 8, 0.03, 0.05),
    ((64, 96), 2, 0.03, 0.04),
    ((96, 64), 2, 0.03, 0.04),
]
SIDE_WEIGHT = 0.8
FIGURE_WEIGHT = 6.0  # figures are a tenth of the picture, so they and what is around them count for more, until the polish
POLISH_FROM = 0.95  # of the schedule: from then on all counts alike, and the clean timesteps for more


class Pool:
    """Encoded pictures of one size with their encoded captions; grows to its capacity, then replaces the oldest."""

    def __init__(self, size, encoders, rng):
        self.height, self.width = size
        self.encoders, self.rng = encoders, rng
        self.capacity = max(300, 8_000_000 // (self.height * self.width))
        self.latents, self.texts, self.next, self.owed = [], [], 0, 0.0

    @torch.no_grad()
    def add(self, count):
        """Draws, captions and encodes `count` new pictures."""
        examples = [captions.random_example(self.rng, fills=self.height > 20) for _ in range(count)]
        hidden = self.encoders.encode_texts([text for _, text in examples])
        for (scene, _), text in zip(examples, hidden):
            picture = torch.from_numpy(shapes.draw(scene, self.height * 8, self.width * 8))
            entry = self.encoders.encode_picture(picture).half(), text.half()
            if len(self.latents) < self.capacity:
                self.latents.append(entry[0])
                self.texts.append(entry[1])
            else:
                self.latents[self.next], self.texts[self.next] = entry
                self.next = (self.next + 1) % self.capacity

    def batch(self, count):
        """Latents, their encoded captions (some dropped for classifier-free guidance), and captions of other pictures."""
        self.owed += count * FRESH
        if len(self.latents) < 4 * count:
            self.add(count)
        elif self.owed >= 4:
            self.add(int(self.owed))
            self.owed %= 1
        chosen = self.rng.choice(len(self.latents), count, replace=False)
        latents = torch.stack([self.latents[i] for i in chosen]).float()
        texts = torch.stack([self.texts[i] for i in chosen]).float()
        texts[torch.from_numpy(self.rng.random(count) < CAPTION_DROPOUT)] = self.encoders.empty
        others = torch.stack([self.texts[i] for i in self.rng.choice(len(self.texts), count)]).float()
        return latents.contiguous(memory_format=torch.channels_last), texts, others


class Encoders:
    """The trained autoencoder and text encoder, frozen."""

    def __init__(self, work_dir):
        vae, text = (load_checkpoint(work_dir / f"{part}.pt") for part in ("vae", "text"))
        self.vae = new_vae().to(DEVICE, memory_format=torch.channels_last).eval()
        self.vae.load_state_dict(vae["average"])
        self.scale = round(1 / vae["latent_std"], 4)
        self.tokenizer = tokenizers.load()
        self.text = new_text_encoder(len(self.tokenizer)).to(DEVICE).eval()
        self.text.load_state_dict(text["model"])
        with torch.no_grad():
            self.empty = self.encode_texts([""])[0]

    def encode_texts(self, texts):
        return self.text(tokenizers.encode(self.tokenizer, texts).to(DEVICE)).last_hidden_state

    def encode_picture(self, picture):
        return self.vae.encode(picture[None].to(DEVICE) * 2 - 1).latent_dist.sample()[0] * self.scale


def signal_and_noise():
    """sqrt(ᾱ) and sqrt(1 − ᾱ) for each training timestep."""
    start, end = SCHEDULER_CONFIG["beta_start"] ** 0.5, SCHEDULER_CONFIG["beta_end"] ** 0.5
    betas = torch.linspace(start, end, SCHEDULER_CONFIG["num_train_timesteps"], dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    return alphas.sqrt().float().to(DEVICE), (1 - alphas).sqrt().float().to(DEVICE)


def noised(latents, signal, noise, rng, polish):
    """Timesteps, noised latents and the v to predict.

    The last timestep still has a trace of the picture, and in large latents its average betrays the background; a
    sampler starts from noise without it, and guidance of 7.5 overshoots it by as much. So, the noisier the timestep, the more
    the trace is weakened or amplified at random; v is set such that it still leads to the right picture. Larger latents need
    noisier timesteps.
    `polish`: fewer of the noisy timesteps, where the scene is decided, and more of those where it is made clean.
    """
    count, _, height, width = latents.shape
    power = (1.3 if polish else 2.0) + 0.4 * np.log2((height * width) ** 0.5 / 16)
    t = torch.from_numpy((1000 * rng.random(count) ** (1 / power)).astype(int)).clamp(0, 999).to(DEVICE)
    spread = ((t - 400) / 600).clamp(0, 1) * 2 * (torch.rand(count, device=DEVICE) - 0.5)
    overshot = 1 + 6 * ((t - 700) / 300).clamp(0, 1) * torch.rand(count, device=DEVICE)
    strength = torch.where(torch.rand(count, device=DEVICE) < 0.2, overshot, 1 + spread)
    strength = torch.where((t > 850) & (torch.rand(count, device=DEVICE) < 0.3), 0.0, strength)[:, None, None, None]
    a, s = signal[t][:, None, None, None], noise[t][:, None, None, None]
    mixed = strength * a * latents + s * torch.randn_like(latents)
    return t, mixed, (a * mixed - latents) / s


def misled(texts, others, t):
    """The texts, at clear timesteps half of them other pictures'.

    There the picture says more than the caption. If the network still listened to it, guidance would amplify by 7.5 what is
    nothing but the network's own error, and pictures would be grainy.
    """
    swapped = (t < CLEAR_BELOW) & (torch.rand(len(t), device=DEVICE) < OTHER_CAPTION)
    return torch.where(swapped[:, None, None], others, texts)


def figure_weights(latents):
    """Weights for the loss, larger where a picture is not background and around there; 1 on average.

    What is around a figure tells a star from a disc as much as the figure itself: were it worth less, a prediction
    would gain by being too large and too round.
    """
    reach = max(1, round(0.08 * min(latents.shape[2:])))
    background = latents.flatten(2).median(2).values[:, :, None, None]
    figure = ((latents - background).abs().amax(1, keepdim=True) > 0.4).float()
    around = F.max_pool2d(figure, 2 * reach + 1, stride=1, padding=reach)
    weights = 1 + FIGURE_WEIGHT * around
    return weights / weights.mean()


def train(rank, args, port):
    """One of `args.processes` processes; each takes its share of every batch, and their gradients are averaged."""
    if args.processes > 1:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=args.processes)
    path = args.work_dir / "unet.pt"
    saved = load_checkpoint(path) if args.resume else None
    step = saved["step"] if saved else 0
    seed_everything(args.seed)
    unet = new_unet().to(DEVICE, memory_format=torch.channels_last)
    if saved:
        unet.load_state_dict(saved["model"])
    average = Average(unet, 0.998)
    optimizers = muon.optimizers(unet)
    if saved:
        average.model.load_state_dict(saved["average"])
        average.count = step
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
    clock = Clock(args.minutes, saved["spent"] if saved else 0.0)
    shared_rng = np.random.default_rng([args.seed, step])  # what all processes must agree on
    rng = seed_everything(args.seed + 1 + rank + args.processes * step)
    encoders, pools = Encoders(args.work_dir), {}
    signal, noise = signal_and_noise()

    def backward(size, count, weight, polish):
        pool = pools.setdefault(size, Pool(size, encoders, rng))
        latents, texts, others = pool.batch(max(1, count * args.batch_scale // args.processes))
        t, mixed, target = noised(latents, signal, noise, rng, polish)
        error = (unet(mixed, t, misled(texts, others, t)).sample - target).square()
        weights = 1.0 if polish else figure_weights(latents)
        ((error * weights).mean() * (weight / args.processes)).backward()
        return error.mean().item()

    def save():
        state = dict(model=unet.state_dict(), average=average.model.state_dict(), step=step, spent=clock.spent())
        save_atomically(state | dict(optimizers=[optimizer.state_dict() for optimizer in optimizers]), path)

    shown = stored = clock.spent()
    losses = {}
    while True:
        now = torch.tensor([clock.spent()])
        if args.processes > 1:
            dist.broadcast(now, 0)  # one clock for all
        clock.now = now.item()
        if clock.done():
            break
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = clock.learning_rate(args.learning_rate) * group["rate"]
        phase = "early" if clock.progress() < EARLY_UNTIL else "late"
        side = SIDE[shared_rng.choice(len(SIDE), p=[s[2 if phase == "early" else 3] for s in SIDE])]
        for size, count, weight in ((*MAIN[phase], 1.0), (side[0], side[1], SIDE_WEIGHT)):
            losses.setdefault(size, []).append(backward(size, count, weight, clock.progress() > POLISH_FROM))
        muon.sum_over_processes([weight.grad for weight in unet.parameters()])
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(unet)
        step += 1
        if rank == 0 and clock.spent() - shown > 60:
            by_size = " ".join(f"{h}x{w}:{np.mean(l):.4f}" for (h, w), l in sorted(losses.items()))
            print(f"{clock.spent():6.0f}s step {step} {by_size}", flush=True)
            shown, losses = clock.spent(), {}
        if rank == 0 and clock.spent() - stored > 240:
            save()
            stored = clock.spent()
    if rank == 0:
        save()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--learning-rate", type=float, default=1.8e-3)
    parser.add_argument("--batch-scale", type=int, default=8 if DEVICE.type == "cuda" else 1)
    parser.add_argument("--processes", type=int, default=1 if DEVICE.type == "cuda" else 2, help="one for each core")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument("--work-dir", type=Path, default=DEFAULT_WORK_DIR)
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train, (args, port), nprocs=args.processes)


if __name__ == "__main__":
    main()
