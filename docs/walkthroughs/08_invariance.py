# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: What a fully connected layer owes to training and what to its architecture, and a network whose output is invariant.
# ---
# # 8. Invariant outputs
#
# The second half of the exercise's sentence says: fully connected layers are invariant. Move a digit, and look at what the
# network of [page 5](05_strides.py) says about it. How much does it change, why, and can you build a network that says the same?

# %%
#| code-fold: true
#| code-title: "Load the digits, train three networks"
import copy
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import lab
from lab.plotting import COLORS, CONTROL_COLOR, CONTROL_LOOK, MARKERS

plt.rcParams["font.size"] = 12
SEED, SEEDS = 0, (0, 1, 2)
mnist = lab.load_mnist()
cache = lab.data_root() / "checkpoints"
test = mnist.test.sample(2000, seed=SEED)
some = mnist.train.sample(8_000, seed=SEED)  # as many as the embedded set has


def train(nets: list[nn.Module], split: lab.Split, **recipe) -> list[nn.Module]:
    """Copies of the networks, trained from the seeds 0, 1 and 2."""
    nets = copy.deepcopy(nets)
    for net, seed in zip(nets, SEEDS, strict=True):
        chosen = replace(lab.RECIPES["pooled"], seed=seed, **recipe)
        lab.fit(net, split, chosen, cache=cache)
    return nets


untrained = [lab.build_model("pooled", seed=seed) for seed in SEEDS]
trained = train(untrained, mnist.train)

# %%
#| code-fold: true
#| code-title: "Choose digits with room to move, draw one and its scores"
#| alt: >-
#|   Above, a digit where it was, and moved by 2 and by 4 pixels to the right. Below, bars: the probability of each class. They differ
#|   from place to place; at 4 pixels another class has the highest bar.
#| caption: >-
#|   What a trained network says about one digit at three places. This digit was chosen because the network changes its mind at 4 px.
room = lab.ink_margins(mnist.test.images)
fits = (room.left >= 4) & (room.right >= 6)  # columns 26 and 27 are not seen
keep = fits.nonzero()[:400, 0]
digits, labels = mnist.test.images[keep], mnist.test.labels[keep]
views = [lab.shift(digits, 0, t) for t in range(-4, 5)]  # views[4]: where they were
said = [lab.predict(trained[0], views[i]).softmax(1) for i in (4, 6, 8)]
right = [p.argmax(1) == labels for p in said]
one = (right[0] & ~right[2]).nonzero()[0, 0]
figure, grid = plt.subplots(2, 3, figsize=(6.2, 4.2), layout="constrained")
for axes, t, p in zip(grid.T, (0, 2, 4), said, strict=True):
    axes[0].imshow(views[4 + t][one, 0], cmap="gray_r")
    axes[0].set(title=f"moved by {t} px" if t else "in place", xticks=[], yticks=[])
    axes[1].bar(range(10), p[one], color=COLORS[0])
    axes[1].set(ylim=(0, 1), xticks=range(10), yticks=[0, 0.5, 1], xlabel="class")
grid[1, 0].set_ylabel("probability")

# %% [markdown]
# !!! abstract "After this page you can"
#
#     - say which weights make a linear layer invariant, and at which shifts;
#     - tell what training adds, and what the training digits have to do with it;
#     - say what pooling does for invariance;
#     - build an invariant network, and name its price.
#
# ## Which weights would make `fc1` invariant?
#
# `pool2` has 32 channels of 5 × 5 positions. `flatten` lines them up as 800 numbers, and `fc1` gives each a weight of its
# own. Its outputs have no positions: all that you can ask of it is
# [*invariance*](../glossary.md#invariance).
#
# **Theorem.** *Let the map in front of a linear layer be circular, and let it move along exactly. The layer is invariant to
# all these moves, whatever the map holds, if and only if each output gives all positions of a channel the same weight.*
#
# *Proof.* With equal weights an output is a sum over positions, and a sum does not depend on the order. Conversely, take a
# map of zeros with a single 1, in channel $c$ at position $p$. An output is then $w_{c,p} + b$; after a move to position
# $q$ it is $w_{c,q} + b$. Invariance asks for $w_{c,p} = w_{c,q}$. ∎
#
# Mind the conditions: the map must move along exactly, and no feature may leave it. How near do trained weights come to
# constant ones? Let $\Pi$ replace each weight by the mean over the positions of its channel:
#
# $$\rho = \norm{\Pi W}^2 / \norm{W}^2$$
#
# Constant weights have $\rho = 1$. Independent random weights of mean 0, such as those before training, have $\rho = 1/25$ on
# average: the mean of 25 of them has a 25th of their variance.
#
# ```predict
# id: invariance-rho
# question: What is $\rho$ of `fc1` after training?
# choices:
#   - near 1, since training on digits makes the layer invariant
#   - between 0.3 and 0.8
#   - more than before training, and below 0.3
#   - 1/25, as before training
# ```


