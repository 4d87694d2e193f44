"""One index for all maps at once, made from the displacements of all pairs: the measure takes exactly these pairs."""

import torch
from torch import nn

import lab

SEED, SOURCE = 0, "embedded"
torch.manual_seed(SEED)
net = nn.ModuleDict({"conv": nn.Conv2d(1, 1, 2), "fc": nn.Linear(729, 10)})


class Model(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        a = self.layers["conv"](x)
        b = self.layers["fc"](torch.relu(a).view(x.shape[0], -1))
        return torch.log_softmax(b, -1), torch.clone(a).detach(), torch.clone(b).detach()


model = Model(net)
mnist = lab.load_mnist(SOURCE)
mu, sigma = 0.1307, 0.3081
opt = torch.optim.SGD(model.parameters(), 0.05)
for step in range(300):
    pick = torch.randint(0, len(mnist.train), (64,))
    out = model((mnist.train.images[pick] - mu) / sigma)[0]
    loss = nn.NLLLoss()(out, mnist.train.labels[pick])
    model.zero_grad()
    loss.backward()
    opt.step()

# %% pairs
n = 250
steps = torch.randint(-3, 4, (n, 2))
steps[(steps == 0).all(1)] = torch.tensor([1, -1])
dy, dx = steps.T
grid = torch.arange(28)
rows, columns = grid[None] - dy[:, None], grid[None] - dx[:, None]
valid = ((rows >= 0) & (rows < 28))[:, :, None] & ((columns >= 0) & (columns < 28))[:, None]
source = mnist.test.images[:n, 0]
target = source[torch.arange(n)[:, None, None], rows.clamp(0, 27)[:, :, None], columns.clamp(0, 27)[:, None]] * valid
first, second = ((v[:, None] - mu) / sigma for v in (source, target))


# %% activations
def activations(model, images):
    with torch.no_grad():
        return dict(zip(("scores", "conv", "fc"), model(images)))


# %% measures
every = torch.arange(n)[:, None, None]
inner = valid[:, :27, :27] & (rows < 27)[:, :27, None] & (columns < 27)[:, None, :27]


def equivariance(a, b):
    moved = a[:, 0][every, rows[:, :27].clamp(0, 26)[:, :, None], columns[:, :27].clamp(0, 26)[:, None]]
    difference = ((b[:, 0] - moved) * inner).pow(2).sum((1, 2))
    return (difference / (moved * inner).pow(2).sum((1, 2))).sqrt()


def invariance(a, b):
    return (a - b).norm(dim=1), (a - a[torch.arange(len(a)).roll(1)]).norm(dim=1)


control = "the second of what invariance returns: unrelated digits"
# %% conclusion
conclusion = {"conv": "equivariant", "fc": "not invariant"}
