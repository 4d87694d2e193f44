# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: The exercise with its own network on MNIST, all three tasks in plain PyTorch, and when its theory is right.
# ---
# # 3. The exercise
#
# A university exercise asks you to train a small network on MNIST, to show it pairs of mutually translated digits,
# and to check that convolutional layers are equivariant and fully connected layers invariant. Here you do it in plain
# PyTorch, with all code in view. This page stands on its own.
#
# **Try it first**, with a [review that says which mistake you made](../exercise.md): <!-- exercise: blank -->

# %%
#| code-fold: true
#| code-title: "Load the digits, and draw the question"
#| alt: >-
#|   Two rows. Above, a digit, the feature map that conv1 makes of it, and the ten outputs of fc1 as bars. Below, the
#|   same digit moved; where its feature map and its ten outputs would stand, there are two question marks.
#| caption: >-
#|   The question of the exercise. Above: a digit, what the convolution makes of it, and the ten outputs of the linear
#|   layer behind it. Below: the same digit, moved. Will the same map appear, moved likewise? And the same ten
#|   outputs?
import copy
from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import lab
from lab.plotting import COLORS, CONTROL_LOOK, MARKERS, Film, draw_panels

SEED = 0
plt.rcParams.update({"font.size": 12, "figure.figsize": (5.4, 3.2)})
mnist = lab.load_mnist()
checkpoints = lab.data_root() / "checkpoints"
reference = lab.build_model("given", seed=SEED)
lab.fit(reference, mnist.train, cache=checkpoints)

digit = mnist.test.images[2:3]
seen = lab.activations(reference, lab.normalize(digit))
fig, axes = plt.subplots(2, 3, figsize=(4.8, 3.4))
panels = [("x", digit[0, 0], "image"), ("conv1: f(x)", seen["conv1"][0, 0], "feature")]
draw_panels(axes[0, :2], panels)
draw_panels(axes[1, :1], [("T x", lab.shift(digit, 3, -4)[0, 0], "image")])
axes[0, 2].bar(range(10), seen["fc1"][0], color=COLORS[0])
axes[0, 2].set_title("fc1: ten outputs", fontsize=9)
for ax, words in zip(axes[1, 1:], ("conv1: f(T x)", "fc1: ten outputs"), strict=True):
    ax.set_title(words, fontsize=9)
    ax.text(
        0.5, 0.5, "?", fontsize=30, ha="center", va="center", transform=ax.transAxes
    )
for ax in axes[:, 1:].flat:
    ax.set(xticks=[], yticks=[], box_aspect=1)
    ax.spines[:].set_visible(True)

# %% [markdown]
# !!! abstract "After this page you can"
#     - do all three tasks of the exercise in your own code;
#     - measure equivariance and invariance, with controls beside them;
#     - say what makes a layer equivariant, and whether training does;
#     - say in what sense the exercise's theory is right, and where it is not.
#
# ## The exercise
#
# In substance, this is the text. A function $f$ is **invariant** to transformations $P_\alpha$ if
# $f(P_\alpha x) = f(x)$ for all $\alpha$: the output stays. It is **equivariant** if
# $f(P_\alpha x) = P_\alpha f(x)$ for all $\alpha$: the output changes along. In a trained CNN *with pooling*,
# convolutional layers are equivariant to translation, and fully connected layers are invariant. Equivariance shows as
# *permuted activations* when the image is translated. This is the network that it gives:


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
# And these are the tasks:
#
# 1. train it on MNIST, without augmentation (the training digits stay where they are);
# 2. prepare a test set of pairs of mutually translated images;
# 3. extract the activations of `conv2` and `fc1`, and check whether they respect the property. *Hint: sorting is
#    invariant to permutations.*
#
# Read the code before you run it. `forward` returns three tensors: the log-probabilities; the activations of `conv1`,
# taken *before* ReLU; and the activations of `fc1`, the **logits**, taken before softmax. They are copies (`clone`)
# without a gradient (`detach`).

# %% [markdown]
# ```predict
# id: what-it-cannot-test
# question: Which part of the exercise's theory can this network *not* test?
# choices:
#   - that the maps of a convolution move along with the image, as its map is 27 × 27 and not 28 × 28
#   - what pooling does, and what a convolution behind another layer does
#   - that linear layers are invariant, as there is only one of them
# ```

# %% [markdown]
# | the text speaks of | the code has |
# |---|---|
# | a CNN with pooling | no pooling |
# | `conv2` | one convolution, `conv1` |
# | fully connected layers | `fc1`, on the flattened map |

# %% [markdown]
# ```observed
# id: what-it-cannot-test
# right: 2
# reason: |
#   There is no pooling, and no `conv2`: take `conv1` for it. [Page 5](05_strides.py) does the exercise with the network
#   that the text describes. A map may be smaller than the image: you compare it where both maps are defined. And one
#   linear layer that is not invariant is enough to refute a sentence about all of them.
# ```

# %% [markdown]
# ## Task 1: train it
#
# A training loop as you know it: draw the batches, compute the loss, go one step down, with Nesterov's momentum
# ([Sutskever et al. 2013](../references.md#sutskever2013)). Two things in it are less usual. The length of the steps first
# grows and then shrinks (`OneCycleLR`, [Smith and Topin 2018](../references.md#smith2018)). And the loop keeps copies of the
# network after some numbers of steps. You will make a film of them.


# %%
def train(net, images, labels, *, epochs=3, keep=()):
    """Train in place; number of steps -> a copy of the network as it was then."""
    batches = [i for _ in range(epochs) for i in torch.randperm(len(images)).split(128)]
    sgd = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9, nesterov=True)
    rate = OneCycleLR(sgd, 0.03, len(batches), cycle_momentum=False)
    copies = {}
    for step, index in enumerate(batches):
        if step in keep:
            copies[step] = copy.deepcopy(net)
        loss = F.nll_loss(net(normalize(images[index]))[0], labels[index])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        rate.step()
    return copies | {len(batches): net}


# %%
def normalize(images):
    """Images in [0, 1] with mean 0 and standard deviation 1 over MNIST's pixels."""
    return (images - 0.1307) / 0.3081


