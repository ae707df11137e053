#!/usr/bin/env python3
"""Goldens of diffusers' UNet2DConditionModel for random tiny models: SD 1, SD 2, SDXL, nine channels, rarer options.

    python tests/parity/unet.py --out tests/goldens

Writes unet-NAME.safetensors for each configuration; `tests/suite/unet.rs` compares. Rows have their own timesteps,
fractional ones among them, and sizes are such that levels have odd heights and widths.
"""
import argparse
import os

import torch
from diffusers import UNet2DConditionModel

from random_models import save, stir

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
FOUR_LEVELS = dict(block_out_channels=[8, 16, 24, 24], down_block_types=[CROSS_DOWN] * 3 + ["DownBlock2D"], up_block_types=["UpBlock2D"] + [CROSS_UP] * 3)
TWO_LEVELS = dict(block_out_channels=[12, 24], down_block_types=[CROSS_DOWN, "DownBlock2D"], up_block_types=["UpBlock2D", CROSS_UP])
CASES = {
    "sd1": dict(config=FOUR_LEVELS | dict(layers_per_block=1, attention_head_dim=2, cross_attention_dim=20), size=(13, 18), timesteps=[999.0, 17.25]),
    "sd2": dict(config=FOUR_LEVELS | dict(layers_per_block=[2, 1, 1, 1], attention_head_dim=[1, 2, 3, 3], cross_attention_dim=24, use_linear_projection=True,
                                          upcast_attention=True), size=(16, 8), timesteps=[500.0, 1.0]),
    "sdxl": dict(config=dict(block_out_channels=[8, 16, 24], down_block_types=["DownBlock2D"] + [CROSS_DOWN] * 2, up_block_types=[CROSS_UP] * 2 + ["UpBlock2D"],
                             layers_per_block=1, transformer_layers_per_block=[1, 2, 3], attention_head_dim=[1, 2, 4], cross_attention_dim=32,
                             use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=64),
                 size=(9, 12), timesteps=[981.0, 500.5, 0.0]),
    "nine": dict(config=TWO_LEVELS | dict(in_channels=9, layers_per_block=2, attention_head_dim=3, cross_attention_dim=20), size=(7, 11), timesteps=[321.0, 20.0]),
    "lcm": dict(config=TWO_LEVELS | dict(layers_per_block=1, attention_head_dim=3, cross_attention_dim=20, time_cond_proj_dim=16), size=(6, 5), timesteps=[759.0, 19.0]),
    "rare": dict(config=TWO_LEVELS | dict(layers_per_block=1, attention_head_dim=3, cross_attention_dim=20, only_cross_attention=[True, False], num_class_embeds=5,
                                          mid_block_type="UNetMidBlock2D", downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-4),
                 size=(8, 6), timesteps=[10.0, 900.0]),
}


def inputs(model, size, timesteps, generator):
    """Random inputs of one call, as our `UNet::forward` takes them."""
    rows, config = len(timesteps), model.config
    tensors = dict(latents=torch.randn(rows, config.in_channels, *size, generator=generator), timesteps=torch.tensor(timesteps),
                   embeddings=torch.randn(rows, 9, config.cross_attention_dim, generator=generator))
    if config.addition_embed_type:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        tensors["pooled"] = torch.randn(rows, pooled, generator=generator)
        tensors["time_ids"] = torch.tensor([[512.0 + 64 * r, 768, 0, 16 * r, 1024, 1024] for r in range(rows)])
    if config.time_cond_proj_dim:
        tensors["guidance_embedding"] = torch.randn(rows, config.time_cond_proj_dim, generator=generator)
    if config.num_class_embeds:
        tensors["class_labels"] = torch.arange(rows, dtype=torch.int64) + 2
    return tensors


def outputs(model, t):
    added = {"text_embeds": t["pooled"], "time_ids": t["time_ids"]} if "pooled" in t else None
    with torch.no_grad():
        return model(t["latents"], t["timesteps"], t["embeddings"], class_labels=t.get("class_labels"), timestep_cond=t.get("guidance_embedding"),
                     added_cond_kwargs=added).sample


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    folder = parser.parse_args().out
    os.makedirs(folder, exist_ok=True)
    for number, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(100 + number)
        model = stir(UNet2DConditionModel(**dict(sample_size=8, norm_num_groups=4) | case["config"]), 200 + number)
        tensors = inputs(model, case["size"], case["timesteps"], torch.Generator().manual_seed(300 + number))
        tensors["output"] = outputs(model, tensors)
        path = f"{folder}/unet-{name}.safetensors"
        save(path, model, tensors)
        print(f"{path}: {os.path.getsize(path) // 1024} KB, output deviates by {tensors['output'].std():.3f}")


main()
