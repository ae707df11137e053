#!/usr/bin/env python3
"""Goldens of diffusers' AutoencoderKL for random tiny models, with and without attention and quantisation convolutions.

    python tests/parity/vae.py --out tests/goldens

Writes vae-NAME.safetensors for each configuration; `tests/suite/vae.rs` compares decoder and encoder.
"""
import argparse
import os

import torch
from diffusers import AutoencoderKL

from random_models import save, stir

LEVELS = dict(down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3, norm_num_groups=4, sample_size=32)
CASES = {
    "sd": dict(config=LEVELS | dict(block_out_channels=[8, 16, 24], layers_per_block=2, scaling_factor=0.18215), latents=(5, 7), picture=(24, 20)),
    "plain": dict(config=LEVELS | dict(block_out_channels=[8, 8, 16], layers_per_block=1, scaling_factor=1.5, mid_block_add_attention=False,
                                       use_quant_conv=False, use_post_quant_conv=False), latents=(6, 3), picture=(19, 22)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    folder = parser.parse_args().out
    os.makedirs(folder, exist_ok=True)
    for number, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(400 + number)
        model = stir(AutoencoderKL(**case["config"]), 500 + number)
        generator = torch.Generator().manual_seed(600 + number)
        latents = torch.randn(2, 4, *case["latents"], generator=generator)
        pictures = torch.rand(2, 3, *case["picture"], generator=generator) * 2 - 1
        with torch.no_grad():
            posterior = model.encode(pictures).latent_dist
            tensors = dict(latents=latents, decoded=model.decode(latents).sample, pictures=pictures, mean=posterior.mean, logvar=posterior.logvar)
        path = f"{folder}/vae-{name}.safetensors"
        save(path, model, tensors)
        print(f"{path}: {os.path.getsize(path) // 1024} KB, decoded deviates by {tensors['decoded'].std():.3f}")


main()
