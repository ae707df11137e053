"""Muon, an optimizer for weight matrices: momentum whose singular values are all made about equal.

Rare associations (what a colour word means for a tenth of the picture) move the weights as much as frequent ones, so a
conditional UNet learns its captions in fewer steps than with AdamW alone. Convolutions count as matrices
[out, in · height · width]; vectors and the first and last layers stay with AdamW. The step's size is that of AdamW with the same rate.
"""

import torch
import torch.distributed as dist

STEPS = 4  # of the Newton-Schulz iteration


def orthogonalized(matrix):
    """The matrix with its singular values brought close to 1."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        square = x @ x.T
        x = 3.4445 * x + torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised. Processes that train together share the work: each does every n-th matrix."""

    def __init__(self, weights, lr=1e-3, momentum=0.95, weight_decay=0.01):
        super().__init__(weights, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            updates = [torch.zeros_like(weight, memory_format=torch.contiguous_format) for weight in weights]
            for i, (weight, update) in enumerate(zip(weights, updates)):
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                if i % world == rank:
                    ahead = weight.grad.lerp(state["momentum"], group["momentum"])
                    update.copy_(orthogonalized(ahead.reshape(len(weight), -1)).reshape(weight.shape))
            sum_over_processes(updates)
            for weight, update in zip(weights, updates):
                size = 0.2 * max(len(weight), weight[0].numel()) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * size)


def sum_over_processes(tensors):
    """Adds up the tensors of all processes that train together, in place; nothing to do for one process."""
    if dist.is_initialized():
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(part.view(tensor.shape))


def optimizers(model):
    """Muon for the model's inner matrices and AdamW for everything else; a group's `rate` scales the learning rate."""
    inner, outer = [], []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        is_inner = weight.ndim >= 2 and not name.startswith(("conv_in", "conv_out", "time_embedding"))
        (inner if is_inner else outer).append(weight)
    adam = torch.optim.AdamW([dict(params=outer, rate=0.5)], betas=(0.9, 0.99), weight_decay=0.01)
    return [Muon([dict(params=inner, rate=1.0)]), adam]
