# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The exercise: do it yourself
#
# There are three tasks. Where you read `# your code`, put your own code in place of that line. Below each task stand
# a check that you can do yourself, a cell that **reviews** what you wrote, and a question.
#
# Write plain PyTorch, in any style. The review looks at what your code *computes*, not at how it is written. It knows
# the common mistakes by what they measure. First it says what you did, with your numbers. For two lines of code that
# show it, add `.text("hint")`; for what it would make you believe, `.text("explanation")`; for the way out,
# `.solution()`. All cells run without your code, too: then the review says what is missing. As a script, the exercise
# has no other output than what it prints.
#
# ## The text
#
# A function $f$ is **invariant** to transformations $P_\alpha$ if $f(P_\alpha x) = f(x)$ for all $\alpha$: the output
# stays. It is **equivariant** if $f(P_\alpha x) = P_\alpha f(x)$ for all $\alpha$: the output changes along. In a
# trained CNN *with pooling*, convolutional layers are equivariant to translation, and fully connected layers are
# invariant. Equivariance shows as *permuted activations* when the image is translated.
#
# 1. Train the network below on MNIST, without augmentation: the training digits stay where they are.
# 2. Prepare a test set of pairs of mutually translated images.
# 3. Extract the activations of `conv2` and `fc1`, and check whether they respect the property. *Hint: sorting is
#    invariant to permutations.*
#
# Read the network before you believe the text. It has no pooling and only one convolution: take `conv1` for `conv2`.
# What you find may not be what the text says.
#
# `lab` is the package of the course, and you need it for the reviews alone. The course's page *Start* says how to
# install it.

# %%
import matplotlib.pyplot as plt  # the hints of the review need this and NumPy
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import datasets

import lab
from lab import review

torch.manual_seed(0)

# %% [markdown]
# The data. Without the internet you get the 10,000 digits that `lab` brings along.

# %%
try:
    folder = lab.data_root()  # any folder will do
    train, test = (
        datasets.MNIST(folder, train=part, download=True) for part in (True, False)
    )
    train_images, train_labels = train.data[:, None] / 255, train.targets
    test_images, test_labels = test.data[:, None] / 255, test.targets
except (OSError, RuntimeError):
    embedded = lab.load_mnist("embedded")
    train_images, train_labels = embedded.train.images, embedded.train.labels
    test_images, test_labels = embedded.test.images, embedded.test.labels

print("training", *train_images.shape, "test", *test_images.shape)

# %% [markdown]
# Images are `n 1 28 28`, from 0 (background) to 1 (ink). Normalise them, or not: it is up to you. If you do, do it in
# the same way everywhere.
#
# This is the given network. `forward` returns three tensors: the log-probabilities; the activations of `conv1`, taken
# before ReLU; and the activations of `fc1`, taken before softmax.


# %%
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 1, kernel_size=2)
        self.fc1 = nn.Linear(729, 10)

    def forward(self, x):
        x = self.conv1(x)
        x_conv = x.clone().detach()
        x = torch.flatten(F.relu(x), 1)
        x = self.fc1(x)
        x_fc = x.clone().detach()
        return F.log_softmax(x, dim=1), x_conv, x_fc


# %% [markdown]
# ## Task 1: train it
#
# **Do.** Make a `Net()`, call it `model`, and train it on all training images, in batches. Then set `accuracy` to the
# share of *all* test images that it classifies right.
#
# **You need.** `torch.optim.SGD` (a learning rate of 0.03 and a momentum of 0.9 work), `torch.randperm` and `.split`,
# or a `DataLoader`, for the batches; `F.nll_loss`, as `forward` returns log-probabilities; `model.eval()` and
# `torch.no_grad()` for the test.
#
# **Check yourself.** Three passes over the training images take a few seconds. The loss has to fall. A network that
# knows nothing is right on one image in ten, this one can be right on about nine.

# %%
model = accuracy = None  # your code
### BEGIN SOLUTION
model = Net()


def normalize(images):
    return (images - 0.1307) / 0.3081


optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
for epoch in range(3):
    for index in torch.randperm(len(train_images)).split(128):
        log_probabilities, _, _ = model(normalize(train_images[index]))
        loss = F.nll_loss(log_probabilities, train_labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print("epoch", epoch, "loss", round(loss.item(), 3))

model.eval()
with torch.no_grad():
    predicted = model(normalize(test_images))[0].argmax(1)
accuracy = (predicted == test_labels).float().mean().item()
print("accuracy", round(accuracy, 4))
### END SOLUTION

# %%
review.training(model, accuracy=accuracy)

# %% [markdown]
# **Question 1.** You trained without augmentation. Suppose that you move each training digit at random by up to 4
# pixels, and train once more. What will change?
#
# - **a.** `conv1` becomes equivariant, for now it sees digits everywhere.
# - **b.** `fc1` becomes invariant, exactly: it has learnt that the place does not matter.
# - **c.** `fc1` comes closer to invariance, and stays far from it.
# - **d.** Nothing that has to do with the two properties: they depend on the architecture alone.

# %%
answer = None  # your letter
### BEGIN SOLUTION
answer = "c"
### END SOLUTION
review.answer("augmentation", answer)

# %% [markdown]
# ## Task 2: pairs of mutually translated images
#
# **Do.** Make `first`, some test images, and `second`, the *same* images in the same order, each moved by `dy` pixels
# down and `dx` pixels to the right (whole numbers; negative ones are up and left). Each pair has its own displacement,
# up to 4 pixels along *both* axes. Keep them in `dy` and `dx`. Leave out pairs whose digit would lose ink at the
# frame. Two thousand pairs are plenty.
#
# **You need.** `torch.randint` for the displacements. To move one image, `F.pad(image, (dx, -dx, dy, -dy))`: a
# negative number of pixels cuts off, a positive one adds background. Move first and normalise later, or think about
# what value enters.
#
# **Check yourself.** Draw some pairs side by side with `plt.imshow`, with `dy, dx` as the title. Does the digit move
# where the title says? Is the sum of all pixels the same in both images?

# %%
first = second = dy = dx = None  # your code
### BEGIN SOLUTION


def translate(image, dy, dx):
    return F.pad(image, (dx, -dx, dy, -dy))


def ink_inside(images):
    return (images[..., 1:-1, 1:-1] > 0).sum((1, 2, 3))


first = test_images[:2000]
dy, dx = torch.randint(-4, 5, (2, len(first)))
second = torch.stack(
    [translate(x, *t) for x, *t in zip(first, dy.tolist(), dx.tolist(), strict=True)]
)
ink = (first > 0).sum((1, 2, 3))
moved = (dy != 0) | (dx != 0)
keep = (ink_inside(first) == ink) & (ink_inside(second) == ink) & moved
first, second, dy, dx = first[keep], second[keep], dy[keep], dx[keep]
print(len(first), "pairs")
### END SOLUTION

# %%
review.pairs(first, second, dy, dx)

# %% [markdown]
# **Question 2.** Somebody normalises first, so that the background is −0.42, and then moves, with 0 for the pixels
# that enter: a grey bar at the edge. They compare the two maps of `conv1` wherever *both* are made of pixels of the
# image. Which of their numbers is spoilt?
#
# - **a.** Neither: 0 means *nothing* to a network.
# - **b.** The invariance error of `fc1`.
# - **c.** The equivariance error of `conv1`.
# - **d.** Both.

# %%
answer = None  # your letter
### BEGIN SOLUTION
answer = "b"
### END SOLUTION
review.answer("fill", answer)

# %% [markdown]
# ## Task 3: activations, and two measures
#
# **Do.** First, a function that gives the activations of both layers for a batch of images.
#
# **You need.** The tuple that `forward` returns; or, for any network, `register_forward_hook` (and `remove` the hook
# afterwards).
#
# **Check yourself.** For eight images, `"conv"` should have the shape `8 1 27 27` and `"fc"` the shape `8 10`.


# %%
def activations(model, images):
    """The activations for a batch of images: {"conv": n 1 27 27, "fc": n 10}."""
    ...  # your code
    ### BEGIN SOLUTION
    with torch.no_grad():
        _, conv, fc = model(normalize(images))
    return {"conv": conv, "fc": fc}
    ### END SOLUTION


# %%
review.network(model, activations)

# %% [markdown]
# **Do.** Now two measures. Each gets the activations `a` of the first images and `b` of the second ones, and returns
# one number, or one for each pair: 0 if the property holds, and more the less it holds. Write $T$ for the translation
# of a pair. For *equivariance*, move the map $f(x)$ yourself, and compare $T f(x)$ with $f(T x)$. For *invariance*,
# compare $f(x)$ with $f(T x)$.
#
# A difference alone says nothing: is 3.1 much? Divide it by something of the same kind, such as the size of the map,
# or the mean difference of two unrelated digits.
#
# **You need.** What moves an image moves a map. Where a map has moved away, there is nothing to compare with: leave
# these positions out.
#
# **Check yourself.** What do your measures say of `b = a`, moved by hand? And of `b = a.flip(0)`, other digits'
# activations? The first answer has to be 0, the second must not be. That second number is your **control**. (The hints
# of the review write `equivariance(a, b)`: add `dy, dx`, as your function takes them.)


# %%
def equivariance(a, b, dy, dx):
    """How far the maps b = f(Tx) are from the maps a = f(x), moved by dy, dx."""
    ...  # your code
    ### BEGIN SOLUTION
    errors = []
    for f_x, f_Tx, *t in zip(a, b, dy.tolist(), dx.tolist(), strict=True):
        inside = translate(torch.ones_like(f_x), *t) > 0
        difference = (f_Tx - translate(f_x, *t))[inside]
        errors.append(difference.norm() / f_Tx[inside].norm())
    return torch.stack(errors)
    ### END SOLUTION


def invariance(a, b):
    """How far the activations b = f(Tx) are from a = f(x)."""
    ...  # your code
    ### BEGIN SOLUTION
    unrelated = (a - a.roll(1, 0)).flatten(1).norm(dim=1).mean()
    return (b - a).flatten(1).norm(dim=1) / unrelated
    ### END SOLUTION


# %%
review.measure(equivariance, "equivariance", dy=dy, dx=dx)

# %%
review.measure(invariance, "invariance", dy=dy, dx=dx)

# %% [markdown]
# **Do.** Measure. How equivariant is `conv1`, and how invariant is `fc1`? Print each number beside its control: the
# same measure with the activations of *other* digits.

# %%
# your code
### BEGIN SOLUTION
a, b = activations(model, first), activations(model, second)
exact = equivariance(a["conv"], b["conv"], dy, dx).max().item()
other = equivariance(a["conv"].roll(1, 0), b["conv"], dy, dx).mean().item()
print("conv1, equivariance: largest", exact, "and other digits", other)

moved = invariance(a["fc"], b["fc"]).mean().item()
other = invariance(a["fc"], b["fc"].roll(1, 0)).mean().item()
print("fc1, invariance: mean", moved, "and other digits", other)
### END SOLUTION

# %% [markdown]
# **Question 3.** Somebody takes the hint: they sort the 729 values of each map, and find that the sorted values of
# $f(x)$ and $f(T x)$ agree in all pairs, to the last bit. What follows?
#
# - **a.** In each pair, the values of the second map are those of the first, perhaps at other places.
# - **b.** `conv1` is equivariant to translation.
# - **c.** `conv1` is invariant to translation.
# - **d.** The pairs are right: each second image is a translation of its first.

# %%
answer = None  # your letter
### BEGIN SOLUTION
answer = "a"
### END SOLUTION
review.answer("sorting", answer)

# %% [markdown]
# ## Your conclusion
#
# **Do.** Write down what you found: `conclusion` is a dict with three choices.
#
# - `"conv"`: is `conv1` `"equivariant"` or `"not equivariant"`?
# - `"fc"`: is `fc1` `"invariant"` or `"not invariant"`?
# - `"conditions"`: when is a fully connected layer invariant to translation?
#     - `"always"`: in every CNN;
#     - `"trained long enough"`: once the network was trained long enough;
#     - `"local pooling"`: if local pooling, such as the maximum of each 2 × 2 positions, stands in front of it;
#     - `"global pooling"`: if pooling over *all* positions of a map stands in front of it, behind equivariant layers.
#
# **Check yourself.** Do your own numbers say so, beside their controls?

# %%
conclusion = {"conv": None, "fc": None, "conditions": None}  # your code
### BEGIN SOLUTION
conclusion = {
    "conv": "equivariant",
    "fc": "not invariant",
    "conditions": "global pooling",
}
### END SOLUTION

# %% [markdown]
# ## Review of the whole
#
# The last review sees everything that you defined, under the names `model`, `first`, `second`, `dy`, `dx`,
# `activations`, `equivariance`, `invariance` and `conclusion`. If you gave something another name, say so in one line:
# `equivariance = my_error`.

# %%
### BEGIN HIDDEN TESTS
found = review.submission(globals())
assert found.passed, [one.mistakes for one in found.feedback]
### END HIDDEN TESTS
review.submission(globals())