@torch.no_grad()
def accuracy(net, images, labels):
    """Share of the images that the network classifies right."""
    return (net(normalize(images))[0].argmax(1) == labels).double().mean().item()


torch.manual_seed(SEED)
trained = Net()
torch.manual_seed(SEED)  # the same order of the digits, whatever was drawn before
steps = {0, *(round(10 ** (k / 4)) for k in range(13))}
copies = train(trained, mnist.train.images, mnist.train.labels, keep=steps)

# %%
#| echo: false
untrained = copies[0]
test = mnist.test.images, mnist.test.labels
before, after = accuracy(untrained, *test), accuracy(trained, *test)

# %% [markdown]
# The network is right on {{ before:.1%}} of the {{ len(mnist.test):,}} test digits before training, and on {{ after:.1%}}
# after {{ max(copies):,}} steps. That is little for MNIST: one channel and one linear layer are hardly more than a
# linear classifier. It is enough for the question.
#
# ## Task 2: pairs of mutually translated images
#
# The first image of a pair is a test digit where MNIST put it: in the middle, as in training. The second is the same
# digit, moved by up to 4 pixels along each axis. Move first and normalise afterwards: then the pixels that
# enter are background, like those around them.


# %%
def translate(image, dy, dx, fill=0.0):
    """Move an image down by dy and right by dx pixels; `fill` enters."""
    return F.pad(image, (dx, -dx, dy, -dy), value=fill)


def ink(images):
    """How many pixels of each image are not background, its outermost ring left out."""
    return (images[:, 0, 1:-1, 1:-1] > 0).sum((1, 2))


digits, labels = mnist.test.images[:3000], mnist.test.labels[:3000]
shifts = torch.randint(-4, 5, (len(digits), 2))
moved = torch.stack(
    [translate(x, *t) for x, t in zip(digits, shifts.tolist(), strict=True)]
)
whole = (digits > 0).sum((1, 2, 3))
keep = (ink(digits) == whole) & (ink(moved) == whole) & (shifts != 0).any(1)
first, second, labels, shifts = digits[keep], moved[keep], labels[keep], shifts[keep]

# %%
#| code-fold: true
#| code-title: "Draw four pairs"
#| alt: Four digits in the middle of their frames, and below each the same digit at another place.
#| caption: Four of the pairs. Above the digit where MNIST put it, below the same digit moved; dy is down, dx is right.
fig, axes = plt.subplots(2, 4, figsize=(4.8, 2.9))
draw_panels(axes[0], [("x", x[0], "image") for x in first[:4]])
names = [f"T x: {dy}, {dx} px" for dy, dx in shifts[:4].tolist()]
below = zip(names, second[:4], strict=True)
draw_panels(axes[1], [(name, x[0], "image") for name, x in below])

# %% [markdown]
# A pair is dropped if its ink would leave the frame or touch the edge, since the second image would then not show the
# whole digit. {{ len(first):,}} of {{ len(digits):,}} pairs are left. [Page 2](02_shifting.py) shows what else can go wrong
# here.
#
# ## Task 3: extract the activations, and two measures
#
# `forward` returns what you need. In a network that does not, a *forward hook* gets it: a function that PyTorch calls
# whenever the layer has run.


# %%
@torch.no_grad()
def activations(net, images, layers=("conv1", "fc1")):
    """Layer -> what it returns for the images."""
    found = {}

    def keep(name):
        return lambda layer, inputs, output: found.update({name: output.clone()})

    hooks = [
        net.get_submodule(name).register_forward_hook(keep(name)) for name in layers
    ]
    net(normalize(images))
    for hook in hooks:
        hook.remove()
    return found


# %% [markdown]
# Write $x$ for an image, $T$ for the translation and $f$ for the layer. If the layer is equivariant, $f(T x) = T f(x)$.
# So move the map of the first image, subtract it from the map of the second, and compare what is left with the map
# itself. If the layer is invariant, $f(T x) = f(x)$. Compare *that* difference with the mean difference of two
# unrelated digits, $x$ and $x'$:
#
# $$
# \text{equivariance error} = \frac{\norm{f(T x) - T f(x)}}{\norm{T f(x)}}, \qquad
# \text{invariance error} = \frac{\norm{f(T x) - f(x)}}{\text{mean } \norm{f(x) - f(x')}}.
# $$
#
# Both are 0 where the property holds. An invariance error of 1 means *as different as another digit*. When a map is
# moved, some positions get no value, since it would have to come from outside the map. The code fills them with `nan`
# (*not a number*), and leaves them out.


# %%
def equivariance_error(f_x, f_Tx, dy, dx):
    """Of one map: ‖f(Tx) − T f(x)‖ / ‖T f(x)‖, where both are defined."""
    T_f_x = translate(f_x, dy, dx, fill=torch.nan)
    both = ~T_f_x.isnan()
    return (f_Tx - T_f_x)[both].norm() / T_f_x[both].norm()


def invariance_error(f_x, f_Tx, other):
    """Of each pair: ‖f(Tx) − f(x)‖ over the mean ‖f(x) − f(x')‖."""
    scale = (f_x - f_x[other]).flatten(1).norm(dim=1).mean()
    return (f_Tx - f_x).flatten(1).norm(dim=1) / scale


other = lab.derangement(len(first))  # an order in which no digit keeps its place

# %% [markdown]
# ## The convolution
#
# A number needs a **control**: the same measurement where it must *not* come out as 0. Here are two: the map of
# *another* digit, moved correctly; and the map of the same digit, moved *one pixel off*.


# %%
def conv_errors(net, n=None, off=0, partner=None):
    """Equivariance error of conv1 for the first n pairs."""
    a, b = (activations(net, x[:n])["conv1"] for x in (first, second))
    a = a if partner is None else a[partner]
    moves = shifts[:n].tolist()
    each = zip(a, b, moves, strict=True)
    return torch.stack(
        [equivariance_error(x, y, dy + off, dx) for x, y, (dy, dx) in each]
    )


# %% [markdown]
# ```predict
# id: conv1-trained
# question: How large is conv1's equivariance error after training, as the *largest* of all pairs?
# choices:
#   - exactly 0, up to rounding
#   - about 0.01, since a trained layer does it nearly right
#   - about 0.3, since the digit is cut into other pieces when it moves
#   - about 1
# ```