# %%
def averaged(net: lab.PooledCNN) -> torch.Tensor:
    """ΠW: the weights of `fc1`, averaged over the positions of each channel."""
    weight = net.fc1.weight.detach().unflatten(1, (32, -1))  # 64 outputs, 32 channels
    return weight.mean(2, keepdim=True).expand_as(weight).flatten(1)


def rho(net: lab.PooledCNN) -> float:
    """The share of the weights of `fc1` that is constant over positions."""
    return (averaged(net).square().sum() / net.fc1.weight.square().sum()).item()


rho_trained, rho_untrained = (
    torch.tensor([rho(net) for net in nets]) for nets in (trained, untrained)
)

# %% [markdown]
# Mean ± standard deviation of three networks: trained {{ rho_trained.mean():.3f}} ± {{ rho_trained.std():.3f}}, untrained
# {{ rho_untrained.mean():.3f}} ± {{ rho_untrained.std():.3f}}.

# %% [markdown]
# ```observed
# id: invariance-rho
# right: "{{ 1 if rho_trained.mean() > 0.8 else 2 if rho_trained.mean() > 0.3 else 3 if rho_trained.min() > rho_untrained.max() else 4 }}"
# value: "{{ rho_trained.mean():.3f}}"
# reason: |
#   Training raises $\rho$, but the weights stay far from constant. Nothing in the task asks for constant weights: where a
#   stroke is helps to tell digits apart (exercise 1).
# ```

# %% [markdown]
# Now put $\Pi W$ in the place of $W$. Pad and shift circularly, so that no feature leaves: the trained convolutions fit in,
# and the 5 × 5 weights get a rim of zeros for 7 × 7 positions.
#
# ```predict
# id: invariance-circle
# question: At which circular shifts are the outputs of $\Pi W$ the same as without a shift?
# choices:
#   - at all of them
#   - at even ones
#   - at multiples of 4 px
# ```


# %%
def on_circle(net: lab.PooledCNN, *, average: bool) -> lab.PooledCNN:
    """The network with circular padding, in float64; with W, or with ΠW."""
    circular = lab.PooledCNN(padding=1, padding_mode="circular").double().eval()
    weight = net.fc1.weight.detach().unflatten(1, (32, 5, 5))
    rim = {"fc1.weight": F.pad(weight, (1, 1, 1, 1)).flatten(1)}
    circular.load_state_dict(net.state_dict() | rim)
    if average:
        circular.fc1.weight.data = averaged(circular)
    return circular


def wrapped(net: lab.PooledCNN, t: int) -> float:
    """Mean invariance error of `fc1` for 100 digits, wrapped by `t` px."""
    x = lab.normalize(digits[:100].double())
    views = x, lab.shift(x, 0, t, mode="wrap")
    a, b = (lab.activations(net, view, ["fc1"])["fc1"] for view in views)
    return lab.invariance_error(a, b).mean().item()


# %%
both_w = {"W": False, "ΠW": True}
circles = {k: [on_circle(n, average=pi) for n in trained] for k, pi in both_w.items()}


def of_each(measure) -> dict[str, torch.Tensor]:
    """W, ΠW -> what is measured of the three networks."""
    return {k: torch.tensor([measure(n) for n in nets]) for k, nets in circles.items()}


wraps = of_each(lambda net: [wrapped(net, t) for t in range(5)])
hits = of_each(lambda net: lab.evaluate(net.float(), test).accuracy)
w, pi = (errors.mean(0) for errors in wraps.values())

# %% [markdown]
# | `fc1` on a circle | 1 px | 2 px | 3 px | 4 px | accuracy of the network |
# |---|---|---|---|---|---|
# | W | {{ w[1]:.2f}} | {{ w[2]:.2f}} | {{ w[3]:.2f}} | {{ w[4]:.2f}} | {{ hits["W"].mean():.1%}} ± {{ hits["W"].std():.1%}} |
# | ΠW | {{ pi[1]:.2f}} | {{ pi[2]:.2f}} | {{ pi[3]:.2f}} | {{ pi[4]:.0g}} | {{ hits["ΠW"].mean():.1%}} ± {{ hits["ΠW"].std():.1%}} |
#
# [Invariance error](../glossary.md#invariance): 0 is invariant, 1 as different as another digit. Mean of three networks.

# %% [markdown]
# ```observed
# id: invariance-circle
# right: "{{ 3 if pi[4] < 1e-12 < pi[2] else 2 if pi[2] < 1e-12 < pi[1] else 1 }}"
# reason: |
#   `pool2` moves along exactly at multiples of its total stride $S = 4$. There the error is the rounding of float64. At 1 px
#   constant weights still have {{ pi[1]:.2f}}, trained ones {{ w[1]:.2f}}: the map did not move along, and the theorem
#   promises nothing. The accuracy falls, since the layers behind were trained for $W$: that is the price of *replacing*
#   weights, not of invariance.
# ```

