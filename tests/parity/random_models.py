"""Random tiny models whose norms and biases are stirred, so that a layout error shows, with f16-exact weights."""
import json

import torch
from safetensors.torch import save_file


def stir(model, seed):
    """Moves norms and biases off their trivial initial values and rounds all weights to f16, which halves the file."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            parameter.copy_(parameter.half().float())
    return model.eval()


def save(path, model, tensors):
    """One file: weights in f16 under `model.`, inputs and outputs in f32, the configuration as metadata."""
    weights = {f"model.{name}": tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    config = {key: value for key, value in model.config.items()}
    save_file(weights | {name: t.contiguous() for name, t in tensors.items()}, path, metadata={"config": json.dumps(config)})
