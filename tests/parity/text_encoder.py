"""Goldens of transformers' CLIP text encoders for random tiny models: SD 1 (quick_gelu), SD 2 (gelu), SDXL's bigG (projection).

    python tests/parity/text_encoder.py --out tests/goldens

Writes text-NAME.safetensors for each configuration; `tests/suite/text_encoder.rs` compares. Configurations of SD 1 and 2
have the wrong `eos_token_id: 2` that published checkpoints have.
"""

import argparse
import json
import os

import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from random_models import stir

VOCABULARY, START, END = 130, 128, 129
COMMON = dict(vocab_size=VOCABULARY, max_position_embeddings=77, bos_token_id=START)
CASES = {
    "sd1": (CLIPTextModel, dict(hidden_size=24, intermediate_size=96, num_hidden_layers=3, num_attention_heads=3, hidden_act="quick_gelu", eos_token_id=2)),
    "sd2": (CLIPTextModel, dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, hidden_act="gelu", eos_token_id=2)),
    "bigg": (CLIPTextModelWithProjection, dict(hidden_size=40, intermediate_size=80, num_hidden_layers=2, num_attention_heads=5, hidden_act="gelu",
                                               projection_dim=28, eos_token_id=END)),
    "rare": (CLIPTextModelWithProjection, dict(hidden_size=16, intermediate_size=48, num_hidden_layers=1, num_attention_heads=1, hidden_act="gelu_new",
                                               projection_dim=16, eos_token_id=END, layer_norm_eps=1e-3)),
}  # fmt: skip


def prompts(generator):
    """Rows as a tokenizer makes them: empty, short with either padding, full, and with the end token written out inside."""
    rows = []
    for words, pad in [(0, END), (5, END), (20, 0), (75, END), (9, 0)]:
        text = torch.randint(1, START, (words,), generator=generator).tolist()
        row = [START, *text, END]
        rows.append(row + [pad] * (77 - len(row)))
    rows[4][6] = END
    return torch.tensor(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    for seed, (name, (kind, config)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        model = stir(kind(CLIPTextConfig(**COMMON, **config)), seed)
        with torch.no_grad():
            for parameter in model.parameters():  # transformers starts so small that every layer is almost the identity
                parameter.copy_((parameter * (3 if parameter.ndim == 2 else 1)).half().float())
        ids = prompts(torch.Generator().manual_seed(seed))
        with torch.no_grad():
            output = model(ids, output_hidden_states=True)
        pooled = output.text_embeds if kind is CLIPTextModelWithProjection else output.pooler_output
        tensors = {f"model.{key}": value.half().contiguous() for key, value in model.state_dict().items()}
        tensors |= {"ids": ids, "last_hidden_state": output.last_hidden_state, "penultimate": output.hidden_states[-2], "pooled": pooled}
        metadata = {"config": json.dumps(model.config.to_dict(), default=str)}
        save_file({key: value.contiguous() for key, value in tensors.items()}, f"{args.out}/text-{name}.safetensors", metadata=metadata)


if __name__ == "__main__":
    main()
