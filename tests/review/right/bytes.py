"""Images as they are stored, uint8 n 28 28; the network is asked by a function that scales them; absolute errors with a control."""

import torch
from torch import nn

import lab

SEED, SOURCE = 0, "embedded"
torch.manual_seed(SEED)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 1, 2))
        self.classifier = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(729, 10))

    def forward(self, x):
        maps = self.features(x)
        logits = self.classifier(maps)
        return torch.log_softmax(logits, 1), maps.clone().detach(), logits.clone().detach()


mnist = lab.load_mnist(SOURCE)
stored = (mnist.train.images[:, 0] * 255).round().byte()
model = Net()
model.features[0].bias.data.fill_(0.5)
opt = torch.optim.Adam(model.parameters(), lr=3e-3)


def prepare(stored):
    return stored.float().unsqueeze(1) / 255 - 0.5


for start in range(0, 8000, 50):
    log_p, *_ = model(prepare(stored[start : start + 50]))
    loss = -log_p[torch.arange(50), mnist.train.labels[start : start + 50]].mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
model.eval()

# %% pairs
first = (mnist.test.images[:150, 0] * 255).round().byte()
labels = mnist.test.labels[:150].tolist()
dy = [int(v) for v in torch.randint(-3, 4, (150,))]
dx = [int(v) for v in torch.randint(-3, 4, (150,))]
second = torch.stack([image.roll((y, x), (0, 1)) for image, y, x in zip(first, dy, dx)])
inside = [bool((a.float().sum() > 0) and (a[3:-3, 3:-3].sum() == a.sum())) for a in first]
first, second = first[inside], second[inside]
labels, dy, dx = ([v for v, ok in zip(values, inside) if ok] for values in (labels, dy, dx))


# %% activations
@torch.inference_mode()
def activations(model, images):
    _, maps, logits = model(prepare(images))
    return dict(conv=maps.numpy(), fc=logits.numpy())


# %% measures
def equivariance(a, b, dy=dy, dx=dx):
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    moved = [m.roll((y, x), (-2, -1))[:, 4:-4, 4:-4] for m, y, x in zip(a, dy, dx)]
    return max(float((m - n[:, 4:-4, 4:-4]).abs().max()) for m, n in zip(moved, b))


def invariance(a, b):
    return float(abs(a - b).mean())


ours = [activations(model, images) for images in (first, second)]
control_conv = equivariance(ours[0]["conv"], ours[1]["conv"][::-1].copy())
control_fc = invariance(ours[0]["fc"], ours[0]["fc"][::-1])

# %% conclusion
conclusion = {"conv": True, "fc": False}