# %% [markdown]
# ## How invariant is `fc1` on digits?
#
# On digits, which are all that it ever sees, the layer might still behave as if its weights were constant. Take
# {{ len(digits)}} digits whose ink stays inside the 26 columns that the network sees, from 4 px left to 4 px right.
#
# ```predict
# id: invariance-4px
# question: At 4 px, `pool2` moves along exactly. How large is the error of `fc1` there?
# choices:
#   - 0, since its input is exact
#   - smaller than at 3 px, since 3 px is off the stride
#   - larger than at 3 px
# ```


# %%
mate = lab.derangement(len(digits), seed=1)  # pairs each digit with another one


def follow(net: nn.Module) -> torch.Tensor:
    """At 9 shifts: invariance error of fc1, of fc2, κ, error of fc1 for another digit."""
    seen = [lab.activations(net, lab.normalize(v), ["fc1", "fc2"]) for v in views]
    (f, g), rows = seen[4].values(), []  # in place
    for a, b in (each.values() for each in seen):
        pairs = (f, a), (g, b), (f, a[mate])
        own, scores, other = (lab.invariance_error(*p).mean().item() for p in pairs)
        rows.append([own, scores, lab.cohen_kappa(g, b), other])
    return torch.tensor(rows).T


def all_of(nets: list[nn.Module]) -> torch.Tensor:
    return torch.stack([follow(net) for net in nets])  # network, quantity, shift


found = {"trained": all_of(trained), "untrained": all_of(untrained)}


# %%
def told(values: torch.Tensor) -> str:
    """Mean ± standard deviation of the networks at 1 to 4 px right, as cells of a table."""
    pairs = zip(values[:, 5:].mean(0), values[:, 5:].std(0), strict=True)
    return " | ".join(f"{mean:.2f} ± {std:.2f}" for mean, std in pairs)


fc1, fc1_untrained = (found[kind][:, 0] for kind in ("trained", "untrained"))
near, far = [3, 5], [0, 8]  # 1 px and 4 px, left and right
other, other_untrained = (found[kind][:, 3] for kind in ("trained", "untrained"))

# %% [markdown]
# | invariance error | 1 px | 2 px | 3 px | 4 px |
# |---|---|---|---|---|
# | fc1, trained | {{ told(fc1)}} |
# | fc1, untrained | {{ told(fc1_untrained)}} |
#
# Mean ± standard deviation of three networks. Another digit, moved by 4 px, scores {{ other[:, far].mean():.2f}}.

# %% [markdown]
# ```observed
# id: invariance-4px
# right: "{{ 3 if fc1[:, 8].mean() > fc1[:, 7].mean() else 2 if fc1[:, 8].mean() > 1e-3 else 1 }}"
# value: "{{ fc1[:, 8].mean():.2f}} at 4 px, {{ fc1[:, 7].mean():.2f}} at 3 px"
# reason: |
#   At 4 px each feature meets another weight, however exactly it moved. Training brings the error at 1 px down to
#   {{ fc1[:, near].mean() / fc1_untrained[:, near].mean():.0%}} of the untrained one. This is *learned* invariance: approximate, and fading within a few pixels.
# ```

# %% [markdown]
# ## What training digits teach
#
# Two images can have different scores and the same class. [*Consistency*](../glossary.md#consistency) is the share of digits
# that keep their class. A network that always says 1 has consistency 1 and knows nothing, so count the agreement beyond
# chance, [Cohen's κ](../glossary.md#cohens-kappa): 1 means always the same class; 0 means no more agreement than if
# the classes of one view were shuffled among the digits.
#
# Trained networks have κ = {{ found["trained"][:, 2, near].mean():.3f}} at 1 px and {{ found["trained"][:, 2, far].mean():.2f}} at 4 px; untrained ones {{ found["untrained"][:, 2, near].mean():.2f}} at 1 px. Why does it fade?
# MNIST's digits are centred; perhaps training never asked for more. Test it: train on {{ len(some):,}} digits as they are, and
# on the same digits, each moved at random by up to 4 px in each direction. All else is equal.
#
# ```predict
# id: invariance-moved
# question: Does training on moved digits raise κ at 4 px?
# choices:
#   - no, since the architecture is the same
#   - yes, but it stays below 1
#   - yes, to 1 exactly
# ```

# %%
generator = torch.Generator().manual_seed(SEED)
dy, dx = torch.randint(-4, 5, (2, len(some)), generator=generator)
moved = lab.Split(lab.shift(some.images, dy, dx), some.labels)
short = {
    "digits in place": train(untrained, some, epochs=1),
    "digits moved": train(untrained, moved, epochs=1),
}
found |= {name: all_of(nets) for name, nets in short.items()}

