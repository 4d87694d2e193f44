# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: What padding breaks, how far inside it is felt, and whether a network can use the border to tell where things are.
# ---
# # 6. Borders, rings, and where position comes from
#
# A convolution is equivariant on a plane without end. Images end. At the edge, a layer either invents values or stops.
# You measure what each choice breaks, how far inside it is felt, and whether a network can use it to tell *where*
# things are. Two well-known papers seem to disagree about that; you repeat both experiments at a small size.

# %%
#| code-fold: true
#| code-title: "Load the data, draw the paddings"
#| alt: >-
#|   Four pictures of the same small texture, continued beyond its edge by 8 pixels: with gray zeros, with stripes of
#|   the repeated edge pixels, with its mirror image, and with its opposite side.
#| caption: >-
#|   The same 28 × 28 texture (inside the dashed frame) and what four kinds of padding put around it, here 8 px wide:
#|   zeros, copies of the pixel at the edge (*replicate*), the mirror image (*reflect*), the opposite side (*circular*).
from collections import OrderedDict
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import lab
from lab.plotting import COLORS, CONTROL_COLOR, CONTROL_LOOK

SEED = 0
SEEDS = (SEED, SEED + 1, SEED + 2)
PADDINGS = ("none", "zeros", "replicate", "reflect", "circular")
mnist = lab.load_mnist()
wide = lab.fractal_images(64, (28, 32), channels=1, seed=SEED)
figure, grid = plt.subplots(2, 2, figsize=(5, 5.2), layout="constrained")
for axes, kind in zip(grid.flat, PADDINGS[1:], strict=True):
    around = F.pad(wide[:1, :, :, 4:], (8, 8, 8, 8), kind.replace("zeros", "constant"))
    axes.imshow(around[0, 0], cmap="gray_r", interpolation="none")
    frame = plt.Rectangle((7.5, 7.5), 28, 28, fill=False, edgecolor=COLORS[1])
    axes.add_patch(frame).set(linestyle="--", linewidth=2)
    axes.set(xticks=[], yticks=[])
    axes.set_title(kind, fontsize=13)

# %% [markdown]
# !!! abstract "After this page you can"
#
#     - compute which outputs of a padded layer see no padding, and confirm it by measurement;
#     - say what circular padding needs to be exact on the full frame;
#     - test whether a network knows positions, with controls that could say no;
#     - say what each of two papers that seem to disagree has measured.
#
# ## Where does padding break a layer?
#
# Take the six layers of [`lab.PooledCNN`][lab.models.PooledCNN] that keep positions: convolution, ReLU, pooling,
# twice. Either nothing is padded, or both convolutions pad their inputs by 1 px. *Where* padding breaks something does
# not depend on the weights, so untrained networks will do.

# %%
STRIDES = lab.PooledCNN.STRIDES  # layer -> total stride


def network(kind: str, seed: int = SEED) -> lab.PooledCNN:
    """An untrained network; `kind` is what its convolutions put around their inputs."""
    torch.manual_seed(seed)
    options = {} if kind == "none" else {"padding": 1, "padding_mode": kind}
    return lab.PooledCNN(**options).eval()


