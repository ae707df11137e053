"""Writes the model in diffusers layout with f16 weights: `python export.py` (what is not trained yet is random).

Each file is replaced atomically, and only those parts whose checkpoint is there or whose file is missing.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import tokenizer
from common import DEFAULT_WORK_DIR, MODEL_DIR, SCHEDULER_CONFIG, load_checkpoint, new_text_encoder, new_unet, new_vae

MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def published_name(name):
    """The name that published CLIP checkpoints give a text encoder's tensor (recent transformers drops the prefix)."""
    return name if name.startswith("text_model.") else f"text_model.{name}"


def put(tensors, path):
    """Writes f16 safetensors beside their place and renames them into it."""
    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in tensors.items() if v.is_floating_point()}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(path)


def put_part(model, state, directory, file, rename=lambda name: name):
    """Writes one part's configuration and weights; `state` None means: random, unless weights are there already."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_config(scratch) if hasattr(model, "save_config") else model.config.save_pretrained(scratch)
        text = (Path(scratch) / "config.json").read_text()
    (directory / "config.json").write_text(text)
    if state is None and (directory / file).exists():
        return
    put({rename(k): v for k, v in (state or model.state_dict()).items()}, directory / file)


def export(work_dir=DEFAULT_WORK_DIR, target=MODEL_DIR):
    """Exports the newest checkpoints of `work_dir` to `target`."""
    target.mkdir(parents=True, exist_ok=True)
    if not (target / "tokenizer" / "vocab.json").exists():
        tokenizer.write(target / "tokenizer")
    vae_state, text_state, unet_state = (load_checkpoint(work_dir / f"{part}.pt") for part in ("vae", "text", "unet"))
    vae = new_vae()
    vae.register_to_config(scaling_factor=round(1 / vae_state["latent_std"], 4) if vae_state else 1.5)
    text_encoder = new_text_encoder(len(tokenizer.load(target / "tokenizer")))
    put_part(vae, vae_state and vae_state["average"], target / "vae", "diffusion_pytorch_model.safetensors")
    text_weights = text_state and text_state["model"]
    put_part(text_encoder, text_weights, target / "text_encoder", "model.safetensors", published_name)
    put_part(new_unet(), unet_state and unet_state["average"], target / "unet", "diffusion_pytorch_model.safetensors")
    (target / "scheduler").mkdir(exist_ok=True)
    (target / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER_CONFIG, indent=2) + "\n")
    (target / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    size = sum(f.stat().st_size for f in target.rglob("*.safetensors"))
    print(f"{size / 1e6:.2f} MB of weights in {target}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=DEFAULT_WORK_DIR)
    parser.add_argument("--target", type=Path, default=MODEL_DIR)
    arguments = parser.parse_args()
    export(arguments.work_dir, arguments.target)