# %%
#| code-fold: true
#| code-title: "Draw κ against the shift"
#| alt: >-
#|   Kappa against the shift from -4 to 4 pixels. Trained on digits in place, it falls steeply beyond one pixel on both
#|   sides; trained on moved digits, it stays high everywhere; untrained, it falls at once.
#| caption: >-
#|   Agreement beyond chance with the classes in place; mean and standard deviation of three networks. Same architecture, same digits:
#|   what the training shows decides what is tolerated.
figure, axes = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
names = ("digits moved", "digits in place", "untrained")
for i, name in enumerate(names):
    kappa = found[name][:, 2]
    label = name if name == "untrained" else f"trained, {name}"
    look = {"color": COLORS[i], "marker": MARKERS[i], "capsize": 3, "label": label}
    axes.errorbar(range(-4, 5), kappa.mean(0), kappa.std(0), **look)
axes.set(xlabel="shift to the right (px)", ylabel="κ", ylim=(-0.05, 1.05))
figure.legend(loc="outside lower center", ncols=2)

# %%
kappa_moved, kappa_still = (found[n][:, 2, far].mean(1) for n in names[:2])
gain = kappa_moved - kappa_still
gain_near = (found[names[0]][:, 2, near] - found[names[1]][:, 2, near]).mean()
error_moved, error_still = (found[n][:, 0, far].mean() for n in names[:2])

# %% [markdown]
# ```observed
# id: invariance-moved
# right: "{{ 1 if gain.mean() < 0.05 else 2 if kappa_moved.max() < 1 else 3 }}"
# value: "{{ kappa_still.mean():.2f}} → {{ kappa_moved.mean():.2f}}"
# reason: |
#   Nothing else was changed, so the training digits are a cause. It is the classes that hold: the error of `fc1` at 4 px is
#   {{ error_moved:.2f}}, not 0, and was {{ error_still:.2f}} after training in place.
# ```

# %% [markdown]
# [Azulay and Weiss 2019](../references.md#azulay2019) find the same in large networks: what is learned holds near the
# training data. [Biscione and Bowers 2021](../references.md#biscione2021) show objects all over the canvas, and get
# tolerance all over it.
#
# ## Does pooling give invariance?
#
# The maximum over a window does not depend on where in the window it stands. So pool the 28 × 28 map of one circular
# convolution with larger and larger windows, up to the whole map, and measure the invariance error of what comes out.
#
# ```predict
# id: invariance-window
# question: The digit moves by 1 px. Which is the smallest window for which the error is below a tenth of that of another digit?
# choices:
#   - 2 × 2
#   - 4 × 4
#   - 14 × 14
#   - only the whole map
# ```

# %%
WINDOWS = (1, 2, 4, 7, 14, 28)


@torch.no_grad()
def pooled_errors(pool) -> torch.Tensor:
    """Invariance error: 3 networks, moves of 1 and 4 px, 6 windows, 400 digits."""
    views = [lab.shift(digits, 0, t, mode="wrap") for t in (0, 1, 4)]
    found = []
    for net in circles["W"]:
        a, *moved = (F.relu(net.conv1(lab.normalize(x))) for x in views)
        pairs = [(pool(a, w), pool(b, w)) for b in moved for w in WINDOWS]
        found += [lab.invariance_error(*pair) for pair in pairs]
    return torch.stack(found).unflatten(0, (3, 2, 6))


maxima, averages = pooled_errors(F.max_pool2d), pooled_errors(F.avg_pool2d)
by_window = maxima.mean(-1)  # network, shift, window

# %%
#| code-fold: true
#| code-title: "Draw the error against the pooling window"
#| alt: >-
#|   Invariance error against the pooling window, at 1 and 4 pixels. At 1 pixel it falls slowly from no pooling to 14 by 14;
#|   at 4 pixels it stays about 1. For the window of 28 by 28, the whole map, it is 0 for both.
#| caption: >-
#|   Invariance error of a pooled map, against the window; mean of three networks. Local pooling takes the edge off a
#|   move by 1 px and does nothing against 4 px. Global pooling makes both 0.
figure, axes = plt.subplots(figsize=(6.2, 4.4), layout="constrained")
for i in range(2):
    for pooled, name, style in ((maxima, "maximum", "-"), (averages, "average", "--")):
        mean, label = pooled[:, i].mean((0, -1)), f"{name}, {(1, 4)[i]} px"
        look = {"color": COLORS[i], "marker": MARKERS[i], "ls": style, "label": label}
        axes.plot(range(6), mean, clip_on=False, **look)
axes.axhline(1, color=CONTROL_COLOR, linestyle="-.", label="another digit")
axes.set_xticks(range(6), ["none", "2×2", "4×4", "7×7", "14×14", "global"])
axes.set(xlabel="pooling window", ylabel="invariance error", ylim=(0, 1.3))
figure.legend(loc="outside lower center", ncols=2)

