"""A script with a main function, which hands its results to the module; pairs in one list of tuples with their displacement."""

import torch
import torch.nn as nn

import lab

SEED, SOURCE = 0, "embedded"


def build():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(1, 1, (2, 2))
            nn.init.uniform_(self.body.weight, 0, 0.5)  # alive behind ReLU
            self.drop = nn.Dropout(0.1)
            self.top = nn.Linear(729, 10)

        def forward(self, x):
            h = self.body(x)
            s = self.top(self.drop(torch.relu(h).flatten(1)))
            return s.log_softmax(1), h.detach().clone(), s.detach().clone()

    return Net()


def fit(model, split, steps):
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        i = torch.randint(len(split), (64,))
        loss = nn.functional.nll_loss(model(split.images[i])[0], split.labels[i])
        opt.zero_grad()
        loss.backward()
        opt.step()
    return model.eval()


def main(seed, source):
    torch.manual_seed(seed)
    mnist = lab.load_mnist(source)
    return {"model": fit(build(), mnist.train, 400), "test": mnist.test}


globals().update(main(SEED, SOURCE))


# %% pairs
def pair(image):
    y, x = torch.randint(-2, 3, (2,)).tolist()
    canvas = torch.zeros(1, 40, 40)
    canvas[:, 6:34, 6:34] = image
    return image, canvas[:, 6 - y : 34 - y, 6 - x : 34 - x], (y, x)


first = [pair(image) for image in test.images[:100]]  # noqa: F821  # main has returned it


# %% activations
def activations(model, images):
    with torch.no_grad():
        _, h, s = model(torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28))
    return {"conv": h, "fc": s}


# %% measures
def equivariance(a, b):
    total = []
    for (_, _, (y, x)), m, n in zip(first, a, b):
        up, left = abs(y), abs(x)
        m = torch.roll(m, (y, x), (1, 2))[:, up : 27 - up, left : 27 - left]
        n = n[:, up : 27 - up, left : 27 - left]
        total.append(float(torch.sqrt(((m - n) ** 2).mean() / m.var())))
    return sum(total) / len(total)


def invariance(a, b):
    rms = lambda d: float((d**2).mean() ** 0.5)  # noqa: E731  # as students write
    return {"error": rms(a - b) / rms(a - a[torch.randperm(len(a))]), "pairs": len(a)}


# %% conclusion
conclusion = {"conv": "equivariant", "fc": "not invariant", "conditions": "global pooling"}
