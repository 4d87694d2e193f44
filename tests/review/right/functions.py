"""Plain functions on tensors, the tuple of the given network, displacements as arguments."""

import torch
import torch.nn.functional as F
from torch import nn

import lab

SEED, SOURCE = 0, "embedded"
torch.manual_seed(SEED)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 1, kernel_size=2)
        self.fc1 = nn.Linear(729, 10)

    def forward(self, x):
        x = self.conv1(x)
        x_conv = x.clone().detach()
        x = F.relu(x)
        x = torch.flatten(x, 1)
        x = self.fc1(x)
        x_fc = x.clone().detach()
        return F.log_softmax(x, dim=1), x_conv, x_fc


def normalize(images):
    return (images - 0.1307) / 0.3081


mnist = lab.load_mnist(SOURCE)
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
for epoch in range(1):
    for index in torch.randperm(len(mnist.train))[:12800].split(64):
        images = mnist.train.images[index]
        loss = F.nll_loss(model(normalize(images))[0], mnist.train.labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()
with torch.no_grad():
    predicted = model(normalize(mnist.test.images))[0].argmax(1)
    test_accuracy = (predicted == mnist.test.labels).float().mean().item()

# %% pairs
digits, labels = mnist.test.images[:400], mnist.test.labels[:400]
dy, dx = torch.randint(-3, 4, (2, len(digits)))
keep = (dy != 0) | (dx != 0)
digits, labels, dy, dx = digits[keep], labels[keep], dy[keep], dx[keep]


def translate(image, dy, dx, fill=0.0):
    return F.pad(image, (dx, -dx, dy, -dy), value=fill)


moved = torch.stack([translate(x, *t) for x, *t in zip(digits, dy.tolist(), dx.tolist())])
first, second = normalize(digits), normalize(moved)


# %% activations
@torch.no_grad()
def activations(model, images):
    _, conv, fc = model(images)
    return {"conv": conv, "fc": fc}


# %% measures
def equivariance(a, b, dy, dx):
    errors = []
    for x, y, down, right in zip(a, b, dy.tolist(), dx.tolist()):
        expected = translate(x, down, right, fill=torch.nan)
        both = ~expected.isnan()
        errors.append((y[both] - expected[both]).norm() / expected[both].norm())
    return torch.stack(errors).mean()


def invariance(a, b):
    unrelated = (a - a.roll(1, 0)).norm(dim=1).mean()
    return ((a - b).norm(dim=1) / unrelated).mean()


# %% conclusion
conclusion = {"conv": "equivariant", "fc": "not invariant", "conditions": "global pooling"}