# %%
#| code-fold: true
#| code-title: "Draw one pair, right and wrong"
#| alt: >-
#|   Six panels: a digit, its feature map, that map moved; the map of the moved digit, its difference from the moved
#|   map, which is blank, and its difference from the map moved one pixel off, which shows red and blue outlines of
#|   the digit.
#| caption: >-
#|   One pair. Last row: the map of the moved digit, and what is left when the moved map is subtracted from it:
#|   nothing. Move the map one pixel off, and outlines are left. Hatched: not defined.
conv = conv_errors(trained)
one_off, unrelated = conv_errors(trained, off=1), conv_errors(trained, partner=other)


def pair_panels(net, i):
    """The maps of one pair, the difference, and the one that fails."""
    a, b = (activations(net, x[i : i + 1])["conv1"][0, 0] for x in (first, second))
    dy, dx = shifts[i].tolist()
    right, wrong = (translate(a, dy + off, dx, fill=torch.nan) for off in (0, 1))
    return [
        ("T f(x)", right, "feature"),
        ("f(T x)", b, "feature"),
        ("difference", b - right, "difference"),
        ("1 px off", b - wrong, "difference"),
    ]


i = int(((shifts[:, 0] >= 2) & (shifts[:, 1].abs() >= 3)).long().argmax())
f_x = activations(trained, first[i : i + 1])["conv1"][0, 0]
fig, axes = plt.subplots(2, 3, figsize=(4.8, 3.5))
start = [("x", first[i, 0], "image"), ("f(x)", f_x, "feature")]
draw_panels(axes.flat, start + pair_panels(trained, i))

# %% [markdown]
# | conv1, trained, {{ len(conv):,}} pairs | equivariance error |
# |---|---|
# | largest of all pairs | **{{ conv.max():.2g}}** |
# | control: one pixel off, mean | {{ one_off.mean():.2f}} |
# | control: another digit, mean | {{ unrelated.mean():.2f}} |

# %% [markdown]
# ```observed
# id: conv1-trained
# right: 1
# value: "{{ conv.max():.2g}}"
# reason: |
#   The two maps agree wherever both are defined. This is not an approximation that training found. The layer does the
#   same sums at every position, and when the digit moves, the sums move. The controls show that the measure would
#   have told you of a difference.
# ```

# %% [markdown]
# ### The hint: sort
#
# If the map moves along, the same values stand at other places, and sorting them undoes the difference. So sort the
# 729 values of each map, and measure their *invariance* error. As a test of this test, mirror the map: no translation
# makes that of it.

# %%
maps = [activations(trained, x)["conv1"] for x in (first, second)]
in_order = [x.flatten(1).sort(dim=1).values for x in maps]
sort_error = invariance_error(*in_order, other)

mirrored = maps[1].flip(-1)
mirrored_sort = invariance_error(in_order[0], mirrored.flatten(1).sort(1).values, other)
moves = zip(maps[0], mirrored, shifts.tolist(), strict=True)
mirrored_errors = torch.stack([equivariance_error(a, b, *t) for a, b, t in moves])

# %% [markdown]
# | largest of all pairs | sorted | not sorted |
# |---|---|---|
# | conv1 | {{ sort_error.max():.2g}} | {{ conv.max():.2g}} |
# | conv1, its map mirrored afterwards | {{ mirrored_sort.max():.2g}} | {{ mirrored_errors.max():.2f}} |
# | control: another digit (mean) | {{ invariance_error(in_order[0], in_order[0][other], other).mean():.2f}} | {{ unrelated.mean():.2f}} |
#
# Sorting forgets *where* the values are. So it can refute equivariance, and cannot prove it: a layer that mirrors its
# map passes too. [Page 4](04_sorting.py) shows what else passes, and where a convolution fails.
#
# ## The fully connected layer

# %% [markdown]
# ```predict
# id: fc1-one-pixel
# question: >-
#   The trained `fc1` has a weight of its own for each of the 729 positions. The digit moves by *one* pixel. How large
#   is the invariance error of its ten outputs, on average?
# choices:
#   - exactly 0, up to rounding, as the exercise says
#   - about 0.03
#   - about 0.3
#   - about 1, as for another digit
# ```

# %%
#| code-fold: true
#| code-title: "Measure, and draw the error against the distance"
#| alt: >-
#|   Invariance error of the trained fc1 against the distance of the shift. It is about 0.3 at one pixel and rises
#|   steeply towards the control, unrelated digits, which is at about 1.
#| caption: >-
#|   How far the ten outputs of the trained fc1 change when the digit moves. An invariant layer would have 0 everywhere.
#|   Grey: what another digit does.
logits = [activations(trained, x)["fc1"] for x in (first, second)]
fc = invariance_error(*logits, other)
fc_other = invariance_error(logits[0], logits[0][other], other)
classes = [x.argmax(1) for x in logits]
agree = classes[0] == classes[1]
distance = shifts.abs().amax(1)
groups = [distance == r for r in range(1, 5)]
fig, ax = plt.subplots()
means = [fc[g].mean() for g in groups]
ax.plot(range(1, 5), means, color=COLORS[0], marker=MARKERS[0], label="moved digit")
means = [fc_other[g].mean() for g in groups]
ax.plot(range(1, 5), means, **CONTROL_LOOK, label="another digit")
ax.set(
    xlabel="distance max(|dy|, |dx|) (px)",
    ylabel="invariance error",
    xticks=range(1, 5),
)
ax.set_ylim(0, 1.25)
ax.legend(ncols=2)

# %% [markdown]
# ```observed
# id: fc1-one-pixel
# right: 3
# value: "{{ fc[groups[0]].mean():.2f}} at 1 px, {{ fc[groups[3]].mean():.2f}} at 4 px"
# reason: |
#   By the exercise's theory it would be 0. Over all pairs the error is {{ fc.mean():.2f}},
#   {{ fc.mean() / fc_other.mean():.0%}} of what another digit does. The network is right on
#   {{ (classes[0] == labels).double().mean():.0%}} of the digits in the middle and on
#   {{ (classes[1] == labels).double().mean():.0%}} of the same digits moved. It gives both members of a pair the same
#   class in {{ agree.double().mean():.0%}} of all pairs ({{ agree[groups[0]].double().mean():.0%}} at 1 px,
#   {{ agree[groups[3]].double().mean():.0%}} at 4 px).
# ```

