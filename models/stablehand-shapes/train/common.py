"""What the training scripts share: the architecture, wall-clock schedules, averaged weights, atomic checkpoints."""

import copy
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

MODEL_DIR = Path(__file__).resolve().parent.parent
DEFAULT_WORK_DIR = Path.home() / ".cache" / "stablehand-train"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Written as it is: no scheduler class knows all of these options, each takes its own from the file.
SCHEDULER_CONFIG = dict(
    _class_name="PNDMScheduler",
    _diffusers_version="0.42.1",
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    num_train_timesteps=1000,
    prediction_type="v_prediction",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
    skip_prk_steps=True,
    timestep_spacing="trailing",
)


def new_vae():
    """The autoencoder: eight times smaller each way, four channels, cheap at full resolution."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=256,
        mid_block_add_attention=False,
    )


def new_text_encoder(vocab_size):
    """The text encoder; the two special tokens are the last two of the vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
            pad_token_id=vocab_size - 1,
        )
    )


def new_unet():
    """The UNet: four levels, attention (self and to the text) on the two lower ones."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 64, 128, 112),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=128,
        attention_head_dim=4,  # as in Stable Diffusion 1.x, this is the number of heads
    )


def seed_everything(seed):
    """Seeds Python, NumPy and torch; returns the NumPy generator that the drawing uses."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


class Clock:
    """Progress by wall clock: the learning rate warms up, stays, and falls to nothing over the last third.

    `now`, where it is set, is taken for the time spent: processes that train together must agree on it.
    """

    def __init__(self, minutes, spent=0.0, warmup=40.0):
        self.total, self.warmup, self.start, self.now = minutes * 60, warmup, time.monotonic() - spent, None

    def spent(self):
        return time.monotonic() - self.start

    def progress(self):
        return min((self.spent() if self.now is None else self.now) / self.total, 1.0)

    def done(self):
        return self.progress() >= 1.0

    def learning_rate(self, peak):
        ramp = min(self.progress() * self.total / self.warmup + 0.02, 1.0)
        return peak * ramp * min(1.0, 3.0 * (1.0 - self.progress()) + 0.01)


class Average:
    """An exponential moving average of a model's weights, with a shorter memory at the beginning."""

    def __init__(self, model, decay=0.999):
        self.model, self.decay, self.count = copy.deepcopy(model).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model):
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)


def save_atomically(state, path):
    """Writes a checkpoint so that a reader or a crash never meets half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load_checkpoint(path):
    """The checkpoint at `path`, or None."""
    return torch.load(path, map_location=DEVICE, weights_only=False) if path.exists() else None
