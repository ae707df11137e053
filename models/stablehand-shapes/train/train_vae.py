"""Trains the autoencoder: `python train_vae.py --minutes 18`, continued with `--resume`.

`--resume --decoder-only --minutes 30` trains the decoder for longer and leaves the latents as they are, so that it can
be done after, or between, the UNet's training.

The first three latent channels are drawn towards the picture's own colours, averaged over 8 × 8 pixels; the fourth is
free. Such latents are smooth and nearly pictures themselves, so a small UNet learns them quickly, and the
decoder's work is to sharpen. It is trained with noise on the latents, so it forgives what the UNet gets slightly wrong.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import muon
import shapes
from common import DEFAULT_WORK_DIR, DEVICE, Average, Clock, load_checkpoint, new_vae, save_atomically, seed_everything

# (edge, batch, share of the steps); a 256² picture is often a whole one, the smaller ones are windows of larger pictures.
BATCHES = [(64, 16, 0.55), (128, 6, 0.3), (256, 2, 0.15)]


def windows(rng, edge, count):
    """A batch of windows of randomly sized pictures, [count, 3, edge, edge] in −1..1."""
    out = np.empty((count, 3, edge, edge), np.float32)
    for i in range(count):
        side = int(rng.choice([s for s in (128, 192, 256, 256, 384, 512, 768) if s >= edge]))
        top, left = rng.integers(0, side - edge + 1, 2)
        out[i] = shapes.draw(shapes.random_scene(rng), side, side, (top, left, edge, edge))
    return torch.from_numpy(out).to(DEVICE) * 2 - 1


def loss_of(vae, pictures):
    """Reconstruction, the pull of three channels towards averaged colours and of the fourth towards small values, KL."""
    posterior = vae.encode(pictures).latent_dist
    latents = posterior.sample()
    latents = latents + torch.randn_like(latents) * 0.08 * torch.rand(len(latents), 1, 1, 1, device=DEVICE)
    difference = vae.decode(latents).sample - pictures
    colours = F.mse_loss(posterior.mean[:, :3], F.avg_pool2d(pictures, 8))
    free = posterior.mean[:, 3].square().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return difference.abs().mean() + 4 * difference.square().mean() + 2 * colours + 0.03 * free + 1e-4 * kl


@torch.no_grad()
def psnr(vae, size=256, count=12):
    """Mean PSNR in dB on fixed whole pictures, decoded from the posterior's mean."""
    rng = np.random.default_rng(99)
    errors = []
    for _ in range(count):
        picture = torch.from_numpy(shapes.draw(shapes.random_scene(rng), size, size))[None].to(DEVICE) * 2 - 1
        decoded = vae.decode(vae.encode(picture).latent_dist.mean).sample.clamp(-1, 1)
        errors.append(((decoded - picture) / 2).square().mean().item())
    return float(np.mean(-10 * np.log10(errors)))


@torch.no_grad()
def latent_std(vae, count=64):
    """The standard deviation of the latents of whole pictures: its inverse is the model's scaling factor."""
    rng = np.random.default_rng(98)
    batch = np.stack([shapes.draw(shapes.random_scene(rng), 256, 256) for _ in range(count)])
    means = [vae.encode(b[None].to(DEVICE) * 2 - 1).latent_dist.mean for b in torch.from_numpy(batch)]
    return torch.cat(means).std().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=18)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder as it was averaged")
    parser.add_argument("--work-dir", type=Path, default=DEFAULT_WORK_DIR)
    args = parser.parse_args()
    path = args.work_dir / "vae.pt"

    saved = load_checkpoint(path) if args.resume else None
    rng = seed_everything(args.seed + (saved["step"] if saved else 0))
    vae = new_vae().to(DEVICE, memory_format=torch.channels_last)
    if saved:
        vae.load_state_dict(saved["model"])
    average = Average(vae, 0.998)
    if saved:
        average.model.load_state_dict(saved["average"])
        average.count = saved["step"]
    if args.decoder_only:
        for name, weight in vae.named_parameters():
            if name.startswith(("encoder.", "quant_conv.")):
                weight.requires_grad_(False).copy_(average.model.get_parameter(name))
    optimizers = muon.optimizers(vae)
    if saved and saved["decoder_only"] == args.decoder_only:
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
    clock, step = Clock(args.minutes, saved["spent"] if saved else 0.0), saved["step"] if saved else 0

    def save():
        state = dict(model=vae.state_dict(), average=average.model.state_dict(), step=step, spent=clock.spent())
        state |= dict(latent_std=latent_std(average.model), decoder_only=args.decoder_only)
        save_atomically(state | dict(optimizers=[optimizer.state_dict() for optimizer in optimizers]), path)

    shown, losses = clock.spent(), []
    while not clock.done():
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = clock.learning_rate(args.learning_rate) * group["rate"]
        edge, count, _ = BATCHES[rng.choice(len(BATCHES), p=[b[2] for b in BATCHES])]
        loss = loss_of(vae, windows(rng, edge, count).contiguous(memory_format=torch.channels_last))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(vae)
        losses.append(loss.item())
        step += 1
        if clock.spent() - shown > 60:
            db = psnr(average.model)
            summary = f"loss {np.mean(losses):.4f} psnr {db:.2f} dB latent std {latent_std(average.model):.3f}"
            print(f"{clock.spent():6.0f}s step {step} {summary}", flush=True)
            shown, losses = clock.spent(), []
            save()
    save()
    print(f"done: {psnr(average.model):.2f} dB at 256, {psnr(average.model, 768, 4):.2f} dB at 768", flush=True)


if __name__ == "__main__":
    main()