# %% [markdown]
# ## Does training create equivariance?
#
# The convolution is equivariant, the linear layer is not invariant. Does training have anything to do with it? You kept
# copies of the network while it learned. Measure both errors on each of them. (It is one network, from one seed.)

# %%
at = sorted(copies)
curves = {
    "accuracy": [accuracy(copies[k], *test) for k in at],
    "fc1: invariance error": [],
    "conv1: equivariance error": [],
}
for k in at:
    outputs = [activations(copies[k], x)["fc1"] for x in (first, second)]
    curves["fc1: invariance error"].append(
        invariance_error(*outputs, other).mean().item()
    )
    curves["conv1: equivariance error"].append(
        conv_errors(copies[k], n=200).max().item()
    )

# %%
#| echo: false
fresh = [activations(untrained, x)["fc1"] for x in (first, second)]
fresh = invariance_error(*fresh, other)

# %% [markdown]
# ```predict
# id: training
# question: >-
#   Training takes the accuracy from {{ before:.0%}} to {{ after:.0%}}. What does it do to the two errors?
# choices:
#   - both start near 1 and fall towards 0, as the network learns the two properties
#   - conv1's starts near 1 and falls to 0; fc1's stays at 1
#   - conv1's is 0 from the start; fc1's falls to 0
#   - conv1's is 0 from the start; fc1's falls a little and stays far from 0
# ```

# %%
#| alt: >-
#|   Three curves against the number of training steps, on a logarithmic axis. Accuracy rises from below 0.1 to about
#|   0.9. The invariance error of fc1 starts near 1 and falls to about 0.7. The equivariance error of conv1 is 0 at
#|   every step.
#| caption: >-
#|   A film of training: move the slider, or press the button. The curves: accuracy on all test digits; fc1's error,
#|   mean of all pairs; conv1's error, the *largest* of 200 pairs. Below, one pair as conv1 sees it at that step. The
#|   third picture stays blank, whatever the weights; the fourth, with the map moved one pixel off, never is.
Film("step", at, curves, [pair_panels(copies[k], i) for k in at])

# %% [markdown]
# ```observed
# id: training
# right: 4
# value: "conv1 {{ max(curves['conv1: equivariance error']):.2g}} throughout; fc1 {{ curves['fc1: invariance error'][0]:.2f}} → {{ curves['fc1: invariance error'][-1]:.2f}}"
# reason: |
#   The kernel changes with every step, and so does the map. But the error of `conv1` is 0 from step 0, when the
#   weights are random, so training cannot have created its equivariance. Training lowered the error of `fc1`, mainly
#   for small shifts: at 1 px from {{ fresh[groups[0]].mean():.2f}} to {{ fc[groups[0]].mean():.2f}}, at 4 px from
#   {{ fresh[groups[3]].mean():.2f}} to {{ fc[groups[3]].mean():.2f}}. It did not bring it near 0.
# ```

# %% [markdown]
# ### Why the convolution is equivariant, trained or not
#
# Write $w$ for the kernel, $b$ for the bias, $u$ for a position in the kernel and $t$ for the shift. At a position
# $j$ where both maps are defined,
#
# $$
# f(T_t x)[j] = b + \sum_u w[u] \, (T_t x)[j + u] = b + \sum_u w[u] \, x[j - t + u] = f(x)[j - t] = (T_t f(x))[j].
# $$
#
# The values of $w$ play no part. The proof only needs the *same* $w$ at every $j$. This **weight sharing** is part of
# the architecture, and it is there before the first step.
#
# ### Why the fully connected layer is not invariant
#
# Write $a$ for the map behind ReLU, and $W$ for the weights of one class. Its output is $\sum_j W[j] \, a[j]$, plus a
# bias. When the map moves by $t$, this becomes $\sum_j W[j] \, a[j - t] = \sum_j W[j + t] \, a[j]$ (as long as no
# activation leaves the map). The two are equal for *every* map and *every* shift only if $W[j + t] = W[j]$ for all $j$
# and $t$: the weights of a class must be the same at all positions. Nothing in the layer makes them equal, and
# training on digits in the middle gives no reason to.

# %%
#| code-fold: true
#| code-title: "Fit a classifier to one number, the sum of the map"
with torch.no_grad():
    maps_of = [
        F.relu(trained.conv1(normalize(s.images))) for s in (mnist.train, mnist.test)
    ]
sums = [found.sum((1, 2, 3)) for found in maps_of]
edges = sums[0].quantile(torch.linspace(0, 1, 41))[1:-1]
bins = [torch.bucketize(values, edges) for values in sums]
usual = torch.stack([mnist.train.labels[bins[0] == k].mode().values for k in range(40)])
fitted = (usual[bins[1]] == mnist.test.labels).double().mean().item()

# %%
#| fold: "Optional: make fc1 invariant by hand, and what that does not show"
#| text: >-
#|   Replace the 729 weights of each class by their mean. Now `fc1` *is* invariant: its largest error, in float64, is
#|   {{ by_hand_error:.0e}}. Its accuracy falls to {{ by_hand:.1%}}. Is that the price of invariance? No. This network
#|   calls {{ says:.0%}} of all digits "{{ favourite}}": all that is left to it is one number, the *sum* of the map, and
#|   it was never trained to use that. A classifier fitted to the same number (the most frequent digit in each of 40
#|   intervals) is right in {{ fitted:.1%}} of all cases. And with more than one number an invariant network can be
#|   good, as the next section shows.
constant = copy.deepcopy(trained)
with torch.no_grad():
    constant.fc1.weight[:] = trained.fc1.weight.mean(1, keepdim=True)
by_hand = accuracy(constant, *test)
calls = [activations(net, test[0])["fc1"].argmax(1) for net in (constant, trained)]
favourite = calls[0].mode().values.item()
says, says_trained = ((x == favourite).double().mean().item() for x in calls)
ends = [activations(constant.double(), x.double())["fc1"] for x in (first, second)]
by_hand_error = invariance_error(*ends, other).max().item()

