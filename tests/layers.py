"""Layers that several test files need."""

from torch import nn


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Branches(nn.Module):
    """What several modules make of the same input, put together."""

    def __init__(self, together, *branches):
        super().__init__()
        self.branches, self.together = nn.ModuleList(branches), together

    def forward(self, x):
        return self.together([branch(x) for branch in self.branches])
