"""Whole random tiny pipelines in diffusers layout, small enough to commit: `sd` (SD 1.x), `sd2` (v-prediction), `sdxl`.

    python tests/parity/tiny_pipelines.py --out DIR

Their pictures mean nothing, but every part of a real pipeline is in their way.
"""

import argparse
import json
import pathlib

import torch
from diffusers import (
    AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
)  # fmt: skip
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import clip_vocabulary
from random_models import stir

WORDS = "red green blue circle square star on a white black background two small"
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, steps_offset=1)
CROSS = dict(down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"])
UNET = CROSS | dict(block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4, attention_head_dim=2, sample_size=16)


def merges():
    """Byte pairs that spell the words, left to right."""
    found = []
    for word in WORDS.split():
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            pair = f"{symbols[0]} {symbols[1]}"
            if pair not in found:
                found.append(pair)
            symbols[:2] = ["".join(symbols[:2])]
    return found


def tokenizer(folder, pad):
    """A CLIP tokenizer over bytes and those words."""
    clip_vocabulary.write(folder, merges())
    ends = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")
    made = CLIPTokenizer.from_pretrained(folder, pad_token=pad, model_max_length=77, **ends)
    made.save_pretrained(folder)
    return made


def louder(model, factor):
    """Matrices times a factor: transformers starts so small that a prompt would hardly matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(factor)
    return model


def text_encoder(kind, vocabulary, seed, **config):
    torch.manual_seed(seed)
    end = vocabulary - 1
    base = dict(vocab_size=vocabulary, num_attention_heads=2, num_hidden_layers=2, bos_token_id=end - 1, eos_token_id=end, max_position_embeddings=77)
    return stir(louder(kind(CLIPTextConfig(**base, **config)), 4), seed)


def unet(seed, **config):
    torch.manual_seed(seed)
    return stir(UNet2DConditionModel(**UNET | config), seed)


def vae(seed, scaling):
    torch.manual_seed(seed)
    levels = dict(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=[8, 8, 12, 16])
    return stir(AutoencoderKL(**levels, layers_per_block=1, norm_num_groups=4, sample_size=128, scaling_factor=scaling), seed)


def sd(folder, seed, scheduler, pad, **config):
    words = tokenizer(folder / "tokenizer", pad)
    text = text_encoder(CLIPTextModel, len(words), seed, hidden_size=24, intermediate_size=48, hidden_act=config.pop("act"))
    return StableDiffusionPipeline(
        tokenizer=words, text_encoder=text, unet=unet(seed + 1, cross_attention_dim=24, **config), vae=vae(seed + 2, 0.18215),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl(folder, seed):
    first, second = tokenizer(folder / "tokenizer", "<|endoftext|>"), tokenizer(folder / "tokenizer_2", "!")
    one = text_encoder(CLIPTextModel, len(first), seed, hidden_size=16, intermediate_size=32, hidden_act="quick_gelu", projection_dim=16)
    two = text_encoder(CLIPTextModelWithProjection, len(second), seed + 3, hidden_size=24, intermediate_size=48, hidden_act="gelu", projection_dim=20)
    net = unet(seed + 1, cross_attention_dim=40, transformer_layers_per_block=[1, 1], use_linear_projection=True, addition_embed_type="text_time",
               addition_time_embed_dim=8, projection_class_embeddings_input_dim=20 + 6 * 8)  # fmt: skip
    return StableDiffusionXLPipeline(
        tokenizer=first, tokenizer_2=second, text_encoder=one, text_encoder_2=two, unet=net, vae=vae(seed + 2, 0.13025),
        scheduler=EulerDiscreteScheduler(**BETAS | dict(timestep_spacing="leading", prediction_type="epsilon")), add_watermarker=False,
    )  # fmt: skip


def write(out):
    """All three; weights in f16, which their f32 values equal."""
    v_prediction = DDIMScheduler(**BETAS, set_alpha_to_one=False, prediction_type="v_prediction")
    pipelines = {
        "sd": sd(out / "sd", 700, PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False), "<|endoftext|>", act="quick_gelu"),
        "sd2": sd(out / "sd2", 720, v_prediction, "!", act="gelu", use_linear_projection=True, upcast_attention=True, attention_head_dim=[1, 2]),
        "sdxl": sdxl(out / "sdxl", 740),
    }
    for name, pipeline in pipelines.items():
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)):
            if part is not None:
                part.half()
        pipeline.save_pretrained(out / name)
        # Every published SD file says so, whatever its class.
        scheduler = out / name / "scheduler" / "scheduler_config.json"
        scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"clip_sample": False}, indent=2) + "\n")
        for extra in (out / name).glob("tokenizer*/tokenizer.json"):
            folder = extra.parent
            clip_vocabulary.write(folder, merges())
            extra.unlink()
        index = json.loads((out / name / "model_index.json").read_text())
        size = sum(f.stat().st_size for f in (out / name).rglob("*") if f.is_file())
        print(f"{name}: {index['_class_name']}, {size // 1024} KB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    write(parser.parse_args().out)