def maps(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Layer -> its maps. Without the linear layers, the network takes any size."""
    return lab.activations(nn.Sequential(OrderedDict([*net.named_children()][:6])), x)


# %% [markdown]
# A picture moves 4 px to the right: 4 new columns enter on the left, 4 leave on the right. `conv2` has
# [total stride](../glossary.md#total-stride) 2, so its maps should move by 2 positions. Compare f(T x) with T f(x) at
# every position that both have, edge included.

# %% [markdown]
# ```predict
# id: sliding-texture
# question: A texture fills the frame and slides by 4 px, as when a camera turns. With which kind of padding does `conv2` commute with that translation at *every* position that both maps have?
# choices:
#   - zero padding, since 0 adds nothing to a sum
#   - reflect padding, since it continues the picture in the most natural way
#   - circular padding, since a circle has no border
#   - none of the four; only without padding
# ```

# %%
T = 4  # px to the right: every total stride divides it
blank = lab.ink_margins(mnist.test.images)
room = ((blank.left >= 5) & (blank.right >= T + 5)).nonzero()[:64, 0]
digits = mnist.test.images[room]  # 5 blank columns on either side, before and after
SCENES = {
    "texture": (wide[..., T:], wide[..., :-T]),
    "digit": tuple(lab.normalize(v) for v in (digits, lab.shift(digits, 0, T))),
    "ring": (wide[..., T:], lab.shift(wide[..., T:], 0, T, mode="wrap")),
}


# %%
def compare(kind: str, scene: str, layer: str = "conv2") -> tuple[torch.Tensor, ...]:
    """f(T x) and T f(x) of 64 images; nan where there is nothing to compare."""
    first, second = (maps(network(kind), view)[layer] for view in SCENES[scene])
    mode, move = "wrap" if scene == "ring" else "background", T // STRIDES[layer]
    return second, lab.shift(first, 0, move, mode=mode, background=torch.nan)


def error(kind: str, scene: str) -> float:
    """Largest equivariance error over all positions that both maps have."""
    moved, expected = compare(kind, scene)
    return lab.largest_error(lab.equivariance_error(moved, expected, ~expected.isnan()))


errors = {(kind, scene): error(kind, scene) for kind in PADDINGS for scene in SCENES}

# %%
#| code-fold: true
#| code-title: "Draw where f(T x) and T f(x) differ"
#| alt: >-
#|   Ten small maps. Upper row, a sliding texture: without padding all is zero; with each of the four paddings, strips
#|   at the left and right edge are bright. Lower row, a digit with blank room: only zero padding has bright strips.
#| caption: >-
#|   Where f(T x) and T f(x) of `conv2` differ after 4 px to the right: mean over 64 images and all channels, in units
#|   of the layer's mean activation. Hatched: nothing to compare. Above, a texture that fills the frame; below, digits
#|   with blank columns around them.
figure, grid = plt.subplots(2, 5, figsize=(6.4, 3), layout="constrained")
for row, scene in zip(grid, ("texture", "digit"), strict=True):
    row[0].set_ylabel(scene, fontsize=14)
    for axes, kind in zip(row, PADDINGS, strict=True):
        moved, expected = compare(kind, scene)
        difference = (moved - expected).abs().mean((0, 1)) / moved.abs().mean()
        axes.patch.set(hatch="////", edgecolor=CONTROL_COLOR, facecolor="none")
        shown = axes.imshow(difference, "viridis", vmin=0, vmax=0.4)
        axes.set(xticks=[], yticks=[])
        axes.set_title(kind, fontsize=14)
figure.colorbar(shown, ax=grid, extend="max").ax.tick_params(labelsize=14)

# %% [markdown]
# Largest equivariance error of `conv2` over 64 images. In the last row the image is a ring: what leaves on the right
# comes back on the left (`mode="wrap"`), and all positions can be compared.
#
# | picture | none | zeros | replicate | reflect | circular |
# |---|---|---|---|---|---|
# | texture slides | {{ errors["none", "texture"]:.1g}} | {{ errors["zeros", "texture"]:.1g}} | {{ errors["replicate", "texture"]:.1g}} | {{ errors["reflect", "texture"]:.1g}} | {{ errors["circular", "texture"]:.1g}} |
# | digit with blank room | {{ errors["none", "digit"]:.1g}} | {{ errors["zeros", "digit"]:.1g}} | {{ errors["replicate", "digit"]:.1g}} | {{ errors["reflect", "digit"]:.1g}} | {{ errors["circular", "digit"]:.1g}} |
# | texture on a ring | – | {{ errors["zeros", "ring"]:.1g}} | {{ errors["replicate", "ring"]:.1g}} | {{ errors["reflect", "ring"]:.1g}} | {{ errors["circular", "ring"]:.1g}} |

# %% [markdown]
# ```observed
# id: sliding-texture
# right: 4
# reason: |
#   Every padding invents pixels, and these do not slide along with the picture. A mirror image looks natural, but
#   when the camera turns, the world behind the edge is not a mirror. Circular padding is right on a ring, and only there.
#
#   With digits, three of the four are exact: copies, mirror images and the other side of background are background. Zeros
#   are not: after normalising, the background is {{ lab.data.BACKGROUND:.3f}}.
# ```

# %% [markdown]
# So there is no neutral padding. Whether it does harm depends on how the picture would have continued.
#
# ## How far inside is the border felt?
#
# Along one axis, let $S$ be the total stride of a layer, $R$ its [receptive field](../glossary.md#receptive-field), and
# $P$ how far its first window begins outside the image. Output $j$ sees the pixels from $jS - P$ to $jS - P + R - 1$.
# In an image of $N$ pixels, the windows that lie inside it are those of
#
# $$I = \{\, j : \lceil P/S \rceil \le j \le \lfloor (N - R + P)/S \rfloor \,\}.$$
#
# That is the [*interior*](../glossary.md#interior). After a shift of $t = mS$, f(T x) and T f(x) have to agree where
# both windows lie inside: on $J = I \cap (I + m)$. From layer to layer, $S$, $R$ and $P$ follow by counting:


# %%
def interior(kind: str, size: int = 28) -> dict[str, tuple[int, int]]:
    """Layer -> first and last output whose window lies inside the image."""
    s, r, p, found = 1, 1, 0, {}
    for layer, module in [*network(kind).named_children()][:6]:
        if isinstance(module, nn.Conv2d):
            r, p = r + (module.kernel_size[0] - 1) * s, p + module.padding[0] * s
        elif isinstance(module, nn.MaxPool2d):
            r, s = r + (module.kernel_size - 1) * s, s * module.stride
        found[layer] = (-(-p // s), (size - r + p) // s)
    return found


# %% [markdown]
# ```predict
# id: reach
# question: Each of the two convolutions pads its input by 1. How many input pixels from the edge is the border felt in `pool2`?
# number: {unit: "px"}
# ```


# %%
def predicted(kind: str, layer: str) -> list[int]:
    """J = I ∩ (I + m)."""
    low, high = interior(kind)[layer]
    return list(range(low + T // STRIDES[layer], high + 1))


def measured(kind: str, layer: str) -> list[int]:
    """Columns in which f(T x) and T f(x) of 64 textures agree, in all rows and channels."""
    moved, expected = compare(kind, "texture", layer)
    gap = (moved - expected).abs().amax((0, 1, 2)) / moved.abs().mean()
    return (gap <= 1e-5).nonzero()[:, 0].tolist()  # nan is not


columns = {(kind, k): measured(kind, k) for kind in PADDINGS[:4] for k in STRIDES}

# %%
#| code-fold: true
#| code-title: "Draw the predicted and the measured interior"
#| alt: >-
#|   One row for each of conv1, pool1, conv2 and pool2. A bar over the input pixels shows J: from 5 to 27 in conv1,
#|   from 8 to 24 in pool2. Measured dots fill exactly the bars.
#| caption: >-
#|   Zero padding, shift of 4 px. Bars: where the formula puts J, in input pixels. Dots: columns in which f(T x) and
#|   T f(x) agree, measured. Hatched: entered from outside. The border spoils the rest.
figure, axes = plt.subplots(figsize=(6.4, 2.9), layout="constrained")
shown = ("conv1", "pool1", "conv2", "pool2")
for y, layer in enumerate(shown):
    s, bar = STRIDES[layer], predicted("zeros", layer)
    axes.barh(y, len(bar) * s, 0.7, left=bar[0] * s, color=COLORS[0], alpha=0.35)
    dots = [(j + 0.5) * s for j in columns["zeros", layer]]
    axes.plot(dots, [y] * len(dots), "o", color=COLORS[1], markersize=5)
axes.barh(range(4), T, 0.7, fill=False, hatch="////", edgecolor=CONTROL_COLOR)
axes.set_yticks(range(4), shown)
axes.set(xlim=(0, 28), ylim=(3.6, -0.6), xticks=range(0, 29, 4))
axes.tick_params(labelsize=13)
axes.set_xlabel("input column (px)", fontsize=13)

# %%
reach = {k: interior("zeros")[k][0] * s for k, s in STRIDES.items()}
inside = {k: ((28 - 2 * r) / 28) ** 2 for k, r in reach.items()}
misses = [len(set(js) ^ set(predicted(*key))) for key, js in columns.items()]

# %% [markdown]
# | zero padding | conv1 | pool1 | conv2 | pool2 |
# |---|---|---|---|---|
# | the border is felt (input px) | {{ reach["conv1"]}} | {{ reach["pool1"]}} | {{ reach["conv2"]}} | {{ reach["pool2"]}} |
# | interior, share of the map | {{ inside["conv1"]:.0%}} | {{ inside["pool1"]:.0%}} | {{ inside["conv2"]:.0%}} | {{ inside["pool2"]:.0%}} |
#
# Without padding, and with zeros, replicate and reflect, six layers each: formula and measurement disagree in
# {{ sum(misses)}} columns.

# %% [markdown]
# ```observed
# id: reach
# value: "{{ reach['pool2']}}"
# within: 0
# reason: |
#   `conv1` makes $P = 1$. `conv2` pads by 1 position, which is 2 px by then: $P = 3$. In `pool2`
#   one position is 4 px wide, and if its window touches padding, it is spoilt as a whole: 3 is rounded up to 4. If you said 2, you
#   counted layers, not pixels: padding behind a stride counts for more.
# ```

# %% [markdown]
# **Your turn:** a digit on a ring, whose background is not 0, and four convolutions of 3 × 3, each padded by 1. How far has the border come in behind each of them, and what does circular padding change?
#
# <div><live-lab src="../assets/live/" preset="border"><p>With JavaScript, you can drag a digit here.</p></live-lab></div>

# %% [markdown]
# Each further layer with padding makes this spoilt frame wider. In a network that is deep enough, no interior is left.
#
# ## Is a ring exact?
#
# On a ring, circular padding invents nothing: its error in the table is {{ errors["circular", "ring"]:.1g}}, with no
# position left out. Now cut the same images to 26 × 26 px, and let these go round.

# %% [markdown]
# ```predict
# id: ring
# question: "Circular padding, images of 26 × 26 px on a ring, moved by 4 px. Which layers commute exactly?"
# choices:
#   - all, as with 28 px
#   - all but `pool2`
#   - only `conv1` and its ReLU
# ```


# %%
def ring_error(size: int, t: int) -> list[float]:
    """Mean error of 64 textures on the full frame of a ring, for each of the six layers."""
    x, net = wide[..., :size, :size], network("circular")
    first, second = (maps(net, lab.shift(x, 0, by, mode="wrap")) for by in (0, t))
    found = []
    for layer, s in STRIDES.items():
        expected = lab.shift(first[layer], 0, round(t / s), mode="wrap")
        found.append(lab.mean_error(lab.equivariance_error(second[layer], expected)))
    return found


ring28, ring26, ring28_odd = ring_error(28, 4), ring_error(26, 4), ring_error(28, 3)

# %% [markdown]
# | mean error on the full frame | conv1 | pool1 | conv2 | pool2 |
# |---|---|---|---|---|
# | 28 px, t = 4 | {{ ring28[0]:.1g}} | {{ ring28[2]:.1g}} | {{ ring28[3]:.1g}} | {{ ring28[5]:.1g}} |
# | 26 px, t = 4 | {{ ring26[0]:.1g}} | {{ ring26[2]:.1g}} | {{ ring26[3]:.1g}} | {{ ring26[5]:.1g}} |
# | 28 px, t = 3 | {{ ring28_odd[0]:.1g}} | {{ ring28_odd[2]:.1g}} | {{ ring28_odd[3]:.1g}} | {{ ring28_odd[5]:.1g}} |

# %% [markdown]
# ```observed
# id: ring
# right: 2
# reason: |
#   A ring is exact if the total stride divides the shift *and each stride divides the size of its input*. 28 → 14 → 7
#   does. 26 → 13 does, 13 → 6 does not: `pool2` drops the last row and column, and the ring is cut. The layers before
#   it do not notice. At 3 px the strides themselves break it ([page 5](05_strides.py)).
# ```

# %% [markdown]
# ## What does a layer miss that pads nothing?
#
# Without padding every output is interior. The price: pixels that no window reaches do not exist for the network.
# Change one column at a time, and see whether `pool2` notices:

# %%
unpadded, some = network("none"), wide[:4, :, :, T:]
touched = some + torch.eye(28)[:, None, None, None]  # column, image, 1, 28, 28
seen = [(maps(unpadded, x)["pool2"] - maps(unpadded, some)["pool2"]) for x in touched]
change = [difference.abs().max().item() for difference in seen]
unseen = [column for column in range(28) if change[column] == 0]

test = mnist.test.sample(2000, seed=SEED)
blank = lab.ink_margins(test.images)
roomy = test.images[blank.fits(0, T) & blank.fits(0, -T)]  # 4 blank columns each side
cut = (lab.shift(roomy, 0, T)[..., unseen] > 0).flatten(1).any(1).double().mean().item()

# %% [markdown]
# Of columns 0 to 27, `pool2` never sees {{ " and ".join(map(str, unseen))}}: it drops an odd last position. Take
# the {{ len(roomy):,}} of 2,000 test digits with 4 blank columns on either side. After 4 px to the right, all their
# ink is still in the frame, but {{ cut:.0%}} of them have ink that the network does not see. "Nothing leaves the
# frame" is not "nothing leaves the network's sight".
#
# ## Does a feature know where it is?
#
# Do as [Islam, Jia and Bruce 2020](../references.md#islam2020) did: freeze a network, and fit a *probe* that reads the
# position from its features. Ours is linear: from the 32 channels at one position of `conv2` to the two coordinates of
# that position. It is fitted on 128 images and judged on 128 others, by $R^2$: 1 = every coordinate read exactly, 0 =
# no better than always saying "the middle".
#
# The picture itself must not give the answer. Digits stand in the middle, so ink alone tells where you are. Therefore
# roll every digit round the ring by a random shift: now all positions see the same content on average. Two controls:
# the digits where they were, and shuffled coordinates.


# %%
def places(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels (and a 1) at each position, and the coordinates there, from −1 to 1."""
    n, _, h, w = a.shape
    grid = torch.cartesian_prod(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w))
    channels = F.pad(a.permute(0, 2, 3, 1).flatten(0, 2), (0, 1), value=1.0)
    return channels.double(), grid.repeat(n, 1).double()


