"""Datasets and DataLoaders for everything; activations batch by batch."""

import random

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lab

SEED, SOURCE = 0, "embedded"
torch.manual_seed(SEED)
random.seed(SEED)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 1, kernel_size=2)
        self.fc1 = nn.Linear(729, 10)

    def forward(self, x):
        x = self.conv1(x)
        x_conv = x.clone().detach()
        x = self.fc1(torch.flatten(F.relu(x), 1))
        return F.log_softmax(x, dim=1), x_conv, x.clone().detach()


mnist = lab.load_mnist(SOURCE)
train_loader = DataLoader(TensorDataset(mnist.train.images[:8000], mnist.train.labels[:8000]), 100, shuffle=True)
model = Net()
model.conv1.weight.data.abs_()  # pixels from 0 to 1: with a negative kernel, ReLU would let nothing through
opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
for _epoch in range(2):
    for batch, target in train_loader:
        opt.zero_grad()
        F.nll_loss(model(batch)[0], target).backward()
        opt.step()
test_loader = DataLoader(TensorDataset(mnist.test.images, mnist.test.labels), 256)
correct = sum((model(batch)[0].argmax(1) == target).sum().item() for batch, target in test_loader)
accuracy = 100 * correct / len(mnist.test)

# %% pairs
moves = [(random.randint(-3, 3), random.randint(-3, 3)) for _ in range(256)]


class Moved(Dataset):
    def __init__(self, digits, moves=None):
        self.digits, self.moves = digits, moves

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, i):
        image, label = self.digits.images[i], self.digits.labels[i].item()
        if self.moves is not None:
            dy, dx = self.moves[i]
            image = F.pad(image, [dx, -dx, dy, -dy])
        return image, label


sample = lab.Split(mnist.test.images[:256], mnist.test.labels[:256])
first = DataLoader(Moved(sample), batch_size=50)
second = DataLoader(Moved(sample, moves), batch_size=50)


# %% activations
def activations(model, images):
    batches = images.split(50) if isinstance(images, torch.Tensor) else [batch[0] for batch in images]
    with torch.no_grad():
        outputs = [model(batch) for batch in batches]
    return {"conv": torch.cat([o[1] for o in outputs]), "fc": torch.cat([o[2] for o in outputs])}


# %% measures
def equivariance(a, b):
    errors = []
    for m, n, (dy, dx) in zip(a, b, moves):
        here = n[:, max(dy, 0) : 27 + min(dy, 0), max(dx, 0) : 27 + min(dx, 0)]
        there = m[:, max(-dy, 0) : 27 + min(-dy, 0), max(-dx, 0) : 27 + min(-dx, 0)]
        errors.append((here - there).abs().max() / there.abs().max())
    return max(torch.stack(errors).tolist(), key=lambda e: (e != e, e))


def invariance(a, b):
    return ((a - b).pow(2).sum() / (a - a.flip(0)).pow(2).sum()).sqrt().item()


# %% conclusion
conclusion = {"conv": "equivariant", "fc": "not invariant", "conditions": "global pooling"}