# %%
local, whole, mean_pool = by_window[..., :-1], maxima[:, :, -1], averages[:, :, -1]

# %% [markdown]
# Local pooling tolerates a fraction of its window. How much that helps depends on the images
# ([Mouton et al. 2020](../references.md#mouton2020)). *Global* pooling behind an equivariant layer is invariant, and so is all that
# follows, linear layers included: in *that* network the exercise's sentence is right. The maximum is exact{{ ", to the last bit" if whole.max() == 0 else "" }}; a
# global average adds the same numbers in another order, and its largest error is {{ mean_pool.max():.1g}}.

# %% [markdown]
# ```observed
# id: invariance-window
# right: "{{ next((k for k, i in ((1, 1), (2, 2), (3, 4)) if by_window[:, 0, i].mean() < 0.1), 4) }}"
# value: "{{ by_window[:, 0, 4].mean():.2f}} with 14 × 14, {{ whole.max():.1g}} with the whole map"
# reason: |
#   A digit that moves crosses the borders of the windows, and each window that a stroke enters or leaves changes. At 4 px the
#   maps of the 2 × 2 and 4 × 4 windows move along exactly: equivariant, and *therefore* not invariant. Only a window
#   without a border has nothing to cross.
# ```

# %% [markdown]
# ## An invariant network that works
#
# Circular convolutions without strides, one global maximum, one linear layer: nothing in it can tell where the digit is.


# %%
def invariant_network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    circular = partial(nn.Conv2d, kernel_size=5, padding=2, padding_mode="circular")
    layers = [circular(1, 8), nn.ReLU(), circular(8, 16), nn.ReLU()]
    layers += [circular(16, 32), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32, 10)).eval()


# %% [markdown]
# Train it for one epoch, on the {{ len(some):,}} digits in place from above.
#
# ```predict
# id: invariance-accuracy
# question: What is its accuracy on test digits that are moved by up to 4 px in each direction?
# number: {unit: "%", places: 0}
# ```

# %%
fresh = [invariant_network(seed) for seed in SEEDS]
recipe = {"epochs": 1, "batch_size": 16, "learning_rate": 0.02, "weight_decay": 0.0}
heads = short | {"global": train(fresh, some, **recipe)}
roomy = room.fits(4, 4) & room.fits(-4, -4)
place = lab.Split(mnist.test.images[roomy][:1000], mnist.test.labels[roomy][:1000])
dy, dx = torch.randint(-4, 5, (2, len(place)), generator=generator)
away = lab.Split(lab.shift(place.images, dy, dx), place.labels)
accuracy = {
    name: torch.tensor(
        [[lab.evaluate(n, s).accuracy for n in nets] for s in (place, away)]
    )
    for name, nets in heads.items()
}


# %%
def wrapped_far(net: nn.Module, layer: str) -> torch.Tensor:
    """Invariance error of a layer, 100 digits at 4 places all over the circle."""
    x, by = digits[:100], ((0, 1), (5, -7), (-3, 12), (14, 14))
    views = x, *(lab.shift(x, *t, mode="wrap") for t in by)
    a, *moved = (lab.activations(net, lab.normalize(v), [layer])[layer] for v in views)
    return torch.stack([lab.invariance_error(a, b) for b in moved])


def multiply_adds(net: nn.Module) -> int:
    """For one image: weights times positions, of all layers that have weights."""
    ran = lab.activations(net, lab.normalize(digits[:1]))
    layers = ((n, m) for n, m in net.named_modules() if hasattr(m, "weight"))
    return sum(m.weight.numel() * ran[n][0, 0].numel() for n, m in layers)


# %%
logits = torch.stack([wrapped_far(net, "8") for net in heads["global"]])
unpooled = torch.stack([wrapped_far(net, "5") for net in heads["global"]])
cost = {name: multiply_adds(nets[0]) for name, nets in heads.items()}


def both(name: str) -> str:
    """Accuracy in place and moved, mean ± standard deviation of the networks."""
    return " | ".join(f"{a.mean():.1%} ± {a.std():.1%}" for a in accuracy[name])


# %% [markdown]
# | head, and training digits | accuracy in place | moved by up to 4 px | multiply-adds an image |
# |---|---|---|---|
# | flatten, in place | {{ both("digits in place")}} | {{ cost["digits in place"]:,}} |
# | flatten, moved | {{ both("digits moved")}} | {{ cost["digits moved"]:,}} |
# | global maximum, in place | {{ both("global")}} | {{ cost["global"]:,}} |
#
# {{ len(place):,}} test digits with room to move; mean ± standard deviation of three networks each.

# %% [markdown]
# ```observed
# id: invariance-accuracy
# value: "{{ 100 * accuracy["global"][1].mean():.1f}}"
# within: 5
# reason: |
#   It is the accuracy in place, since no score changes: the largest invariance error, all over the circle, is {{ logits.max():.1g}}. That of
#   the map before the maximum is {{ unpooled.mean():.2f}}. The maximum tells *whether* a feature occurs, which is enough for most digits.
# ```