def probe(a: torch.Tensor, *, shuffled: bool = False) -> float:
    """Held-out R² of a linear map from channels to coordinates."""
    (x, y), (x_other, y_other) = map(places, a.chunk(2))
    if shuffled:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(SEED))]
    weights = torch.linalg.lstsq(x, y, driver="gelsd").solution
    wrong = (x_other @ weights - y_other).square().sum()
    return (1 - wrong / y_other.square().sum()).item()  # the mean of y is 0


# %%
centred, few = test.images[:256], mnist.train.sample(4000, seed=SEED)
by = torch.randint(0, 28, (2, 256), generator=torch.Generator().manual_seed(SEED))
rolled = lab.shift(centred, *by, mode="wrap")  # each by a shift of its own
recipe, cache = lab.RECIPES["pooled"], lab.data_root() / "checkpoints"


def readings(kind: str, seed: int) -> list[float]:
    """R² of rolled digits, before and after training; of the controls."""
    net = network(kind, seed)
    before = maps(net, lab.normalize(rolled))["conv2"]
    lab.fit(net, few, replace(recipe, seed=seed), cache=cache)
    after, still = (maps(net, lab.normalize(x))["conv2"] for x in (rolled, centred))
    white = maps(net, torch.ones(2, 1, 28, 28))["conv2"]
    every = [probe(a) for a in (before, after, still, white, before.flip(0))]
    return [*every, probe(after, shuffled=True)]