# %% [markdown]
# ## When is the exercise's theory right?
#
# Change one thing: what stands between the maps and the linear layer. **Global pooling** keeps only the maximum of each map
# over *all* its positions, one number for each map, and the linear layer gets those.
#
# This network has four convolutions of stride 1 and no local pooling. The convolutions are *circular*: beyond each
# side of the frame they see what stands at the opposite side, so that the frame has no border. (`BatchNorm2d`, once
# trained, multiplies a map by one number and adds another, the same at all positions.)


# %%
def global_net(channels=(1, 8, 8, 16, 32)):
    """GlobalNet: circular convolutions, the maximum of each map, a linear layer."""
    layers = []
    for a, b in pairwise(channels):
        layers.append(nn.Conv2d(a, b, 5, padding=2, padding_mode="circular"))
        layers += [nn.BatchNorm2d(b), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
    net.add_module("fc", nn.Linear(channels[-1], 10))
    return net


# %% [markdown]
# It is trained for two epochs on 8,000 digits, which are *not* moved. Compare it with the given network, and with
# that of [page 5](05_strides.py): two convolutions, each followed by *local* pooling (the maximum of each 2 × 2
# positions), and two linear layers. There are three networks of each kind, from three seeds.

# %%
#| code-fold: true
#| code-title: "Train three networks of each kind, and measure each on your pairs"
RECIPES = {
    "given": lab.RECIPES["given"],
    "pooled": lab.RECIPES["pooled"],
    "global": lab.TrainConfig(epochs=2, batch_size=64, learning_rate=0.1),
}
LAST = {"given": "fc1", "pooled": "fc2", "global": "fc"}


def build(kind, seed):
    """One network, trained or taken from the checkpoints."""
    torch.manual_seed(seed)
    net = global_net() if kind == "global" else lab.build_model(kind, seed=seed)
    digits = mnist.train.sample(8_000, seed=seed) if kind == "global" else mnist.train
    lab.fit(net, digits, replace(RECIPES[kind], seed=seed), cache=checkpoints)
    return net


def outputs(net, layer):
    """Of the last layer, for both images of each pair."""
    return [
        lab.activations(net, lab.normalize(x), [layer])[layer] for x in (first, second)
    ]


SEEDS = (0, 1, 2)
both = {kind: [outputs(build(kind, s), LAST[kind]) for s in SEEDS] for kind in LAST}
right = {
    kind: [
        torch.stack([(x.argmax(1) == labels).double().mean() for x in pair])
        for pair in found
    ]
    for kind, found in both.items()
}
right = {kind: torch.stack(found) for kind, found in right.items()}
error = {
    kind: torch.stack([invariance_error(*pair, other) for pair in found])
    for kind, found in both.items()
}


def spread(values, form=".2f"):
    """Mean ± standard deviation of the three networks."""
    return f"{values.mean():{form}} ± {values.std():{form}}"


# %% [markdown]
# ```predict
# id: global-moved
# question: >-
#   GlobalNet is right on {{ right["global"][:, 0].mean():.1%}} of the digits in the middle (mean of the three
#   networks). On how many of the *same digits, moved*? The given network falls from
#   {{ right["given"][:, 0].mean():.0%}} to {{ right["given"][:, 1].mean():.0%}}.
# number: {unit: "%", places: 1}
# ```

# %% [markdown]
# | last layer of | right, in the middle | right, moved | invariance error at 1 px | at 4 px |
# |---|---|---|---|---|
# | the given network: no pooling | {{ spread(right["given"][:, 0], ".1%")}} | {{ spread(right["given"][:, 1], ".1%")}} | {{ spread(error["given"][:, groups[0]].mean(1))}} | {{ spread(error["given"][:, groups[3]].mean(1))}} |
# | local pooling | {{ spread(right["pooled"][:, 0], ".1%")}} | {{ spread(right["pooled"][:, 1], ".1%")}} | {{ spread(error["pooled"][:, groups[0]].mean(1))}} | {{ spread(error["pooled"][:, groups[3]].mean(1))}} |
# | GlobalNet | {{ spread(right["global"][:, 0], ".1%")}} | {{ spread(right["global"][:, 1], ".1%")}} | {{ error["global"][:, groups[0]].max():.2g}} (largest) | {{ error["global"][:, groups[3]].max():.2g}} (largest) |
#
# *The same {{ len(first):,}} pairs for all; mean ± standard deviation of three networks.*

# %% [markdown]
# ```observed
# id: global-moved
# value: "{{ 100 * right['global'][:, 1].mean():.1f}}"
# within: 0.5
# reason: |
#   Exactly as many. The convolutions are equivariant, so the maps move along. When a map moves, its maximum over all
#   positions stays the same. So the linear layer gets the same numbers, and gives the same ten outputs. Nobody showed this
#   network a moved digit. It is invariant by its architecture, and it still classifies well.
# ```

# %% [markdown]
# !!! info "In what sense is the exercise's theory right?"
#     - **With global pooling** behind equivariant layers: right. Everything behind the pooling is invariant, linear
#       layers included. Measured: an error of {{ error["global"].max():.2g}}.
#     - **With local pooling** and flattened maps behind it: approximately, for small shifts, and only as far as
#       training made it so. Measured: {{ error["pooled"][:, groups[0]].mean():.2f}} at 1 px,
#       {{ error["pooled"][:, groups[3]].mean():.2f}} at 4 px.
#     - **With flattened maps and no pooling**, as in the network that the exercise gives: false. Measured:
#       {{ error["given"][:, groups[0]].mean():.2f}} at 1 px, {{ error["given"][:, groups[3]].mean():.2f}} at 4 px.
#
#     The other half, *convolutional layers are equivariant*, is right for stride 1 and away from borders, trained or
#     not. [Page 5](05_strides.py) shows what strides do, [page 6](06_borders.py) what borders do.
#
# ## The same with `lab`
#
# Now that you have written it yourself, you can use `lab`, which does the same with more care. It works for any
# network, runs it in batches and leaves it as it was, refuses `nan` with a clear message, and keeps networks that it
# has trained.

# %%
#| code-fold: true
#| code-title: "Compare your code with lab, number by number"
normal = [lab.normalize(x) for x in (first, second)]
a, b = (lab.activations(trained, x) for x in normal)
dy, dx = shifts.unbind(1)


def gap(mine, theirs):
    """The largest difference, in units of the largest value."""
    return ((mine - theirs).abs().max() / theirs.abs().max()).item()


weights = [net.fc1.weight.detach() for net in (trained, reference, build("given", 1))]
agreement = {
    "train": gap(weights[0], weights[1]),
    "translate": gap(second, lab.shift(first, dy, dx)),
    "activations": max(gap(maps[0], a["conv1"]), gap(logits[0], a["fc1"])),
    "equivariance_error": gap(
        unrelated, lab.aligned_error(a["conv1"][other], b["conv1"], dy, dx)
    ),
    "invariance_error": gap(fc, lab.invariance_error(a["fc1"], b["fc1"])),
}
split = mnist.test.sample(2000, seed=SEED)
pairs = lab.translated_pairs(split, max_shift=4, margin=1, seed=SEED)
c, d = (lab.activations(trained, lab.normalize(x)) for x in (pairs.first, pairs.second))
theirs = {
    "conv1": lab.aligned_error(c["conv1"], d["conv1"], pairs.dy, pairs.dx).max().item(),
    "fc1": lab.invariance_error(c["fc1"], d["fc1"]).mean().item(),
    "right": (c["fc1"].argmax(1) == pairs.labels).double().mean().item(),
    "agree": (c["fc1"].argmax(1) == d["fc1"].argmax(1)).double().mean().item(),
}

# %% [markdown]
# | yours | in `lab` | largest difference |
# |---|---|---|
# | `train` | [`lab.fit`][lab.training.fit] | {{ agreement["train"]:.1g}} (weights of `fc1`) |
# | `translate` | [`lab.shift`][lab.shifting.shift] | {{ agreement["translate"]:.1g}} |
# | `activations` | [`lab.activations`][lab.observing.activations] | {{ agreement["activations"]:.1g}} |
# | `equivariance_error` | [`lab.aligned_error`][lab.metrics.aligned_error] | {{ agreement["equivariance_error"]:.1g}} |
# | `invariance_error` | [`lab.invariance_error`][lab.metrics.invariance_error] | {{ agreement["invariance_error"]:.1g}} |
#
# *Differences are shares of the largest value. In training, rounding errors grow from step to step.*
#
# One thing differs on purpose. [`lab.translated_pairs`][lab.shifting.translated_pairs] uses all displacements equally
# often and drops no digit. To have the room, it moves the *first* image too. Then neither image is where the training
# digits were.
#
# | pairs | right on the first image | same class for both | error of fc1 | largest error of conv1 |
# |---|---|---|---|---|
# | yours: the first in the middle | {{ (classes[0] == labels).double().mean():.0%}} | {{ agree.double().mean():.0%}} | {{ fc.mean():.2f}} | {{ conv.max():.2g}} |
# | `lab`'s: both anywhere | {{ theirs["right"]:.0%}} | {{ theirs["agree"]:.0%}} | {{ theirs["fc1"]:.2f}} | {{ theirs["conv1"]:.2g}} |
#
# Neither row is wrong. Yours says what happens to a digit that leaves the place where the network knows it. `lab`'s
# says how two places compare, neither of them special. When you report such a number, say which of the two it is.
#
# ## What you should have seen
#
# - The convolution is exactly equivariant wherever both maps are defined. Weight sharing makes it so. Training plays
#   no part.
# - The fully connected layer on flattened maps is not invariant. Training lowered its error, mainly for small shifts.
# - With global pooling in between, a linear layer *is* invariant, and the network can be good.
# - Sorting can refute equivariance. It cannot prove it.
#
# ## Theory and observation


# %%
#| code-fold: true
#| code-title: "State what theory says, and what must come out differently"
n, rounding = len(first), 5e-7
WHY = "float32: 4 products and a bias, in another order, differ by about √5 · 2⁻²⁴ = 1e-7 of their size"
PILOT = "set after a pilot with both data sets, one to three seeds each: "


def mean(what, values, relation, bound):
    """A control: the mean of the same measurement elsewhere."""
    return lab.Control(
        what, torch.as_tensor(values).double().mean().item(), relation, bound
    )


def exact(name, values, *controls, tolerance=rounding, why=WHY, n=None):
    """Exactly 0 in theory."""
    values = torch.as_tensor(values)
    observed, n = values.max().item(), n or values.numel()
    return lab.Claim(
        name,
        "exact",
        0.0,
        observed,
        controls,
        tolerance=tolerance,
        why=why,
        kind="exact",
        n=n,
    )


def bound(name, theory, relation, limit, observed, *controls, why, n):
    """A bound that a pilot run has set."""
    why = PILOT + why
    return lab.Claim(
        name,
        theory,
        limit,
        float(observed),
        controls,
        relation,
        why=why,
        kind="empirical",
        n=n,
    )


wrong_film = [conv_errors(copies[k], n=200, off=1).mean().item() for k in at]
in_film = curves["conv1: equivariance error"]
always = lab.Control(
    "1 px off, least of all steps", torch.tensor(wrong_film).min().item(), ">=", 0.2
)
convolution = [
    exact(
        "trained conv1: equivariance error",
        conv,
        mean("another digit", unrelated, ">=", 0.5),
        mean("1 px off", one_off, ">=", 0.2),
    ),
    exact("conv1 at each step of training", in_film, always, n=200 * len(at)),
    exact(
        "trained conv1: sorted",
        sort_error,
        mean(
            "another digit",
            invariance_error(in_order[0], in_order[0][other], other),
            ">=",
            0.3,
        ),
    ),
    exact(
        "its mirrored map passes the sort test",
        mirrored_sort,
        mean("mirrored, not sorted", mirrored_errors, ">=", 0.5),
    ),
]

# %%
#| code-fold: true
#| code-title: "The same for the linear layers"
nothing = lab.Control("GlobalNet, largest", error["global"].max().item(), "<=", 1e-5)
fc_curve = curves["fc1: invariance error"]
partners = torch.stack(
    [invariance_error(x, x[other], other) for x, _ in both["global"]]
)
flat = mean("given network", error["given"], ">=", 0.2)
drop = (right["given"][:, 0] - right["given"][:, 1]).min().item()
linear = [
    bound(
        "trained fc1: invariance error, least of 3 networks",
        *("not invariant", ">=", 0.2, error["given"].mean(1).min(), nothing),
        why="0.70 in each of them",
        n=3 * n,
    ),
    bound(
        "fc1: least invariance error at any step of training",
        *("not invariant", ">=", 0.2, torch.tensor(fc_curve).min(), nothing),
        why="never below 0.69",
        n=n * len(at),
    ),
    exact(
        "GlobalNet: invariance error of the last layer",
        error["global"],
        flat,
        mean("another digit", partners, ">=", 0.5),
        tolerance=1e-5,
        why="float32: sums of up to 400 terms, four in a row, √400 · 2⁻²⁴ = 1e-6 each",
    ),
    exact(
        "GlobalNet: share right in the middle less share right moved",
        (right["global"][:, 0] - right["global"][:, 1]).abs(),
        lab.Control("given network, least", drop, ">=", 0.2),
        tolerance=2 / n,
        why="two ties broken by rounding",
        n=3 * n,
    ),
    bound(
        "GlobalNet: share right, moved, least of 3 networks",
        *("an invariant network can be good", ">=", 0.85, right["global"][:, 1].min()),
        lab.Control(
            "given network, best", right["given"][:, 1].max().item(), "<=", 0.6
        ),
        why="0.9 or more",
        n=3 * n,
    ),
    bound(
        "local pooling: invariance error at 4 px, least of 3 networks",
        *(
            "not invariant",
            ">=",
            0.3,
            error["pooled"][:, groups[3]].mean(1).min(),
            nothing,
        ),
        mean("at 1 px", error["pooled"][:, groups[0]], "<=", 0.3),
        why="at 4 px 0.7, at 1 px 0.2",
        n=3 * int(groups[3].sum()),
    ),
]

# %%
#| code-fold: true
#| code-title: "The same for your code beside lab's"
relu = gap(F.relu(maps[0]), a["conv1"])
swapped = gap(second, lab.shift(first, dx, dy))
other_seed = gap(weights[0], weights[2])
one_other = gap(fc, invariance_error(*logits, lab.derangement(n, seed=1)))
equal = {
    "tolerance": 1e-5,
    "why": "float32: sums of 729 terms in another order, √729 · 2⁻²⁴ = 1.6e-6",
}
twins = [
    bound(
        "your train and lab.fit: largest difference of weights",
        *("the same, up to rounding", "<=", 0.01, agreement["train"]),
        lab.Control("another seed", other_seed, ">=", 0.3),
        why="1e-4 with the full set",
        n=weights[0].numel(),
    ),
    exact(
        "your translate and lab.shift",
        agreement["translate"],
        lab.Control("dy and dx swapped", swapped, ">=", 0.5),
        tolerance=0.0,
        n=n,
    ),
    exact(
        "your hook and lab.activations",
        agreement["activations"],
        lab.Control("after ReLU", relu, ">=", 0.1),
        **equal,
        n=n,
    ),
    exact(
        "your equivariance_error and lab.aligned_error, another digit",
        agreement["equivariance_error"],
        lab.Control("1 px off instead", gap(one_off, unrelated), ">=", 0.1),
        **equal,
        n=n,
    ),
    exact(
        "your invariance_error and lab's",
        agreement["invariance_error"],
        lab.Control("other unrelated digits for the scale", one_other, ">=", 1e-4),
        **equal,
        n=n,
    ),
    exact(
        "fc1 with weights constant over positions: invariance error",
        by_hand_error,
        mean("weights as trained", fc, ">=", 0.2),
        tolerance=1e-12,
        why="float64: √729 · 2⁻⁵³ = 3e-15 of a sum; enough even if that sum is 300 × the distance of two digits",
        n=n,
    ),
]

# %%
#| code-fold: true
#| code-title: "The same for the other numbers of the text, and judge all"
ratio = {
    r: (fc[groups[r - 1]].mean() / fresh[groups[r - 1]].mean()).item() for r in (1, 4)
}
guess = (mnist.test.labels == favourite).double().mean().item() - by_hand
invariant = build("global", 0)
anywhere = [lab.predict(invariant, x).argmax(1) for x in (pairs.first, pairs.second)]
global_gap = right["global"][0, 0] - (anywhere[0] == pairs.labels).double().mean()
global_split = 1 - (anywhere[0] == anywhere[1]).double().mean().item()
in_place = (classes[0] == labels).double().mean().item()
others = [
    bound(
        "fc1: error at 1 px, after training over before",
        *("training lowers it for small shifts", "<=", 0.6, ratio[1]),
        lab.Control("the same at 4 px", ratio[4], ">=", 0.75),
        why="0.4 at 1 px, 0.9 at 4 px",
        n=int(groups[0].sum()),
    ),
    bound(
        "fc1 with constant weights: share of digits that it gives one name",
        *("not trained for what it sees", ">=", 0.8, says),
        lab.Control(
            "share with that name, weights as trained", says_trained, "<=", 0.3
        ),
        why="0.95 and 1.0",
        n=len(mnist.test),
    ),
    bound(
        "fitted to the sum of the map: right more often than with constant weights",
        *("invariance alone does not cost that much", ">=", 0.05, fitted - by_hand),
        lab.Control("always that name instead", abs(guess), "<=", 0.05),
        why="0.15",
        n=len(mnist.test),
    ),
    bound(
        "right on the first image: in the middle less anywhere",
        *("training saw the middle only", ">=", 0.3, in_place - theirs["right"]),
        lab.Control("GlobalNet", abs(global_gap.item()), "<=", 0.05),
        why="0.57",
        n=n,
    ),
    bound(
        "same class for both: from the middle less between two places",
        *(
            "the middle is where the network knows digits",
            ">=",
            0.02,
            agree.double().mean() - theirs["agree"],
        ),
        lab.Control("GlobalNet: pairs with two classes", global_split, "<=", 0.002),
        why="0.08",
        n=n,
    ),
]
lab.check([*convolution, *linear, *twins, *others], data=mnist, seeds=SEEDS)

# %% [markdown]
# ## Try it yourself
#
# In the [live lab](../live.md) you can drag a digit through this network, trained and untrained, with every layer in
# view.
#
# **Exercise 1.** Is the exactness of the untrained convolution luck of one seed? Test ten other untrained networks.

# %%
#| fold: "Solution 1"
#| text: >-
#|   The proof says that the weights play no part, so no seed may differ. The largest error of ten networks and 200
#|   pairs each is {{ ten.max():.2g}}; with the map moved one pixel off, the mean is {{ ten_off.mean():.2f}}.
torch.manual_seed(SEED)
nets = [Net() for _ in range(10)]
ten = torch.cat([conv_errors(net, n=200) for net in nets])
ten_off = torch.cat([conv_errors(net, n=200, off=1) for net in nets])

# %% [markdown]
# **Exercise 2.** Give the convolution a padding of one pixel of zeros, so that its output is larger than the image.
# Is the error still 0 everywhere? *Hint: what does a padded pixel hold, and what does a background pixel hold after
# normalisation?*

# %%
#| fold: "Solution 2"
#| text: >-
#|   No: the mean error is {{ everywhere.mean():.3f}}. Zero is not the background, which is −0.424 after normalisation.
#|   The padding draws a frame around the image that does not move along with the digit, so the outermost rows and
#|   columns of the map differ. Leave them out on both sides, and the largest error is {{ interior.max():.1g}}
#|   ({{ interior_off.mean():.2f}} with the map moved one pixel off). [Page 6](06_borders.py) follows this border through
#|   a whole network.
padded = copy.deepcopy(trained)
padded.conv1.padding = (1, 1)
p, q = (padded.conv1(lab.normalize(x)).detach() for x in (first, second))
inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
everywhere = lab.aligned_error(p, q, dy, dx)
interior = lab.aligned_error(p[inside], q[inside], dy, dx)
interior_off = lab.aligned_error(p[inside], q[inside], dy + 1, dx)

# %% [markdown]
# **Exercise 3.** A network that gives the same class to both members of every pair is perfectly *consistent*. Find
# out what the untrained network of seed 31 (`lab.build_model("given", seed=31)`) does, and why you should not be
# impressed. *Hint: Cohen's κ is the agreement beyond chance: 1 is perfect, 0 is what two predictors reach that ignore
# the image.*

# %%
#| fold: "Solution 3"
#| text: >-
#|   Its consistency is {{ consistent:.0%}}, its κ is {{ kappa:.0f}}. Its only map is negative for every digit, so ReLU
#|   makes all activations 0, and `fc1` gives its bias whatever it sees. The invariance error is 0/0, *not a number*:
#|   {{ undefined:,}} times in {{ len(first):,}} pairs. The layer is invariant, as every constant is, and this shows
#|   nothing about translation.
dead = lab.build_model("given", seed=31)
dead_scores = [lab.predict(dead, images) for images in (first, second)]
consistent, kappa = lab.consistency(*dead_scores), lab.cohen_kappa(*dead_scores)
undefined = int(lab.invariance_error(*dead_scores).isnan().sum())

# %%
#| code-fold: true
#| code-title: "Check the numbers of the solutions"
unpadded = lab.Control("without padding, largest", conv.max().item(), "<=", rounding)
alive = lab.cohen_kappa(*[lab.predict(trained, x) for x in (first, second)])
lab.check(
    [
        exact(
            "conv1 of ten untrained networks", ten, mean("1 px off", ten_off, ">=", 0.2)
        ),
        exact(
            "padded conv1 without its border",
            interior,
            mean("1 px off", interior_off, ">=", 0.2),
        ),
        bound(
            "padded conv1 with its border, mean",
            *("broken", ">=", 0.01, everywhere.mean(), unpadded),
            why="0.1",
            n=n,
        ),
        lab.Claim(
            "a dead network: Cohen's kappa",
            *("0: chance explains all", 0.0, kappa),
            (lab.Control("trained network", alive, ">=", 0.1),),
            kind="exact",
            n=n,
        ),
    ],
    data=mnist,
    seeds=[SEED, 31],
)

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: A friend reports that conv1 "has learned to be equivariant". Which experiment refutes it most directly?
#   choices:
#     - {text: "Train for longer, and see the error stay at 0.", why: "That fits both explanations: something learned may stay, too."}
#     - {text: "Measure the untrained network.", right: true, why: "The error is 0 before the first step, when nothing has been learned."}
#     - {text: "Measure the error with another digit.", why: "That is a control of the measure. It does not tell learned from built in."}
# - question: Your layer passes the sort test, with a distance of 0 for every pair. What do you know?
#   choices:
#     - {text: "It is equivariant.", why: "A mirrored map passes as well, and no translation makes that of the map."}
#     - {text: "Nothing at all.", why: "You know that each map holds the same values in both images. Many layers fail already here."}
#     - {text: "It may be equivariant: the values are the same, perhaps at the wrong places.", right: true, why: "Sorting forgets places. Only an aligned comparison sees them."}
# - question: When is a linear layer behind convolutions of stride 1 exactly invariant?
#   choices:
#     - {text: "When it was trained long enough.", why: "The error falls somewhat and stays far from 0: nothing in the layer or in centred digits asks for more."}
#     - {text: "When global pooling stands between them.", right: true, why: "The maximum over all positions stays the same when the map moves, and so does everything behind it."}
#     - {text: "When local pooling stands between them.", why: "That helps for small shifts. The pooled map still moves, and the linear layer sees it."}
# - question: >-
#     You replace each class's weights by their mean, without training again, and the accuracy falls to about a tenth.
#     What follows?
#   choices:
#     - {text: "Invariance costs nearly all of the accuracy.", why: "GlobalNet is invariant and classifies well. Here the weights were replaced, and nothing was fitted to them."}
#     - {text: "This network, as it is, cannot use what it now sees.", right: true, why: "It says nearly always the same digit. What an invariant network can reach is another experiment."}
#     - {text: "The layer is not invariant after all.", why: "Its error is 0 up to rounding, whatever its accuracy."}
# ```
