"""Networks to run over a canvas, and how far two results are apart."""

import torch
from torch import nn

import lab

ROUNDING = 1e-12  # float64: √k · 2⁻⁵³ is below 4e-15 for the largest sum, k = 1,000; a few layers
WAYS = ("dense", "brute")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def network(seed, *layers):
    """In float64, so that rounding cannot hide a mistake; the weights depend on the seed alone."""
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator(seed), dtype=torch.float64) + 0.1 - 0.4)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.abs_().add_(0.5)
    return model


def error(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def both(model, images, **options):
    return (lab.shift_map(model, images, method=method, **options) for method in WAYS)


class Forward(nn.Module):
    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)