# %% [markdown]
# ```predict
# id: probe
# question: Networks are trained on 4,000 digits. From which can the probe read positions of *rolled* digits, with a held-out $R^2$ above 0.05?
# choices:
#   - all four; training on centred digits teaches every network where things are
#   - zeros, reflect and circular, since each of them has a border
#   - zeros and reflect, since a circle has no border
#   - zeros only
# ```

# %%
PROBED = ("none", "zeros", "reflect", "circular")
# padding, seed, what is read
r2 = torch.tensor([[readings(kind, seed) for seed in SEEDS] for kind in PROBED])

# %%
#| code-fold: true
#| code-title: "Draw what the probe reads"
#| alt: >-
#|   Held-out R squared for four paddings. Rolled digits: about zero for none, reflect and circular, trained or not;
#|   clearly above zero for zeros. Centred digits: clearly above zero for all. Shuffled coordinates: about zero.
#| caption: >-
#|   What a linear probe reads of the position in `conv2`: held-out R², three networks of each kind. Of rolled digits
#|   only zero padding tells anything. Of centred digits all tell something: that is the picture, not the network.
figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
looks = {
    "rolled, untrained": {"color": COLORS[0], "marker": "o", "fillstyle": "none"},
    "rolled, trained": {"color": COLORS[0], "marker": "o"},
    "centred, trained": {"color": CONTROL_COLOR, "marker": "s"},
    "shuffled": CONTROL_LOOK,
}
for i, (label, look) in enumerate(looks.items()):
    x = torch.arange(4) + 0.18 * (i - 1.5)
    dots = axes.plot(x, r2[:, :, (0, 1, 2, 5)[i]], **look | {"linestyle": "none"})
    dots[0].set_label(label)
