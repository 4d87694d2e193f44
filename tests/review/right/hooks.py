"""Forward hooks that are removed, layers with other names, a network that returns its scores alone, a measure in a class."""

import torch
from torch import nn

import lab

SEED, SOURCE = 0, "embedded"
torch.manual_seed(SEED)

model = nn.Sequential()
model.add_module("filter", nn.Conv2d(1, 1, 2))
model.add_module("act", nn.ReLU(inplace=True))
model.add_module("flat", nn.Flatten())
model.add_module("out", nn.Linear(27 * 27, 10))
mnist = lab.load_mnist(SOURCE)
MEAN, STD = mnist.train.images.mean(), mnist.train.images.std()
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
for k in range(150):
    i = torch.randint(len(mnist.train), (64,))
    opt.zero_grad()
    nn.functional.cross_entropy(model((mnist.train.images[i] - MEAN) / STD), mnist.train.labels[i]).backward()
    opt.step()

# %% pairs
x = mnist.test.images[:300]
shifts = torch.randint(-2, 3, (300, 2))
y = torch.zeros_like(x)
for i, (r, c) in enumerate(shifts.tolist()):
    y[i, :, max(r, 0) : 28 + min(r, 0), max(c, 0) : 28 + min(c, 0)] = x[
        i, :, max(-r, 0) : 28 + min(-r, 0), max(-c, 0) : 28 + min(-c, 0)
    ]
first, second = x, y


# %% activations
def activations(model, images):
    kept, handles = {}, []
    for key, layer in (("conv", model[0]), ("fc", model[3])):
        handles.append(layer.register_forward_hook(lambda _m, _i, o, key=key: kept.update({key: o.detach().clone()})))
    try:
        model((images - MEAN) / STD)
    finally:
        for handle in handles:
            handle.remove()
    return kept


# %% measures
class Aligned:
    """Undoes the translation on the second map, and leaves a frame of three positions out."""

    def __call__(self, a, b, shifts):
        back = torch.stack([m.roll((-r, -c), (1, 2)) for m, (r, c) in zip(b, shifts.tolist())])
        inner = (..., slice(3, -3), slice(3, -3))
        return ((back - a)[inner].square().sum((1, 2, 3)) / a[inner].square().sum((1, 2, 3))).sqrt()


equivariance = Aligned()
invariance = lambda a, b: (a - b).abs().sum(1) / torch.cdist(a, a, p=1).mean()  # noqa: E731  # as students write

# %% conclusion
conclusion = {"conv": "is equivariant", "fc": "isn't invariant"}
