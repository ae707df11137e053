"""Trains the UNet on latents of all sizes: `python train_unet.py --minutes 90`, continued with `--resume`.

`--resume` continues on the old schedule if it was cut short; with larger `--minutes` the learning rate rises again and
falls along the longer one. The autoencoder and the text encoder must be there (`vae.pt`, `text.pt`) and stay as they are.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

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
EARLY_UNTIL = 0.6  # of the schedule: until then mostly small pictures, which teach what words mean three times as fast
# Latent (height, width): batch. A step takes one batch of the first table and, SIDE_SHARE of the time, one of the second.
MAIN = {"early": ((16, 16), 48), "late": ((32, 32), 16)}
SIDE = [  # (height, width), batch, share early, share late
    ((16, 16), 16, 0.00, 0.10),
    ((32, 32), 8, 0.45, 0.00),
    ((48, 48), 3, 0.10, 0.10),
    ((64, 64), 2, 0.20, 0.30),
    ((96, 96), 1, 0.15, 0.30),
    ((32, 48), 5, 0.03, 0.05),
    ((48, 32), 5, 0.03, 0.05),
    ((64, 96), 1, 0.02, 0.05),
    ((96, 64), 1, 0.02, 0.05),
]
SIDE_SHARE, SIDE_WEIGHT = {"early": 0.5, "late": 0.45}, 0.4
FIGURE_WEIGHT = 6.0  # figures are a tenth of the picture, so they count for more, until the polish
POLISH_FROM = 0.84  # of the schedule: from then on it is about clean pictures


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
        """A batch of latents and encoded captions, some of them dropped for classifier-free guidance."""
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
        return latents.contiguous(memory_format=torch.channels_last), texts


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
    sampler starts from noise without it, and guidance overshoots it. So, the noisier the timestep, the more the trace is
    weakened or amplified at random; v is set such that it still leads to the right picture. Larger latents need noisier timesteps.
    `polish`: fewer of the noisy timesteps, where the scene is decided, and more of those where it is made clean.
    """
    count, _, height, width = latents.shape
    power = (1.3 if polish else 2.0) + 0.4 * np.log2((height * width) ** 0.5 / 16)
    t = torch.from_numpy((1000 * rng.random(count) ** (1 / power)).astype(int)).clamp(0, 999).to(DEVICE)
    spread = ((t - 400) / 600).clamp(0, 1) * 2 * (torch.rand(count, device=DEVICE) - 0.5)
    strength = torch.where((t > 850) & (torch.rand(count, device=DEVICE) < 0.3), 0.0, 1 + spread)[:, None, None, None]
    a, s = signal[t][:, None, None, None], noise[t][:, None, None, None]
    mixed = strength * a * latents + s * torch.randn_like(latents)
    return t, mixed, (a * mixed - latents) / s


def figure_weights(latents, t):
    """Weights for the loss, larger where a picture is not background, at noisy timesteps; 1 on average."""
    background = latents.flatten(2).median(2).values[:, :, None, None]
    figure = ((latents - background).abs().amax(1, keepdim=True) > 0.4).float()
    weights = 1 + FIGURE_WEIGHT * figure * ((t - 300) / 300).clamp(0, 1)[:, None, None, None]
    return weights / weights.mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--learning-rate", type=float, default=1.8e-3)
    parser.add_argument("--batch-scale", type=int, default=8 if DEVICE.type == "cuda" else 1)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument("--work-dir", type=Path, default=DEFAULT_WORK_DIR)
    args = parser.parse_args()
    path = args.work_dir / "unet.pt"

    saved = load_checkpoint(path) if args.resume else None
    rng = seed_everything(args.seed + (saved["step"] if saved else 0))
    unet = new_unet().to(DEVICE, memory_format=torch.channels_last)
    if saved:
        unet.load_state_dict(saved["model"])
    average = Average(unet, 0.998)
    optimizers = muon.optimizers(unet)
    if saved:
        average.model.load_state_dict(saved["average"])
        average.count = saved["step"]
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
    clock, step = Clock(args.minutes, saved["spent"] if saved else 0.0), saved["step"] if saved else 0
    encoders, pools = Encoders(args.work_dir), {}
    signal, noise = signal_and_noise()

    def backward(size, count, weight):
        pool = pools.setdefault(size, Pool(size, encoders, rng))
        latents, texts = pool.batch(count * args.batch_scale)
        polish = clock.progress() > POLISH_FROM
        t, mixed, target = noised(latents, signal, noise, rng, polish)
        error = (unet(mixed, t, texts).sample - target).square()
        weights = 1.0 if polish else figure_weights(latents, t)
        ((error * weights).mean() * weight).backward()
        return error.mean().item()

    def save():
        state = dict(model=unet.state_dict(), average=average.model.state_dict(), step=step, spent=clock.spent())
        save_atomically(state | dict(optimizers=[optimizer.state_dict() for optimizer in optimizers]), path)

    shown = stored = clock.spent()
    losses = {}
    while not clock.done():
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = clock.learning_rate(args.learning_rate) * group["rate"]
        phase = "early" if clock.progress() < EARLY_UNTIL else "late"
        batches = [(*MAIN[phase], 1.0)]
        if rng.random() < SIDE_SHARE[phase]:
            side = SIDE[rng.choice(len(SIDE), p=[s[2 if phase == "early" else 3] for s in SIDE])]
            batches.append((side[0], side[1], SIDE_WEIGHT))
        for size, count, weight in batches:
            losses.setdefault(size, []).append(backward(size, count, weight))
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(unet)
        step += 1
        if clock.spent() - shown > 60:
            by_size = " ".join(f"{h}x{w}:{np.mean(l):.4f}" for (h, w), l in sorted(losses.items()))
            print(f"{clock.spent():6.0f}s step {step} {by_size}", flush=True)
            shown, losses = clock.spent(), {}
        if clock.spent() - stored > 240:
            save()
            stored = clock.spent()
    save()


if __name__ == "__main__":
    main()
