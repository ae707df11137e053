#!/usr/bin/env python3
"""Random weights of the real SD 1.5 and SD 2.1 architectures, and what diffusers and transformers make of them at 512².

    python tests/parity/full_size.py --out DIR --name sd15      (or sd21)

Writes DIR in diffusers layout (f32 safetensors, 3.5 to 5 GB) and DIR/full-size.safetensors with inputs and outputs of the
text encoder, one UNet call and a VAE decode. Then compare:

    STABLEHAND_FULL_SIZE=DIR cargo test --release --test suite full_size -- --nocapture
"""
import argparse
import json
import os
import resource
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
UNET = dict(in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=32, block_out_channels=[320, 640, 1280, 1280],
            down_block_types=[CROSS_DOWN] * 3 + ["DownBlock2D"], up_block_types=["UpBlock2D"] + [CROSS_UP] * 3)
UNETS = {
    "sd15": UNET | dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
    "sd21": UNET | dict(sample_size=96, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True, upcast_attention=True),
}
CLIP = dict(vocab_size=49408, max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407)
TEXTS = {
    "sd15": CLIP | dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu", projection_dim=768),
    "sd21": CLIP | dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu", projection_dim=512),
}
VAE = dict(block_out_channels=[128, 256, 512, 512], layers_per_block=2, norm_num_groups=32, sample_size=512, scaling_factor=0.18215,
           down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)


def stir(model):
    """Default initialisation leaves norms and biases trivial; move them so that a layout error shows."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def timed(what, call):
    start = time.perf_counter()
    with torch.inference_mode():
        result = call()
    print(f"{what}: {time.perf_counter() - start:.1f} s", flush=True)
    return result.contiguous().clone()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--name", required=True, choices=UNETS)
    arguments = parser.parse_args()
    folder, name = arguments.out, arguments.name
    torch.manual_seed(1234)
    generator = torch.Generator().manual_seed(5)
    words = torch.randint(0, 49000, (20,), generator=generator)
    ids = torch.cat([torch.tensor([49406]), words, torch.full((56,), 49407)])[None]
    tensors = dict(ids=ids, latents=torch.randn(1, 4, 64, 64, generator=generator), timesteps=torch.tensor([481.0]))

    text = stir(CLIPTextModel(CLIPTextConfig(**TEXTS[name], attn_implementation="eager")))
    text.save_pretrained(f"{folder}/text_encoder", max_shard_size="20GB")
    tensors["embeddings"] = timed("text encoder", lambda: text(input_ids=ids).last_hidden_state)
    del text
    unet = stir(UNet2DConditionModel(**UNETS[name]))
    unet.save_pretrained(f"{folder}/unet", max_shard_size="20GB")
    tensors["unet"] = timed("unet", lambda: unet(tensors["latents"], tensors["timesteps"], tensors["embeddings"]).sample)
    del unet
    vae = stir(AutoencoderKL(**VAE))
    vae.save_pretrained(f"{folder}/vae", max_shard_size="20GB")
    tensors["decoded"] = timed("vae decode", lambda: vae.decode(tensors["latents"]).sample)
    parts = dict(unet=["diffusers", "UNet2DConditionModel"], vae=["diffusers", "AutoencoderKL"], text_encoder=["transformers", "CLIPTextModel"])
    with open(f"{folder}/model_index.json", "w") as index:
        json.dump(dict(_class_name="StableDiffusionPipeline") | parts, index)
    save_file(tensors, f"{folder}/full-size.safetensors")
    print(f"{os.path.abspath(folder)}: peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


main()