axes.axhline(0, color=CONTROL_COLOR, linewidth=0.8)
axes.set_xticks(range(4), PROBED)
axes.tick_params(labelsize=13)
axes.set_ylabel("R² on other images", fontsize=13)
axes.legend(fontsize=13, loc="lower center", bbox_to_anchor=(0.45, 1), ncols=2)

# %% [markdown]
# ```observed
# id: probe
# right: 4
# reason: |
#   In the interior, every output is the same function of its window, and all windows see the same content on average:
#   no probe can tell where it is. Without padding all is interior; on a ring all positions are alike. Reflection
#   has a border, but what it puts there looks like more of the same picture. A frame of zeros does not.
#
#   Training did not add to this. With zero padding, $R^2$ *fell* from {{ r2[1, :, 0].mean():.2f}} ± {{ r2[1, :, 0].std():.2f}} to
#   {{ r2[1, :, 1].mean():.2f}} ± {{ r2[1, :, 1].std():.2f}} (mean ± sd of three). Random weights draw the frame already.
# ```

# %% [markdown]
# You can see the frame if you show untrained networks a white wall, the same value everywhere. If a map is not flat, it
# tells positions apart.

# %%
#| code-fold: true
#| code-title: "Draw the maps of a constant image"
#| alt: >-
#|   Five maps of a constant image. Four are flat; the one with zero padding has a frame around a flat middle.
#| caption: >-
#|   A constant image through `conv2`: the channel that varies most, less its median. Zero padding draws a frame.
wall = {
    kind: maps(network(kind), torch.ones(1, 1, 28, 28))["conv2"][0] for kind in PADDINGS
}
varies = wall["zeros"].std((1, 2)).argmax()
figure, row = plt.subplots(1, 5, figsize=(6.4, 1.7), layout="constrained")
for axes, (kind, a) in zip(row, wall.items(), strict=True):
    axes.imshow(a[varies] - a[varies].median(), "RdBu_r", vmin=-0.3, vmax=0.3)
    axes.set(xticks=[], yticks=[])
    axes.set_title(kind, fontsize=14)


# %%
def spread(a: torch.Tensor) -> float:
    """Largest difference between two positions of one channel, over the largest value."""
    return ((a.amax((1, 2)) - a.amin((1, 2))).max() / a.abs().max()).item()


low, high = interior("zeros")["conv2"]
middle = spread(wall["zeros"][:, low : high + 1, low : high + 1])
flat = max(spread(a) for kind, a in wall.items() if kind != "zeros")

size = 28 // 2  # of conv2 with padding
count = high - low + 1  # of its interior
bound = 1 - count * (count**2 - 1) / (size * (size**2 - 1))

# %% [markdown]
# Largest difference between two positions, over the largest value: {{ spread(wall["zeros"]):.2f}} with zero padding,
# {{ middle:.1g}} on its interior, {{ flat:.1g}} with all others. A mirrored wall is still a wall.
#
# How much *could* be read? In the interior, "the middle" is the best answer. Only the {{ size - count}} columns of
# {{ size}} near the border can be told apart, which bounds $R^2$ by {{ bound:.3f}}. On the wall, where no picture
# disturbs, the probe reads {{ r2[1, :, 3].mean():.3f}} from trained networks with zero padding: all there is.
#
# ## Does a network use it?
#
# What a probe can read, a network need not use. [Kayhan and van Gemert 2020](../references.md#kayhan2020) gave
# networks a task in which position is a tempting shortcut. Two squares on black, one red, one green. Class 1: red is
# left of green. Class 2: green is left of red. In training, class 1 is always in the upper half, class 2 in the lower.
# Afterwards every test scene is moved to the *other* half, by 16 px.