# %% [markdown]
# The price: it computes {{ cost["global"] / cost["digits in place"]:.0f}} times as much, since it never subsamples and has larger kernels. It cannot know where a feature is, nor how features
# further apart than its receptive field, 13 px, are arranged. And only *circular* moves are safe: ink that leaves the
# frame is lost.
#
# ## What you should have seen
#
# A linear layer behind `flatten` is not invariant, trained or not. Training gives it a tolerance for the moves that the
# training digits show. Invariance for every image has to be built: equivariant layers, then global pooling.

# %%
#| label: answer
#| alt: >-
#|   Error against the shift from -4 to 4 pixels. Above: conv1 is zero everywhere, pool1 and conv2 are zero at even
#|   shifts, pool2 at -4, 0 and 4, and all are large in between. Below: fc1 and fc2 are zero only at shift 0.
#| caption: >-
#|   How far each layer of a CNN is from equivariant or invariant when the digit moves; mean of three networks. Above, trained layers that keep
#|   positions: exactly equivariant (filled marker, 0) where their total stride S divides the shift, broken in between.
#|   Below, linear layers behind `flatten`: invariant at no shift but 0; training (solid) only makes them more tolerant.
#| code-fold: true
#| code-title: "Draw the answer in one figure"
steps, zero = range(-4, 5), torch.zeros(64, dtype=torch.int64)
ran = [[lab.activations(n, lab.normalize(v[:64])) for v in views] for n in trained]


def aligned(layer: str, order=slice(None)) -> torch.Tensor:
    """Mean error of 64 digits and three networks, 9 shifts."""
    s, each = lab.PooledCNN.STRIDES[layer], [[a[layer] for a in run] for run in ran]
    moves = [(a[4][order], a[4 + t], zero, zero + t, s) for t in steps for a in each]
    errors = torch.tensor([lab.best_aligned_error(*move).mean() for move in moves])
    return errors.unflatten(0, (9, 3)).mean(1)


figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 7.4), sharex=True)
marked, control = [], aligned("pool2", lab.derangement(64, seed=1))
for i, layer in enumerate(("conv1", "pool1", "conv2", "pool2")):
    s, mean = lab.PooledCNN.STRIDES[layer], aligned(layer)
    look = {"color": COLORS[i], "marker": MARKERS[i], "markersize": 12 - 2 * i}
    name = f"{layer}, S = {s}"
    top.plot(steps, mean, label=name, mfc="none", clip_on=False, **look)
    on = [t for t in steps if t % s == 0]
    marked += [mean[t + 4] for t in on]
    top.plot(on, mean[[t + 4 for t in on]], ls="", clip_on=False, zorder=3, **look)
