"""NumPy for all but the network; images n 28 28, pixels from -1 to 1; SciPy-like shifts by slicing; dictionaries returned."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import lab

SEED, SOURCE = 0, "embedded"
torch.manual_seed(SEED)
rng = np.random.default_rng(SEED)


class GivenNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(1, 1, 2)
        self.l = nn.Linear(729, 10)

    def forward(self, x):
        c = self.c(x)
        f = self.l(c.relu().flatten(1))
        return f.log_softmax(-1), c.detach().clone(), f.detach().clone()


mnist = lab.load_mnist(SOURCE)
model = GivenNet()
opt = torch.optim.Adam(model.parameters(), 1e-3)
for _ in range(300):
    i = torch.from_numpy(rng.integers(0, len(mnist.train), 64))
    loss = F.nll_loss(model(mnist.train.images[i] * 2 - 1)[0], mnist.train.labels[i])
    opt.zero_grad()
    loss.backward()
    opt.step()

# %% pairs
first = mnist.test.images[:200, 0].numpy() * 2 - 1
labels = mnist.test.labels[:200].numpy()
dy, dx = rng.integers(-2, 3, 200), rng.integers(-2, 3, 200)
second = np.full_like(first, -1)
for i in range(200):
    rows, cols = np.arange(28) - dy[i], np.arange(28) - dx[i]
    r, c = (rows >= 0) & (rows < 28), (cols >= 0) & (cols < 28)
    second[i][np.ix_(r, c)] = first[i][np.ix_(rows[r], cols[c])]


# %% activations
def activations(model, images):
    with torch.no_grad():
        out = model(torch.from_numpy(images).float().unsqueeze(1))
    return {"conv": out[1][:, 0].numpy(), "fc": out[2].numpy()}


# %% measures
def equivariance(a, b, dy=None, dx=None):
    dy, dx = (globals()["dy"], globals()["dx"]) if dy is None else (dy, dx)
    errors = np.zeros(len(a))
    for i, (m, n) in enumerate(zip(a, b)):
        y, x = int(dy[i]), int(dx[i])
        n = n[max(y, 0) : 27 + min(y, 0), max(x, 0) : 27 + min(x, 0)]
        m = m[max(-y, 0) : 27 + min(-y, 0), max(-x, 0) : 27 + min(-x, 0)]
        errors[i] = np.abs(n - m).mean() / np.abs(m - m.mean()).mean()
    return errors


def invariance(a, b):
    unrelated = np.linalg.norm(a - np.roll(a, 7, axis=0), axis=1)
    return np.linalg.norm(a - b, axis=1).mean() / unrelated.mean()


# %% conclusion
conclusion = "conv: equivariant up to rounding. fc: no."