# %%
def scenes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scenes as in training; the same moved to the other half; their classes, 0 and 1."""
    draw, label = torch.Generator().manual_seed(seed), torch.arange(n) % 2
    left = torch.randint(0, 10, (n,), generator=draw)
    right = left + 5 + (torch.rand(n, generator=draw) * (23 - left)).long()
    rows = torch.randint(3, 11, (2, n), generator=draw)
    x = torch.zeros(n, 3, 32, 32)
    for i in range(n):
        for k, at in enumerate((left[i], right[i])):
            x[i, label[i] ^ k, rows[k, i] : rows[k, i] + 4, at : at + 4] = 1
    return lab.shift(x, 16 * label, 0), lab.shift(x, 16 - 16 * label, 0), label


train, _, train_labels = scenes(1000, seed=SEED + 10)
trained_places, moved_places, labels = scenes(1000, seed=SEED + 11)

# %%
#| code-fold: true
#| code-title: "Draw four scenes"
#| alt: >-
#|   Scenes of two squares each. As trained: class 1 in the upper half, class 2 in the lower. Moved: the same scenes,
#|   class 1 below and class 2 above.
#| caption: >-
#|   The red–green task (R marks red, G green). Left, places as in training; right, the same scenes moved by 16 px.
figure, grid = plt.subplots(2, 2, figsize=(4, 4.6), layout="constrained")
for column, name in enumerate(("as trained", "moved")):
    x = (trained_places, moved_places)[column]
    for k, axes in enumerate(grid[:, column]):
        axes.imshow(x[k].movedim(0, -1), interpolation="none")
        for color, letter in enumerate("RG"):
            y, at = x[k, color].nonzero().double().mean(0).tolist()
            axes.text(
                at, y, letter, color="white", ha="center", va="center", fontsize=13
            )
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"class {k + 1}, {name}", fontsize=13)

# %% [markdown]
# As in the paper: four 3 × 3 convolutions without bias, three of them with stride 2, the maximum over all positions,
# one linear layer. Unlike it: a quarter of the channels, half the training scenes, another optimiser, fewer epochs.
# *Full* convolution pads by 2 px of zeros, so that every window that touches the image is computed.


# %%
BORDERS = {
    "none": (0, "zeros"), "zeros": (1, "zeros"), "reflect": (1, "reflect"),
    "circular": (1, "circular"), "full": (2, "zeros"),
}  # fmt: skip


def small_network(border: str, seed: int, *, bias: bool = False) -> nn.Sequential:
    """Four convolutions, the maximum over all positions, one linear layer."""
    torch.manual_seed(seed)
    pad, mode = BORDERS[border]
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 8, 1), (8, 8, 2), (8, 16, 2), (16, 16, 2)):
        conv = nn.Conv2d(before, after, 3, stride, pad, bias=bias, padding_mode=mode)
        layers += [conv, nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 2)
    )


# %%
def fit(net: nn.Module, seed: int, epochs: int = 12) -> nn.Module:
    """Train on the 1,000 scenes, with one cycle of the learning rate."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, epochs * 10)
    for _ in range(epochs):
        for batch in torch.randperm(1000, generator=order).split(100):
            loss = F.cross_entropy(net(train[batch]), train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
    return net.eval()


# %% [markdown]
# ```predict
# id: red-green
# question: The maximum over all positions forgets where things were. Which networks classify *moved* scenes as well as the others?
# choices:
#   - none and reflect, since their features tell no position, as the probe has shown
#   - circular and full
#   - circular only, since every zero tells where the border is
#   - no network; the shortcut is too tempting
# ```

# %%
nets = {b: [fit(small_network(b, seed), seed) for seed in SEEDS] for b in BORDERS}


@torch.no_grad()
def logits(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Of many scenes, fifty at a time."""
    return torch.cat([net(some) for some in x.split(50)])


def right(net: nn.Module, x: torch.Tensor) -> float:
    """The share of scenes that are classified correctly, in per cent."""
    return 100 * (logits(net, x).argmax(1) == labels).double().mean().item()


def move_error(net: nn.Module, margin: int = 0) -> float:
    """Largest invariance error of the logits, with `margin` px of black around all."""
    views = (F.pad(x, (margin,) * 4) for x in (trained_places, moved_places))
    return lab.largest_error(lab.invariance_error(*(logits(net, x) for x in views)))


# %%
both = (trained_places, moved_places)
scores = torch.tensor([[[right(n, x) for x in both] for n in nets[b]] for b in BORDERS])
bare = torch.tensor([[move_error(net) for net in nets[b]] for b in BORDERS])
roomed = torch.tensor([[move_error(net, 16) for net in nets[b]] for b in BORDERS])
mean, sd = scores.mean(1), scores.std(1)  # over seeds: border × places
# Kayhan and van Gemert, from the table in their repository
PAPER = {
    "none": (100.0, 0.2),
    "zeros": (99.8, 8.4),
    "circular": (73.7,) * 2,
    "full": (89.7,) * 2,
}

# %% [markdown]
# | accuracy (%), mean ± sd of 3 | none | zeros | reflect | circular | full |
# |---|---|---|---|---|---|
# | places as trained | {{ mean[0][0]:.1f}} ± {{ sd[0][0]:.1f}} | {{ mean[1][0]:.1f}} ± {{ sd[1][0]:.1f}} | {{ mean[2][0]:.1f}} ± {{ sd[2][0]:.1f}} | {{ mean[3][0]:.1f}} ± {{ sd[3][0]:.1f}} | {{ mean[4][0]:.1f}} ± {{ sd[4][0]:.1f}} |
# | moved by 16 px | {{ mean[0][1]:.1f}} ± {{ sd[0][1]:.1f}} | {{ mean[1][1]:.1f}} ± {{ sd[1][1]:.1f}} | {{ mean[2][1]:.1f}} ± {{ sd[2][1]:.1f}} | {{ mean[3][1]:.1f}} ± {{ sd[3][1]:.1f}} | {{ mean[4][1]:.1f}} ± {{ sd[4][1]:.1f}} |
# | the paper's, as trained | {{ PAPER["none"][0]}} | {{ PAPER["zeros"][0]}} | – | {{ PAPER["circular"][0]}} | {{ PAPER["full"][0]}} |
# | the paper's, moved | {{ PAPER["none"][1]}} | {{ PAPER["zeros"][1]}} | – | {{ PAPER["circular"][1]}} | {{ PAPER["full"][1]}} |

# %% [markdown]
# ```observed
# id: red-green
# right: 2
# reason: |
#   The first three took the shortcut: on moved scenes they are nearly always wrong. Circular and full give the
#   *same* logits for both, by theory and with any weights: the total stride 8 divides 16 px, no window loses a square, and the maximum
#   does not ask where. They had to learn the task. On a ring that is harder: there, everything is left of everything.
#
#   "Every zero tells" is wrong here. Without bias, black stays 0 in every layer, so 2 px of zeros are just more black.
# ```

# %%
windows = nets["none"][0][:8](train[:1]).shape[-1]  # along one axis
window, step = 1 + 2 * (1 + 1 + 2 + 4), 8  # R and S of the last convolution
never = 32 - (window + step * (windows - 1))

# %% [markdown]
# The pattern is the paper's. Our circular and full networks are less accurate than theirs. We did not find out why.
#
# How can a network know the place, if its features do not? Without padding, its last windows are {{ window}} px wide
# and {{ step}} px apart, and {{ windows}} fit: the last {{ never}} rows are never seen. The network sees upper scenes whole, lower ones
# in part. No window knows where it is; but *which windows there are* depends on the frame. With 1 px of
# zeros, too, the windows beyond the edge are missing; with reflection, a square near the edge meets its mirror image.
#
# To test that, put 16 px of black around the same scenes, and show them to the same networks. Now every window that
# touches a square lies inside the image. Largest invariance error of the logits under the move (0 = the same logits,
# 1 = as different as another scene):
#
# | 3 networks × 1,000 scenes | none | zeros | reflect | circular | full |
# |---|---|---|---|---|---|
# | frame of 32 px | {{ bare[0].max():.2g}} | {{ bare[1].max():.2g}} | {{ bare[2].max():.2g}} | {{ bare[3].max():.2g}} | {{ bare[4].max():.2g}} |
# | with black around | {{ roomed[0].max():.2g}} | {{ roomed[1].max():.2g}} | {{ roomed[2].max():.2g}} | {{ roomed[3].max():.2g}} | {{ roomed[4].max():.2g}} |
#
# With room, all are invariant: it was the border.
#
# ## Two papers, two questions
#
# Islam et al. ask what can be *read* from features at a place. They find that zero padding writes the position there; a
# later paper adds that without padding nothing is written ([Islam et al. 2021](../references.md#islam2021)). Kayhan and
# van Gemert ask what a network *uses*, and find that without padding it uses position most of all. Both came out here,
# and they do not contradict each other. A feature without padding cannot tell where it is; a network can, from what its
# windows miss. One conclusion needs a condition: *full* convolution hides the border only where the picture continues
# with zeros, in every layer (exercise 1).
#
# The repetition has limits. Their networks are larger. Islam et al. probe networks trained on photographs, with a small
# network of convolutions; our probe is linear, and found *less* after training. [Alsallakh et al.
# 2021](../references.md#alsallakh2021) show what borders do in practice: small objects are missed at certain places.
#
# ## What you should have seen
#
# No padding is neutral; each is exact for pictures that continue as it assumes. How far a border is felt follows from
# kernel sizes, strides and padding. A ring is exact where the total stride divides the shift and each stride the size of
# its input. The probe read positions only where the padding looks different from the picture. A network can use them
# even without padding, from what its windows miss.
#
# ## Theory and observation

# %%
#| code-fold: true
#| code-title: "The claims"
WHY = (
    "float32: sums of k ≤ 145 terms in another order differ by about √k · 2⁻²⁴ ≤ 7.2e-7"
)
Controls = dict[str, float]


def zero(name: str, value: float, n: int, least: Controls) -> lab.Claim:
    """Exactly 0 up to rounding, where the controls are at least 0.05."""
    controls = tuple(lab.Control(k, v, ">=", 0.05) for k, v in least.items())
    return lab.Claim(
        name, "exact", 0.0, value, controls, "==", 1e-6, WHY, kind="exact", n=n
    )


def pilot(name, theory, sign, bound, value, n, why, *controls) -> lab.Claim:
    """A claim whose bound was set after a pilot run on three seeds."""
    why, controls = (
        f"pilot, three seeds: {why}",
        tuple(lab.Control(*c) for c in controls),
    )
    return lab.Claim(
        name, theory, bound, value, controls, sign, 0.0, why, kind="empirical", n=n
    )


on_texture = {kind: errors[kind, "texture"] for kind in PADDINGS[1:]}
on_digit = max(errors[kind, "digit"] for kind in PADDINGS[2:])
naive = sum(len(set(columns["zeros", k]) ^ set(predicted("none", k))) for k in STRIDES)
outside = spread(wall["zeros"])
tricked, honest = bare[:3].min().item(), bare[3:].max().item()
others = r2[[0, 2, 3]]
lab.check(
    [
        zero("conv2, no padding, texture", errors["none", "texture"], 64, on_texture),
        zero("conv2, replicate, reflect, circular, digit with room", on_digit, 192, {"zeros": errors["zeros", "digit"]}),
        zero("columns where formula and measurement of J disagree", sum(misses), len(misses), {"formula without padding": naive}),
        zero("ring of 28 px, t = 4, all layers", max(ring28), 384, {"26 px, pool2": ring26[5], "t = 3, pool2": ring28_odd[5]}),
        zero("ring of 26 px, t = 4, conv1 to relu2", max(ring26[:5]), 320, {"pool2": ring26[5]}),
        zero("pool2, no padding: change if columns 26 and 27 change", max(change[26:]), 8, {"least of the others": min(change[:26])}),
        zero("white wall, all but zeros: spread over positions", flat, 4, {"zeros": outside}),
        zero("white wall, zeros: spread over the interior", middle, 1, {"full map": outside}),
        zero("red–green, circular and full: error under the move", honest, 6000, {"none, zeros, reflect": tricked}),
        zero("red–green, all, with black around: error under the move", roomed.max().item(), 15000, {"none, zeros, reflect without": tricked}),
        pilot("probe, zeros, rolled: smallest R²", "the frame can be read", ">=", 0.05, r2[1, :, :2].min().item(), 6, "0.15 to 0.27, on the embedded digits from 0.10 on", ("shuffled", r2[1, :, 5].max().item(), "<=", 0.02)),
        pilot("probe, none, reflect, circular, rolled: largest R²", "all windows look alike", "<=", 0.05, others[..., :2].max().item(), 18, "at most 0.01", ("centred", others[..., 2].min().item(), ">=", 0.1)),
        pilot("probe, zeros: R² after over before training", "training need not keep it", "<=", 0.9, (r2[1, :, 1] / r2[1, :, 0]).max().item(), 3, "0.58 to 0.73", ("before, halves swapped, over before", (r2[1, :, 4] / r2[1, :, 0]).min().item(), ">=", 0.9)),
        pilot("probe, zeros, white wall: R² over its bound", "the frame is all there is", ">=", 0.98, (r2[1, :, 3] / bound).min().item(), 3, "0.99 to 1", ("none", r2[0, :, 3].max().item(), "<=", 0.02)),
        pilot("red–green, none, zeros, reflect: accuracy on moved scenes (%)", "the shortcut is open", "<=", 20, scores[:3, :, 1].max().item(), 9, "0 to 6", ("as trained", scores[:3, :, 0].min().item(), ">=", 90), ("full, moved", scores[4, :, 1].min().item(), ">=", 75)),
    ],
    data=mnist,
    seeds=SEEDS,
)  # fmt: skip

# %% [markdown]
# ## Try it yourself
#
# **Exercise 1.** Is *full* convolution invariant thanks to its 2 px, or to the missing bias? Train it with biases.
#
# **Exercise 2.** Full convolution does not reach 100 %. Compare its accuracy for near and for distant squares.

# %%
#| fold: Solution 1
#| text: >-
#|   Both are needed. With a bias, black becomes ReLU(*b*) after the first layer, and the zeros around it are no longer
#|   more of the same. The border shows, and networks use it. Accuracy (%) on moved scenes, three seeds:
biased = [fit(small_network("full", seed, bias=True), seed) for seed in SEEDS]
print(*(f"{right(net, moved_places):.0f}" for net in biased), sep=", ")
bias_error = min(move_error(net) for net in biased)

# %%
#| fold: Solution 2
#| text: >-
#|   The last windows are 17 px wide. Squares whose near edges are farther apart never meet in one window, and
#|   the maximum forgets in which window it found each. Accuracy for near and for distant squares:
at = trained_places.flatten(2).argmax(2)[:, :2] % 32
distance = (at[:, 0] - at[:, 1]).abs()  # between left edges
hits = torch.stack([net(trained_places).argmax(1) == labels for net in nets["full"]])
near, far = (hits[:, d].double().mean().item() for d in (distance <= 12, distance > 20))
print(f"{near:.0%}, {far:.0%}")

# %%
#| code-fold: true
#| code-title: "The claims of the solutions"
lab.check(
    [
        pilot("full with biases: error under the move", "black does not stay 0", ">=", 0.05, bias_error, 3, "far above rounding", ("without", honest, "<=", 1e-6)),
        pilot("full, near squares: accuracy", "both in one window", ">=", 0.9, near, 3, "nearly always right", ("distant squares", far, "<=", 0.8)),
    ],
    data=mnist,
    seeds=SEEDS,
)  # fmt: skip

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: A layer has S = 4, R = 18, P = 7, on 32 px. Which outputs are interior?
#   choices:
#     - {text: "2 to 5", right: true, why: "⌈7/4⌉ = 2 and ⌊(32 − 18 + 7)/4⌋ = 5."}
#     - {text: "0 to 7", why: "These are all outputs; the first windows begin 7 px outside the image."}
#     - {text: "1 to 5", why: "Output 1 begins at 4 − 7 = −3, still outside: 7/4 is rounded up."}
# - question: An image of 30 × 30 px goes round a ring. Circular padding, two poolings of stride 2, t = 4. Is the last layer exact on the full frame?
#   choices:
#     - {text: "yes, since 4 divides the shift", why: "Half of the condition. 30 → 15 works; 15 is odd, and the ring is cut."}
#     - {text: "no, since 2 does not divide 15", right: true, why: "The second pooling drops the last row and column."}
#     - {text: "no, circular padding never is", why: "At 28 px it was, with no position left out."}
# - question: A probe reads position from a network's features for ordinary photographs, with R² = 0.3. Does the network encode position?
#   choices:
#     - {text: "yes, 0.3 is far above 0", why: "On centred digits, networks without any padding gave about as much."}
#     - {text: "not shown; the sky is usually above", right: true, why: "The content may tell the position. Use content that is the same everywhere, such as rolled images."}
#     - {text: "no, since R² is below 0.5", why: "A frame can only be read at the border; on a wall all there is to read was less than 1, too."}
# - question: A network without padding has a global maximum behind its convolutions. Can its answer depend on where an object is?
#   choices:
#     - {text: "no, features are equivariant and the maximum is invariant", why: "On the interior, yes. But an object near the edge is seen by fewer windows, or not at all."}
#     - {text: "yes, near the edge, and at shifts that the stride does not divide", right: true, why: "The red–green networks without padding used exactly that."}
#     - {text: "only if it was trained on centred objects", why: "Training decides whether it is used; that it can be is architecture."}
# ```