top.plot(steps, control, label="pool2, another digit", **CONTROL_LOOK)
for k in range(4):
    layer, kind = ("fc1", "fc2")[k // 2], ("trained", "untrained")[k % 2]
    look = {
        "color": COLORS[4 + k // 2],
        "marker": MARKERS[4 + k // 2],
        "ls": ("-", "--")[k % 2],
    }
    mean = found[kind][:, k // 2].mean(0)
    bottom.plot(steps, mean, label=f"{layer}, {kind}", clip_on=False, **look)
bottom.axhline(1, color=CONTROL_COLOR, linestyle="-.", label="another digit")
top.set_title("Equivariant? Exactly, where S divides the shift", loc="left")
bottom.set_title("Invariant? Linear layers are not", loc="left")
top.set(ylabel="equivariance error", ylim=(0, None))
bottom.set(ylabel="invariance error", ylim=(0, None), xticks=steps)
bottom.set_xlabel("shift of the digit to the right (px)")
top.legend(loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=2)
bottom.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)

# %% [markdown]
# ## Theory and observation


# %%
#| code-fold: true
#| code-title: "Compare theory and observation"
# fmt: off
FLOAT32 = "float32: sums of k ≤ 784 terms in another order differ by about √k · 2⁻²⁴ ≤ 1.7e-6 of their size"


def exact(name, observed, n, *controls, tolerance=2e-6, why=FLOAT32) -> lab.Claim:
    return lab.Claim(name, "exact", 0, observed, controls, "==", tolerance, why, kind="exact", n=n)


def empirical(name, theory, relation, bound, observed, why, n, *controls) -> lab.Claim:
    return lab.Claim(name, theory, bound, observed, controls, relation, 0, why, kind="empirical", n=n)


kappas = {(kind, t): found[kind][:, 2, at].mean().item() for kind in found for t, at in ((1, near), (4, far))}
at_1 = (fc1[:, near].mean() / fc1_untrained[:, near].mean()).item()
drop = {name: (a[0] - a[1]).abs().max().item() for name, a in accuracy.items()}
global_max, pi_4, n = whole.max().item(), wraps["ΠW"][:, 4].max().item(), 2 * len(SEEDS) * len(digits)
nearly_global = lab.Control("14 × 14, 1 px, mean", by_window[:, 0, 4].mean().item(), ">=", 0.1)
trained_1 = lab.Control("trained, 1 px", kappas["trained", 1], ">=", 0.85)
lab.check([
    empirical("ρ of fc1, trained over untrained, smallest", "learned in part", ">=", 1.2,
              (rho_trained / rho_untrained).min().item(), "without learning it is 1; a pilot on three seeds gave 1.67, and 1.48 on the embedded digits", 3,
              lab.Control("untrained over 1/25, largest", 25 * rho_untrained.max().item(), "<=", 1.2),
              lab.Control("ρ trained, largest", rho_trained.max().item(), "<=", 0.25)),
    exact("fc1 with ΠW, circular, 4 px: invariance error", pi_4, 300,
          lab.Control("1 px", pi[1].item(), ">=", 0.01), lab.Control("W instead of ΠW", w[4].item(), ">=", 0.2),
          tolerance=1e-12, why="float64: √1568 · 2⁻⁵³ = 4e-15 of the outputs' size, which may be 100 × their spread"),
    empirical("trained fc1: invariance error at 4 px", "not invariant, for ρ < 1", ">=", 0.2, fc1[:, far].mean().item(),
              "a fifth of the distance to another digit; a pilot on three seeds gave 0.62", n,
              lab.Control("another digit, moved", other[:, far].mean().item(), ">=", 0.5), lab.Control("with ΠW, circular", pi_4, "<=", 1e-12)),
    empirical("fc1 at 1 px: invariance error, trained over untrained", "learned in part", "<=", 0.5, at_1,
              "half as large or less; a pilot on three seeds gave 0.37", n,
              lab.Control("another digit, moved", (other / other_untrained)[:, near].mean().item(), ">=", 0.8)),
    empirical("κ of the trained predictions at 1 px", "no promise; training may help", ">=", 0.85,
              kappas["trained", 1], "a pilot on three seeds gave 0.985", n,
              lab.Control("untrained, 1 px", kappas["untrained", 1], "<=", 0.7),
              lab.Control("trained, 4 px", kappas["trained", 4], "<=", 0.8)),
    empirical("κ of the trained predictions at 4 px", "no promise", "<=", 0.8,
              kappas["trained", 4], "a pilot on three seeds gave 0.52", n, trained_1),
    empirical("κ of the untrained predictions at 1 px", "no promise", "<=", 0.7,
              kappas["untrained", 1], "a pilot on three seeds gave 0.36", n, trained_1),
    empirical("κ at 4 px, trained on moved digits less on digits in place, smallest", "what training shows matters", ">=", 0.1,
              gain.min().item(), "without an effect it is 0; a pilot on three seeds and 16,000 digits gave 0.49", 3,
              lab.Control("at 1 px, mean", gain_near.item(), "<=", 0.05)),
    exact("figure: largest mean equivariance error of conv1 to pool2 where S divides the shift", torch.stack(marked).max().item(),
          len(marked) * len(SEEDS) * 64, lab.Control("pool2, another digit", control.min().item(), ">=", 0.3)),
    exact("global maximum of a circular conv map, 1 and 4 px: largest invariance error", global_max, whole.numel(), nearly_global),
    empirical("maximum over 2 × 2 to 14 × 14, 1 and 4 px: smallest mean invariance error", "not invariant", ">=", 0.1,
              local.min().item(), "a tenth of the distance to another digit; a pilot on three seeds gave 0.32",
              local.numel() * len(digits), lab.Control("global, largest", global_max, "<=", 2e-6)),
    exact("global average of a circular conv map, 1 and 4 px: largest invariance error", mean_pool.max().item(),
          mean_pool.numel(), nearly_global),
    exact("invariant network, all over the circle: largest invariance error of its scores", logits.max().item(), logits.numel(),
          lab.Control("its map before the maximum, mean", unpooled.mean().item(), ">=", 0.5)),
    exact("invariant network: accuracy in place less that on moved digits, largest", drop["global"], 3 * len(place),
          lab.Control("flatten, trained in place", drop["digits in place"], ">=", 0.1),
          tolerance=1 / len(place), why="one digit, should its two best scores be equal up to rounding"),
    empirical("invariant network: accuracy on moved digits, smallest", "invariance leaves most digits told apart", ">=", 0.8,
              accuracy["global"][1].min().item(), "a pilot on three seeds and 16,000 digits gave 0.954", 3 * len(place),
              lab.Control("flatten, trained in place, largest", accuracy["digits in place"][1].max().item(), "<=", 0.8)),
], data=mnist, seeds=SEEDS)
# fmt: on

# %% [markdown]
# ## Try it yourself
#
# **Exercise 1.** ΠW cost the trained networks most of their accuracy. Keep their convolutions, and fit a new linear head to
# the means of `pool2` over positions, by least squares on 4,000 training digits. How much comes back?
#
# **Exercise 2.** Put a global maximum behind `pool2` of the circular network, strides and all. At which circular shifts is its
# output invariant?


# %%
#| fold: "Solution 1"
#| text: >-
#|   Much of it: 32 means know which strokes there are, and nothing of where they are. Most of what ΠW lost was lost
#|   because nothing was trained for it.
def position_means(net: nn.Module, split: lab.Split) -> torch.Tensor:
    """The mean of each channel of `pool2`, and a 1 for the bias."""
    maps = lab.activations(net, lab.normalize(split.images), ["pool2"])["pool2"]
    return F.pad(maps.mean((2, 3)), (0, 1), value=1.0)


few = mnist.train.sample(4000, seed=SEED)
targets = F.one_hot(few.labels, 10).float()
new = []
for net in trained:
    head = torch.linalg.lstsq(position_means(net, few), targets).solution  # 33 × 10
    right = (position_means(net, test) @ head).argmax(1) == test.labels
    new.append(right.double().mean())
new = torch.stack(new)


# %%
#| fold: "Solution 2"
#| text: >-
#|   At the even ones, not only at multiples of 4. At 2 px `pool2` does not move along, but the maximum of the maxima of
#|   all its windows is the maximum of all of `relu2`: the stride of the last pooling drops out, and `relu2` has S = 2.
def global_maximum(net: nn.Module, t: int) -> torch.Tensor:
    """Invariance error of the global maximum of `pool2`, 100 digits."""
    x = digits[:100], lab.shift(digits[:100], 0, t, mode="wrap")
    a, b = (lab.activations(net, lab.normalize(v), ["pool2"])["pool2"] for v in x)
    return lab.invariance_error(a.amax((2, 3)), b.amax((2, 3)))


strided = torch.stack(
    [torch.stack([global_maximum(n, t) for n in circles["W"]]) for t in range(1, 5)]
)

# %%
#| code-fold: true
#| code-title: "Compare theory and observation in the solutions"
# fmt: off
lab.check([
    empirical("new head on the means of pool2: accuracy less that of ΠW, smallest", "not trained again is not the same as invariant",
              ">=", 0.2, (new - hits["ΠW"]).min().item(), "a pilot on three seeds gave 0.56", 3 * len(test),
              lab.Control("less that of W, largest", (new - hits["W"]).max().item(), "<=", 0)),
    exact("global maximum of pool2, circular, 2 and 4 px: largest invariance error", strided[1::2].max().item(), 600,
          lab.Control("1 and 3 px, smallest mean", strided[::2].mean((1, 2)).min().item(), ">=", 0.05)),
], data=mnist, seeds=SEEDS)
# fmt: on

# %% [markdown]
# Accuracy: {{ new.mean():.1%}} ± {{ new.std():.1%}} with the new head, {{ hits["ΠW"].mean():.1%}} with ΠW, {{ hits["W"].mean():.1%}} with W. Global maximum of `pool2` at 1,
# 2, 3 and 4 px: {{ strided[0].mean():.2f}}, {{ strided[1].mean():.1g}}, {{ strided[2].mean():.2f}} and {{ strided[3].mean():.1g}}.
#
# ## Questions
#
# ```quiz
# - question: A linear layer behind `flatten` has the same weight at all positions of each channel. When is it certain not to notice a move?
#   choices:
#     - {text: "always", why: "The map must move along exactly, which takes a multiple of the total stride, and no feature may leave it."}
#     - {text: "at multiples of the total stride, if no feature leaves the map", right: true, why: "Then the same numbers are added, in another order."}
#     - {text: "never, since it was not trained to", why: "The theorem holds for any weights that are equal over positions, trained or not."}
# - question: You put a global average behind a network with total stride 32. Is its output invariant to translation now?
#   choices:
#     - {text: "yes, global pooling sees no positions", why: "But the values that it averages change where the map does not move along exactly."}
#     - {text: "to multiples of 32 px, on a circle that 32 divides", right: true, why: "There the map moves along exactly. At other shifts nothing is guaranteed."}
#     - {text: "no, only a global maximum is", why: "A sum does not notice the order of its terms either, up to rounding."}
# - question: You trained on moved digits, and κ at 4 px is high now. Is the network invariant to moves of 4 px?
#   choices:
#     - {text: "yes, the classes agree", why: "The scores did change. Most digits kept their class all the same."}
#     - {text: "no, but its convolutions are", why: "Convolutions move their output along: they are equivariant."}
#     - {text: "no, it became tolerant on digits like those of the training", right: true, why: "The error of `fc1` is not 0, and nothing is known about other images."}
# ```
