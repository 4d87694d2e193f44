# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: Run a network once over a larger canvas, and read off its output at every shift of the image.
# ---
# # 11. Equivariance as an algorithm
#
# So far equivariance was something to check. Here you use it. At which shifts does a network still recognise a digit? Up
# to 14 px in each direction there are 29 × 29 = 841 shifts, so you could run the network 841 times. A layer that is
# exactly equivariant has computed most of the answers already, the first time it ran.

# %%
#| code-fold: true
#| code-title: "Import the lab, load the digits, train three networks of each kind"
import copy
import statistics
import time
import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from torch import nn

import lab
from lab.plotting import COLORS, CONTROL_LOOK

plt.rcParams.update({"font.size": 12, "axes.titlesize": 12})
SEED, SEEDS, RADIUS = 0, [0, 1, 2], 14
BACKGROUND = lab.data.BACKGROUND  # the value of a pixel without ink, normalised
mnist = lab.load_mnist()
cache = lab.data_root() / "checkpoints"


def trained(name: str, seed: int) -> nn.Module:
    """A network of the exercise after training."""
    network = lab.build_model(name, seed=seed)
    recipe = replace(lab.RECIPES[name], seed=seed)
    lab.fit(network, mnist.train, recipe, cache=cache)
    return network.eval()


networks = {
    label: [trained(name, seed) for seed in SEEDS]
    for label, name in (("given", "given"), ("PooledCNN", "pooled"))
}
given, pooled = networks["given"][0], networks["PooledCNN"][0]
twenty = mnist.test.sample(20, seed=SEED)
digits = lab.normalize(twenty.images)
digit = digits[int((twenty.labels == 4).nonzero()[0]), 0]  # to be drawn

# %%
#| alt: >-
#|   A grid of five by five images of one digit. In the middle it stands in place; from image to image to the right
#|   it moves 7 pixels to the right, from row to row 7 pixels down, so that much of it is cut off at the edges.
#| caption: >-
#|   25 of the 841 images of one digit. Down and right are positive. Does the network have to run once for each of them?
#| code-fold: true
#| code-title: "Draw 25 of the 841 images"
steps = (-14, -7, 0, 7, 14)
rows = [
    torch.cat([lab.shift(digit, y, x, background=BACKGROUND) for x in steps], 1)
    for y in steps
]
figure, axes = plt.subplots(figsize=(4.6, 4.6))
axes.imshow(torch.cat(rows))
for k in range(1, 5):
    axes.axhline(28 * k - 0.5, color=CONTROL_LOOK["color"], linewidth=0.8)
    axes.axvline(28 * k - 0.5, color=CONTROL_LOOK["color"], linewidth=0.8)
middle = range(14, 140, 28)
axes.set(xticks=middle, xticklabels=steps, xlabel="dx (px)")
axes.set(yticks=middle, yticklabels=steps, ylabel="dy (px)")
axes.spines[:].set_visible(True)

# %% [markdown]
# !!! abstract "After this page you can"
#
#     - run a network once, over a larger canvas, and read off its output at every shift;
#     - turn a stride into a dilation, and a fully connected layer into a convolution;
#     - say for which networks this is exact, and check it against brute force;
#     - read a map of accuracy over all shifts, and tell recognition from guessing.
#
# ## Move the window, not the digit
#
# Put the digit on a [canvas](../glossary.md#canvas) of background, 14 px wider on each side. A window of 28 × 28 px cuts
# an image out of it. Move the window, and you have a translated digit.

# %% [markdown]
# ```predict
# id: window
# question: You want the digit 5 px *down* and 3 px to the *right*. Where does the window go?
# choices:
#   - 5 px down and 3 px to the right
#   - 5 px up and 3 px to the left
#   - 5 px to the right and 3 px down
# ```

# %%
canvas = F.pad(digits, (RADIUS,) * 4, value=BACKGROUND)  # 20 × 1 × 56 × 56


def window(maps: torch.Tensor, dy: int, dx: int, size: int = 28) -> torch.Tensor:
    """The part of a canvas on which everything has moved by dy, dx."""
    top, left = RADIUS - dy, RADIUS - dx
    return maps[..., top : top + size, left : left + size]


cut, moved = window(canvas, 5, 3), lab.shift(digits, 5, 3, background=BACKGROUND)
window_gap = (cut - moved).abs().max().item()
other_way_gap = (window(canvas, -5, -3) - moved).abs().max().item()


# %%
#| alt: >-
#|   Left, a digit in the middle of a large square with two frames: one in the middle, one further up and to the left.
#|   Right, what the two frames contain: the digit in the middle, and the digit further down and to the right.
#| caption: >-
#|   One canvas, two of its 841 windows. The orange window is 5 px further up and 3 px further left. In it, the digit is
#|   5 px further down and 3 px further right.
#| code-fold: true
#| code-title: "Draw the canvas and two windows"
figure, (whole, *cuts) = plt.subplots(1, 3, figsize=(6.4, 2.9), width_ratios=(2, 1, 1))
shown = {"vmin": BACKGROUND, "vmax": digits.max()}
drawn = F.pad(digit, (RADIUS,) * 4, value=BACKGROUND)
whole.imshow(drawn, **shown)
for axes, (dy, dx), color in zip(cuts, ((0, 0), (5, 3)), COLORS, strict=False):
    look = {"fill": False, "edgecolor": color, "linewidth": 2}
    whole.add_patch(Rectangle((RADIUS - dx - 0.5, RADIUS - dy - 0.5), 28, 28, **look))
    axes.imshow(window(drawn, dy, dx), **shown)
    axes.add_patch(Rectangle((-0.5, -0.5), 28, 28, **look))
    axes.set(title=f"dy = {dy}\ndx = {dx}")
for axes in (whole, *cuts):
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(axes is whole)

# %% [markdown]
# ```observed
# id: window
# right: 2
# reason: |
#   The window that moves up leaves the digit further down in it. The images that it cuts out there and
#   [`lab.shift`][lab.shifting.shift] makes differ by {{ window_gap:.1g}}. The window 5 px down and 3 px to the right shows
#   another image: there the largest difference is {{ other_way_gap:.1f}}.
# ```

# %% [markdown]
# **Your turn:** drag the digit down. Which way does its window go?
#
# <div><live-lab src="../assets/live/" preset="window"><p>With JavaScript, you can drag a digit here.</p></live-lab></div>

# %% [markdown]
# ## The convolution has computed it already
#
# The [given network][lab.models.LabModel] begins with a convolution, 2 × 2. Run it once over the whole canvas. If the
# convolution is equivariant, its output for a window is a window of its output for the canvas.


# %%
def largest_gap(conv: nn.Module, size: int) -> float:
    """Largest difference between outputs for windows, and windows of the output for the canvas."""
    shifts = [(0, 0), (5, 3), (-14, 14), (1, -8)]
    with torch.no_grad():
        once = conv(canvas)
        gaps = [conv(window(canvas, *t)) - window(once, *t, size) for t in shifts]
    return torch.cat([gap.abs().flatten() for gap in gaps]).max().item()


torch.manual_seed(SEED)
zeros_around = nn.Conv2d(1, 1, 3, padding=1)
unpadded_gap, padded_gap = largest_gap(given.conv1, 27), largest_gap(zeros_around, 28)

# %% [markdown]
# For `conv1` the largest difference is {{ unpadded_gap:.1g}}. For a convolution with padding it is {{ padded_gap:.2g}}:
# it puts zeros around each window, where the canvas has digit or background. So all that follows is for networks
# *without padding*.
#
# ## A fully connected layer is a convolution, too
#
# Behind the convolution stands `fc1`. It has one weight for each class and each of 27 × 27 positions, and takes a weighted
# sum of a window of 27 × 27. Slide it over the map of the canvas, and it *is* a convolution with a kernel of 27 × 27.

# %% [markdown]
# ```predict
# id: sliding
# question: The canvas has 56 × 56 px. How many rows has the map that the sliding `fc1` returns?
# number: {unit: "rows", places: 0}
# ```


# %%
def given_everywhere(canvas: torch.Tensor) -> torch.Tensor:
    """The given network's logits for every window of a canvas: n, class, row, column."""
    kernels = given.fc1.weight.unflatten(1, (1, 27, 27))
    return F.conv2d(F.relu(given.conv1(canvas)), kernels, given.fc1.bias)


with torch.no_grad():
    outputs = given_everywhere(canvas)
    moved = given(window(canvas, 5, 3))[2]  # the third output: logits
sliding_rows = outputs.shape[2]
sliding_gap = (outputs[:, :, RADIUS - 5, RADIUS - 3] - moved).abs().max().item()

# %% [markdown]
# ```observed
# id: sliding
# value: "{{ sliding_rows }}"
# within: 0
# reason: |
#   29 rows and 29 columns: one position for each window, and so one for each shift. The map of the convolution has 55 rows,
#   and a kernel of 27 rows fits into it at 55 − 27 + 1 places. Row 0 belongs to the topmost window, which shows the digit
#   14 px further *down*. At dy = 5, dx = 3, the entry differs from the network's own answer by {{ sliding_gap:.0e}} at most.
# ```

# %% [markdown]
# One pass, and you have the outputs at 841 shifts. `fc1` is not invariant, and it need not be. This works because
# everything before `fc1` moves along with the digit.
#
# ## Stride becomes dilation
#
# [`PooledCNN`][lab.models.PooledCNN] pools twice, 2 × 2 with stride 2. Run its layers over the canvas as they are, strides
# and all. Then `fc1` slides over a coarser map.

# %% [markdown]
# ```predict
# id: strided
# question: For how many of the 841 shifts does this give the network's output?
# number: {unit: "shifts", places: 0}
# ```

# %%
with torch.no_grad():
    first = pooled.pool1(F.relu(pooled.conv1(canvas)))
    strided = pooled.pool2(F.relu(pooled.conv2(first)))
side = strided.shape[-1] - 5 + 1  # 5 × 5 positions go into fc1
places = side**2

# %%
#| alt: >-
#|   Two rows of dots. Above, pooling with stride 2: every second position is there, filled; the others are missing. The
#|   window that begins at 0 finds its positions, the window that begins at 1 finds none. Below, with stride 1, all
#|   positions are there, and each window takes every second one, the first window the even ones, the other the odd ones.
#| caption: >-
#|   Along one axis. With stride 2 (top), only the windows that begin at an even pixel find their positions; hollow marks
#|   were never computed. With stride 1 (bottom) all are there, and each window takes every second one: dilation 2.
#| code-fold: true
#| code-title: "Draw which positions a window finds"
figure, grid = plt.subplots(2, 1, figsize=(6.4, 3.2), sharex=True)
titles = "stride 2", "stride 1, then every second position"
for axes, step, title in zip(grid, (2, 1), titles, strict=True):
    for first, color, marker in ((0, COLORS[0], "o"), (1, COLORS[1], "s")):
        wanted, look = range(first, 10, 2), {"color": color, "markersize": 9}
        there = [j for j in wanted if j % step == 0]
        gone = [j for j in wanted if j % step]
        rest = [j for j in range(0, 12, step) if j not in there]
        axes.plot(rest, [-first] * len(rest), ".", color="#777777", markersize=4)
        axes.plot(there, [-first] * len(there), marker, **look)
        axes.plot(gone, [-first] * len(gone), marker, fillstyle="none", **look)
    axes.set(title=title, ylim=(-1.6, 0.6))
    axes.set(yticks=[0, -1], yticklabels=["begins at 0", "begins at 1"])
    axes.spines["left"].set_visible(False)
grid[-1].set(xlabel="position (px)", xticks=range(12))

# %% [markdown]
# ```observed
# id: strided
# value: "{{ places }}"
# within: 0
# reason: |
#   {{ side }} × {{ side }}: the windows that begin at a multiple of 4 px, the total stride. The digit in place is not even among
#   them, since its window begins at row and column 14. The pooling layers threw the other positions away. That is what
#   [page 5](05_strides.py) observed as *broken*.
# ```

# %% [markdown]
# The remedy follows from the picture. Pool with stride 1, so that nothing is thrown away. Positions that were neighbours
# are now 2 apart, so let every later kernel take every second position: that is
# [*dilation*](../glossary.md#dilation) 2. After the second pooling it is 4, the total stride. `fc1` becomes a 5 × 5
# convolution, `fc2` a 1 × 1 convolution ([Giusti et al. 2013](../references.md#giusti2013),
# [Sermanet et al. 2014](../references.md#sermanet2014), [Yu and Koltun 2016](../references.md#yu2016)). The idea is
# older than today's networks: [Matan et al. 1991](../references.md#matan1991) applied a network for single digits all along a
# string of digits.


# %%
def pooled_everywhere(canvas: torch.Tensor, d: int = 2) -> torch.Tensor:
    """PooledCNN's logits for every window: each stride of 2 has become a dilation, d and 2 d."""
    fc1 = pooled.fc1.weight.unflatten(1, (32, 5, 5))
    fc2 = pooled.fc2.weight[:, :, None, None]
    x = F.max_pool2d(F.relu(pooled.conv1(canvas)), 2, stride=1)
    x = F.conv2d(x, pooled.conv2.weight, pooled.conv2.bias, dilation=d)
    x = F.max_pool2d(F.relu(x), 2, stride=1, dilation=d)
    x = F.relu(F.conv2d(x, fc1, pooled.fc1.bias, dilation=2 * d))
    return F.conv2d(x, fc2, pooled.fc2.bias)


with torch.no_grad():
    everywhere = pooled_everywhere(canvas)
sides = everywhere.shape[2]

# %% [markdown]
# The result has {{ sides }} × {{ sides }} positions, not 29 × 29. `pool2` gets 11 rows and makes 5 pairs of them; the last
# row is dropped. So the network never looks at the last 2 of its 28 px, and 31 windows of 26 px fit on the canvas. The
# first 29 are the ones that you want.
#
# Is it right? Brute force is the judge: the network as it is, once for each of the 841 shifts. There are two controls:
# forget the dilation; and read the right output one pixel beside its place.


# %%
def brute(network: nn.Module) -> torch.Tensor:
    """Logits at every window, one run for each: n, class, row, column."""
    side = range(2 * RADIUS + 1)
    shifts = [(RADIUS - y, RADIUS - x) for y in side for x in side]
    with torch.no_grad():
        found = [network(window(canvas, *t)) for t in shifts]
    logits = [one[2] if isinstance(one, tuple) else one for one in found]
    return torch.stack(logits, -1).unflatten(-1, (len(side), len(side)))


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference of two logits."""
    return (a - b).abs().max().item()


# %% [markdown]
# ```predict
# id: rounding
# question: How far apart are the two ways, over the largest logit?
# choices:
#   - exactly 0, bit for bit
#   - about one millionth, or less
#   - about one hundredth
# ```

# %%
with torch.no_grad():
    dense = {"given": given_everywhere(canvas), "PooledCNN": everywhere[..., :29, :29]}
    undilated = pooled_everywhere(canvas, d=1)[..., :29, :29]
expected = {"given": brute(given), "PooledCNN": brute(pooled)}
size = {name: one.abs().max().item() for name, one in expected.items()}
gap = {n: apart(dense[n], expected[n]) / size[n] for n in dense}
beside = {n: apart(dense[n][..., 1:], expected[n][..., :-1]) / size[n] for n in dense}
forgotten = apart(undilated, expected["PooledCNN"]) / size["PooledCNN"]
widest = torch.tensor([*gap.values()]).max().item()
nearest = torch.tensor([*beside.values()]).min().item()

# %% [markdown]
# | over the largest logit | given network | `PooledCNN` |
# |---|---|---|
# | dense against brute force | {{ gap["given"]:.0e}} | {{ gap["PooledCNN"]:.0e}} |
# | control: read one pixel beside | {{ beside["given"]:.2f}} | {{ beside["PooledCNN"]:.2f}} |
# | control: without dilation | – | {{ forgotten:.2f}} |

# %% [markdown]
# ```observed
# id: rounding
# right: "{{ 1 if widest == 0 else 2 if widest < 1e-5 else 3 }}"
# value: "{{ widest:.0e}}"
# reason: |
#   It is the same sum of the same numbers, so in exact arithmetic the difference is 0. A computer adds them in another order,
#   and each order rounds in its own way. Read one pixel beside the right place, and the difference is at least {{ nearest:.2f}}.
# ```

# %% [markdown]
# Is what is left really rounding? Then it must shrink with the precision. So run both ways in float64 too.
# [`lab.shift_map`][lab.every_shift.maps.shift_map] does that for you: it makes a dense twin of any network without
# padding and global layers. (Instead of dilating, it splits a map into its phases after each stride, four smaller maps
# for a stride of 2. [Long et al. 2015](../references.md#long2015) call that *shift-and-stitch*.) Entry
# `[:, 14 + dy, 14 + dx]` is the output at the shift dy, dx.


# %%
def both(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs at every shift, dense and by brute force."""
    options = {"radius": RADIUS, "background": BACKGROUND}
    return [
        lab.shift_map(network, images, method=method, **options)
        for method in ("dense", "brute")
    ]


rounding = {}
for name, network in (("given", given), ("PooledCNN", pooled)):
    dense32, brute32 = both(network, digits[:5])
    dense64, truth = both(copy.deepcopy(network).double(), digits[:5].double())
    found = {"dense32": dense32, "brute32": brute32, "dense64": dense64}
    largest = truth.abs().max().item()
    rounding[name] = {way: apart(one, truth) / largest for way, one in found.items()}

# %% [markdown]
# | difference from brute force in float64, over the largest score | given network | `PooledCNN` |
# |---|---|---|
# | dense, float32 | {{ rounding["given"]["dense32"]:.0e}} | {{ rounding["PooledCNN"]["dense32"]:.0e}} |
# | brute force, float32 | {{ rounding["given"]["brute32"]:.0e}} | {{ rounding["PooledCNN"]["brute32"]:.0e}} |
# | dense, float64 | {{ rounding["given"]["dense64"]:.0e}} | {{ rounding["PooledCNN"]["dense64"]:.0e}} |
#
# It was rounding: a mistake would have stayed as large as it was.
#
# Which way round is the map? One check is independent of all code above: where is the ink? And the entries of the map must
# be the outputs for images that [`lab.shift`][lab.shifting.shift] has moved; the mirrored entries must not.

# %%
some = mnist.test.sample(500, seed=SEED).images  # in [0, 1]
kept = some[lab.ink_margins(some).fits(4, 4)]  # digits that lose no ink
rows = torch.arange(28.0)[:, None]
moved = [lab.shift(kept, *t) for t in ((0, 0), (4, 0), (0, 4))]
place, by_dy, by_dx = [(x * rows).sum((1, 2, 3)) / x.sum((1, 2, 3)) for x in moved]
lowered, lowered_by_dx = by_dy - place, (by_dx - place).abs().max().item()

# %%
by_lab = lab.shift_map(pooled, digits, radius=RADIUS, background=BACKGROUND)
places_checked = [(5, 3), (-14, 14), (1, -8), (0, 2), (-6, 0)]
own, mirrored = [], []
for y, x in places_checked:
    there = lab.predict(pooled, lab.shift(twenty.images, y, x))
    own.append(by_lab[:, RADIUS + y, RADIUS + x] - there)
    mirrored.append((by_lab[:, RADIUS - y, RADIUS - x] - there).abs().max())
orientation = torch.stack(own).abs().max().item() / size["PooledCNN"]
mirror_image = torch.stack(mirrored).min().item() / size["PooledCNN"]

# %% [markdown]
# A shift by dy = 4 lowers the ink's centre of mass by {{ lowered.mean():.4g}} px. The entries of the map differ from the outputs
# for moved images by {{ orientation:.0e}} of the largest logit; the mirrored entries differ by {{ mirror_image:.2f}} at least.
#
# ## What is it worth?
#
# Each shift costs brute force one run. One pass over the canvas shares its work between the windows, since they overlap.


# %%
def milliseconds(network: nn.Module, radius: int, method: str) -> float:
    """For each image: the median of three runs."""
    images = lab.normalize(mnist.test.sample(60, seed=SEED).images)
    options = {"radius": radius, "background": BACKGROUND, "method": method}
    times = []
    for _ in range(3 if radius < RADIUS else 1):
        start = time.perf_counter()
        lab.shift_map(network, images, **options)
        times.append(1e3 * (time.perf_counter() - start) / len(images))
    return statistics.median(times)


# %%
took = {
    (radius, method): milliseconds(pooled, radius, method)
    for radius in (0, 2, 14)
    for method in ("brute", "dense")
}
faster = took[14, "brute"] / took[14, "dense"]

# %% [markdown]
# | `PooledCNN`, ms an image, when this page was built | 1 shift | 25 shifts | 841 shifts |
# |---|---|---|---|
# | brute force | {{ took[0, "brute"]:.2g}} | {{ took[2, "brute"]:.2g}} | {{ took[14, "brute"]:.3g}} |
# | one pass | {{ took[0, "dense"]:.2g}} | {{ took[2, "dense"]:.2g}} | {{ took[14, "dense"]:.2g}} |
#
# At 841 shifts one pass is {{ faster:.0f}} × as fast. With a single shift there is nothing to share, and taking the network
# to pieces costs time.
#
# ## Accuracy at every shift

# %%
test = mnist.test.sample(2000, seed=SEED)
images = lab.normalize(test.images)

# %% [markdown]
# Now it is cheap to ask the question of the beginning, for {{ len(test.labels):,}} test digits and three networks of each
# kind. A digit that moves far leaves the frame, and nobody recognises what is not there. So look also at those digits
# alone that can move by 4 px in every direction without losing a pixel of ink. `PooledCNN` does not look at its last
# 2 px, so move them by at most 2 px down or to the right, and by up to 4 px up or to the left.

# %% [markdown]
# ```predict
# id: half
# question: Digits that lose no ink move by 4 px. On how many of them is `PooledCNN` still right? In place it is right on nearly all.
# number: {unit: "%", places: 0}
# ```

# %%
room, corners = lab.ink_margins(test.images), [(-4, -4), (-4, 4), (4, -4), (4, 4)]
roomy = torch.stack([room.fits(*t) for t in corners]).all(0)
y, x = torch.arange(-4, 3)[:, None], torch.arange(-4, 3)
distance = torch.maximum(y.abs(), x.abs())  # of the shifts from −4 to 2


def maps_of(network: nn.Module, chosen: torch.Tensor, radius: int) -> lab.ShiftMaps:
    """Accuracy, agreement and confidence at every shift, of some digits."""
    options = {"radius": radius, "background": BACKGROUND}
    return lab.shift_maps(network, images[chosen], test.labels[chosen], **options)


# %%
everyone = torch.ones(len(images), dtype=torch.bool)
maps = {n: [maps_of(one, everyone, RADIUS) for one in networks[n]] for n in networks}
inside = {n: [maps_of(one, roomy, 4) for one in networks[n]] for n in networks}
rings = {  # network, distance
    (name, kind): torch.stack([one.rings(kind) for one in maps[name]])
    for name in maps
    for kind in ("accuracy", "kappa", "confidence")
}


# %%
def by_distance(found: list[lab.ShiftMaps]) -> torch.Tensor:
    """Accuracy of each network at the distances 0 to 4, over the shifts from −4 to 2."""
    parts = []
    for one in found:
        part = slice(one.radius - 4, one.radius + 3)
        shown = one.accuracy[part, part]
        parts.append(torch.stack([shown[distance == d].mean() for d in range(5)]))
    return torch.stack(parts)


whole = {name: by_distance(found) for name, found in inside.items()}
everyone_there = {name: by_distance(found) for name, found in maps.items()}
percent = {name: 100 * one[:, 4] for name, one in whole.items()}
seen = {name: f"{one.mean():.0f} ± {one.std():.0f}" for name, one in percent.items()}
pooled_at_4 = percent["PooledCNN"].mean()

# %%
#| alt: >-
#|   Two square maps over dy and dx from −14 to 14. Accuracy of the given network is high in a spot of a few pixels in the
#|   middle and low all around. The spot of PooledCNN is larger.
#| caption: >-
#|   Accuracy at 841 shifts, one network of each kind; a colour for each tenth. The cross marks digits in place.
#| code-fold: true
#| code-title: "Draw accuracy at every shift"
figure, grid = plt.subplots(1, 2, figsize=(6.4, 3.6), sharey=True)
edge, STEPS = RADIUS + 0.5, plt.get_cmap("cividis", 10)
box = {"vmin": 0, "vmax": 1, "extent": (-edge, edge, edge, -edge), "cmap": STEPS}
for axes, (name, found) in zip(grid, maps.items(), strict=True):
    drawn = axes.imshow(found[0].accuracy, **box)
    axes.plot(0, 0, "+", color="black", markersize=9)
    axes.set(title=name, xlabel="dx (px)", xticks=range(-14, 15, 7))
grid[0].set(ylabel="dy (px), down is positive", yticks=range(-14, 15, 7))
figure.colorbar(drawn, ax=grid, shrink=0.7, label="share right")

# %%
#| alt: >-
#|   Against the distance from 0 to 14 pixels: accuracy, kappa and confidence of both networks, as bands over three
#|   networks. Accuracy of the given network falls below one half within a few pixels, that of PooledCNN later. Digits that
#|   lose no ink fall as well. Confidence falls much less.
#| caption: >-
#|   Means over the shifts at each distance; bands go from the lowest to the highest of three networks. At shifts from
#|   −4 to 2 px, digits that lose no ink (crosses) fall as fast as all digits (rings), so lost ink is not the reason. Confidence, the
#|   mean of the largest probability, falls much less: the networks are wrong, and sure of it.
#| code-fold: true
#| code-title: "Draw accuracy, kappa and confidence against distance"
figure, grid = plt.subplots(2, 1, figsize=(5.6, 6.4), sharex=True)
ink = plt.rcParams["text.color"]
kinds = {"accuracy": "o-", "kappa": "s:", "confidence": "D--"}
for axes, name in zip(grid, maps, strict=True):
    for (kind, style), color in zip(kinds.items(), COLORS, strict=False):
        values = rings[name, kind]
        axes.plot(values.mean(0), style, color=color, markersize=4, label=kind)
        axes.fill_between(
            range(15), values.amin(0), values.amax(0), color=color, alpha=0.3
        )
    for values, marker, label in (
        (everyone_there[name], "o", "−4 to 2 px: all digits"),
        (whole[name], "x", "−4 to 2 px: no ink lost"),
    ):
        look = {"color": ink, "fillstyle": "none", "markersize": 9}
        axes.plot(values.mean(0), marker, label=label, **look)
    axes.set(title=name, ylim=(-0.05, 1.05), xticks=range(0, 15, 2))
grid[-1].set(xlabel="distance max(|dy|, |dx|) (px)")
figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)

# %% [markdown]
# ```observed
# id: half
# value: "{{ pooled_at_4:.0f}}"
# within: 10
# reason: |
#   {{ seen["PooledCNN"]}} % (mean ± standard deviation of three networks, {{ int(roomy.sum()):,}} digits), against
#   {{ 100 * whole["PooledCNN"][:, 0].mean():.0f}} % in place. The given network falls from {{ 100 * whole["given"][:, 0].mean():.0f}} %
#   to {{ seen["given"]}} %. No ink is lost, so the frame is not to blame. Nothing in theory promises anything else: `fc1` weighs each position
#   by itself. Training on digits that all stand in the middle may have taught it where the middle is; no experiment on
#   this page shows that, since none moves the digits in training. [Page 8](08_invariance.py) asks what a head must be
#   like for its output to be invariant.
# ```

# %% [markdown]
# The map of an invariant network would be flat. Would the measurement show that? Take a network that *is* invariant:
# circular convolutions of stride 1, then the maximum over all positions, then a linear layer. A digit that loses no
# ink moves on this circle as on the plane.


# %%
def ring(inputs: int, outputs: int) -> nn.Module:
    """A circular convolution, 5 × 5."""
    return nn.Conv2d(inputs, outputs, 5, padding=2, padding_mode="circular")


torch.manual_seed(SEED)
maps_only = [ring(1, 16), nn.ReLU(), ring(16, 32), nn.ReLU()]
flat = nn.Sequential(
    *maps_only, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, 10)
)
recipe = lab.TrainConfig(epochs=1, batch_size=32, learning_rate=0.06)
lab.fit(flat, mnist.train.sample(8000, seed=SEED), recipe, cache=cache)
some = roomy.nonzero()[:200, 0]
options = {"radius": 4, "background": BACKGROUND, "method": "brute"}
level = lab.shift_maps(flat, images[some], test.labels[some], **options).accuracy
flat_drop = (level.max() - level.min()).item()

# %% [markdown]
# Its accuracy is {{ level[4, 4]:.1%}} in place, after one short training, and from the best to the worst of the 81 shifts it
# differs by {{ flat_drop:.1g}}. So the measurement can show a flat map; the two networks above have none.
#
# ## Recognised, or only guessed?
#
# Move every test digit by 14 px down and to the right. The given network is still "right" on many digits of one class.
# Before you believe in a digit that resists translation, ask how often the network says that name at all.

# %%
labels = test.labels


def rates(network: nn.Module) -> tuple[torch.Tensor, ...]:
    """The classes called; hit rate and rate of false alarms of each class, at every shift."""
    called = lab.shift_map(network, images, background=BACKGROUND).argmax(-1)
    of_class = [labels == k for k in range(10)]
    hits = [(called[own] == k).double().mean(0) for k, own in enumerate(of_class)]
    alarms = [(called[~own] == k).double().mean(0) for k, own in enumerate(of_class)]
    return called, torch.stack(hits), torch.stack(alarms)


# %%
each_network = [rates(network) for network in networks["given"]]
called, hits, alarms = each_network[0]
at_corner = hits[:, -1, -1]  # dy = dx = 14
star = int(at_corner.argmax())
hit, alarm = at_corner[star].item(), alarms[star][-1, -1].item()
called_share = 100 * (called[:, -1, -1] == star).double().mean().item()
frequency = 100 * (labels == star).double().mean().item()
informed = hit - alarm
skill = torch.stack([h - a for _, h, a in each_network]).mean(1)  # network, row, column
in_place, at_14 = skill[:, RADIUS, RADIUS], skill[:, -1, -1]

# %% [markdown]
# ```predict
# id: named
# question: At dy = dx = 14 the first of the three given networks calls {{ hit:.0%}} of the digits {{ star }} by their name. How many of *all* digits does it call a {{ star }}?
# number: {unit: "%", places: 0}
# ```

# %%
#| alt: >-
#|   Ten pairs of small maps, one pair for each digit. The upper map of a pair, the hit rate, has bright regions far from the
#|   middle for some digits. In the lower one, hit rate less false alarms, the spot in the middle is bright and little else.
#| caption: >-
#|   One given network, each class at 841 shifts. Above: the share of the digits of that class that are called so. Below: the
#|   same, less the share of all *other* digits that are called so as well; 0 is no recognition. Much of what is bright far
#|   from the middle above is darker below.
#| code-fold: true
#| code-title: "Draw hit rate, and hit rate less false alarms"
figure, grid = plt.subplots(4, 5, figsize=(6.0, 6.0))
plain = {"xticks": [], "yticks": []}
for digit in range(10):
    row = 2 * (digit // 5)
    pair = grid[row, digit % 5], grid[row + 1, digit % 5]
    for axes, values in zip(
        pair, (hits[digit], hits[digit] - alarms[digit]), strict=True
    ):
        drawn = axes.imshow(values, cmap=STEPS, vmin=0, vmax=1)
        axes.set(**plain)
    pair[0].set(title=str(digit))
for row, label in enumerate(("hits", "less alarms") * 2):
    grid[row, 0].set(ylabel=label)
figure.colorbar(drawn, ax=grid, shrink=0.5, location="bottom")

# %% [markdown]
# ```observed
# id: named
# value: "{{ called_share:.0f}}"
# within: 10
# reason: |
#   {{ called_share:.0f}} %, where {{ frequency:.0f}} % of the digits *are* {{ star }}. Of all other digits it calls {{ alarm:.0%}} a {{ star }} as well. So much of its hit
#   rate is no recognition. Hit rate less false alarms is {{ informed:.2f}}, where 1 is always right and 0 is no better than guessing. The mean over the
#   ten classes is {{ at_14.mean():.2f}} ± {{ at_14.std():.2f}} (mean ± standard deviation of three networks), against
#   {{ in_place.mean():.2f}} ± {{ in_place.std():.2f}} for digits in place.
# ```

# %% [markdown]
# The accuracy of one class alone says little. Look at false alarms beside it, or at agreement beyond chance, κ. And
# confidence is no control either: it falls far less than the accuracy does.
#
# ## What you should have seen
#
# Cutting out a window commutes with every layer that is equivariant and pads nothing. So one pass over a canvas gives
# the outputs at all shifts: a stride becomes a dilation, a fully connected layer a convolution. The outputs are those of
# brute force up to rounding. With its strides, `PooledCNN` is exactly equivariant at one of 16 phases only; it is the network *with its strides
# removed* that computes all shifts at once. Neither network is invariant. *Equivariant* says what moves along; it does
# not say that the output stays.
#
# ## Theory and observation

# %%
#| code-fold: true
#| code-title: "The claims"
ROUNDING = {"predicted": 0.0, "kind": "exact"}
sums = "float32: sums of some 800 terms in another order differ by about √800 · 2⁻²⁴ = 2e-6 of their size, a few times over"
seen_pairs = len(digits) * len(places_checked)
claims = [
    lab.Claim(
        "a window 5 px up and 3 px left against the image shifted by 5, 3: largest difference",
        "the same",
        observed=window_gap,
        controls=(lab.Control("window the other way", other_way_gap, ">=", 1.0),),
        n=len(digits),
        **ROUNDING,
    ),
    lab.Claim(
        "dy = 4: how far the ink's centre of mass goes down, px",
        "down is positive",
        predicted=4.0,
        observed=lowered.mean().item(),
        controls=(lab.Control("dx = 4 instead", lowered_by_dx, "<=", 1e-3),),
        tolerance=1e-4,
        why="float32: quotients of sums of 784 terms, √784 · 2⁻²⁴ · 28 px = 5e-5 px",
        kind="exact",
        n=len(kept),
    ),
    lab.Claim(
        "PooledCNN: entries of the map against the outputs for shifted images, largest difference over largest logit",
        "the same",
        observed=orientation,
        controls=(lab.Control("mirrored entries, least", mirror_image, ">=", 1e-2),),
        tolerance=1e-5,
        why=sums,
        n=seen_pairs,
        **ROUNDING,
    ),
    lab.Claim(
        "conv1: outputs for windows against windows of the output for the canvas, largest difference",
        "the same",
        observed=unpadded_gap,
        controls=(lab.Control("with padding", padded_gap, ">=", 1e-2),),
        tolerance=1e-6,
        why="float32: sums of 5 terms around 1, each rounded by up to 2⁻²⁴",
        n=4 * len(digits),
        **ROUNDING,
    ),
]
for name in ("given", "PooledCNN"):
    controls = [lab.Control("one pixel beside", beside[name], ">=", 1e-2)]
    if name == "PooledCNN":
        controls.append(lab.Control("without dilation", forgotten, ">=", 1e-2))
    claims += [
        lab.Claim(
            f"{name}: dense against brute force, largest difference over largest logit",
            "the same",
            observed=gap[name],
            controls=tuple(controls),
            tolerance=1e-5,
            why=sums,
            n=len(digits) * 841,
            **ROUNDING,
        ),
        lab.Claim(
            f"{name}: dense against brute force in float64, largest difference over largest score",
            "rounding",
            observed=rounding[name]["dense64"],
            controls=(
                lab.Control("in float32", rounding[name]["dense32"], ">=", 1e-9),
            ),
            tolerance=2e-14,
            why="float64: √800 · 2⁻⁵³ = 3e-15, a few times over, as above",
            n=5 * 841,
            **ROUNDING,
        ),
    ]
for name, found in whole.items():
    drops = found[:, 0] - found[:, 4]
    claims.append(
        lab.Claim(
            f"{name}: drop of accuracy from 0 to 4 px, digits that lose no ink, least of three networks",
            "not invariant",
            predicted=0.3,
            observed=drops.min().item(),
            controls=(lab.Control("invariant network", flat_drop, "<=", 0.0),),
            relation=">=",
            why="pilot, three networks: at least 0.78 (given network) and 0.59 (PooledCNN)",
            kind="empirical",
            n=len(SEEDS) * int(roomy.sum()),
        )
    )
shown, near = maps["PooledCNN"][0].accuracy, [(2, -1), (-2, -2), (1, 3), (0, -3)]
right = [
    lab.predict(pooled, lab.shift(test.images, *t)).argmax(1) == labels for t in near
]
counted = torch.stack(right).double().mean(1)
at_entry, at_mirror = (
    torch.stack([shown[RADIUS + k * y, RADIUS + k * x] for y, x in near])
    for k in (1, -1)
)
claims.append(
    lab.Claim(
        "PooledCNN: entries of the map of accuracy against accuracy on shifted images, largest difference",
        "the same",
        observed=(at_entry - counted).abs().max().item(),
        controls=(
            lab.Control(
                "mirrored entries, largest",
                (at_mirror - counted).abs().max().item(),
                ">=",
                1e-2,
            ),
        ),
        tolerance=1e-3,
        why="rounding may decide a tie of two scores: 2 of 2,000 digits",
        n=len(near) * len(labels),
        **ROUNDING,
    )
)
claims.append(
    lab.Claim(
        "given network at 14, 14: hit rate less false alarms, mean of the ten classes, largest of three networks",
        "hardly better than guessing",
        predicted=0.2,
        observed=at_14.max().item(),
        controls=(lab.Control("at 0, 0, least", in_place.min().item(), ">=", 0.8),),
        relation="<=",
        why="pilot, three networks: 0.045, 0.052 and 0.054",
        kind="empirical",
        n=len(SEEDS) * len(labels),
    )
)
lab.check(claims, data=mnist, seeds=SEEDS)

# %% [markdown]
# ## Try it yourself
#
# In the [live lab](../live.md), the shift map of any digit, also of one that you draw, is there to drag on.
#
# **Exercise 1.** Pad `PooledCNN` by 1. What does `method="dense"` say, and what does `"auto"` do?
#
# **Exercise 2.** At which shift within 2 px is `PooledCNN` right least often? How many digits does it get right at *every*
# shift within 2 px, and why is that fewer?

# %%
#| fold: Solution 1
#| text: |
#|   `"dense"` refuses and names the first padded layer. `"auto"` says the same as a warning, and runs once for each shift:
#|   slower, and right.
padded = lab.PooledCNN(padding=1).eval()
try:
    lab.shift_map(padded, digits, radius=4, background=BACKGROUND, method="dense")
except lab.LabError as error:
    print(error)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    lab.shift_map(padded, digits, radius=4, background=BACKGROUND)
print(caught[0].message)

# %%
#| fold: Solution 2
#| text: |
#|   The first of the three networks: at dy = {{ lowest_y }}, dx = {{ lowest_x }} it is right on {{ steady.accuracy.min():.1%}} of the digits. On {{ steady.worst_case:.1%}} it is
#|   right at all 25 shifts: fewer, because different digits fail at different shifts. An adversary who may choose the shift
#|   wins on all others, {{ 1 - steady.worst_case:.1%}} ([Engstrom et al. 2019](../references.md#engstrom2019)).
steady = lab.shift_maps(pooled, images, labels, radius=2, background=BACKGROUND)
lowest = int(steady.accuracy.argmin())
lowest_y, lowest_x = lowest // 5 - 2, lowest % 5 - 2

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: Why does one pass over the canvas give the outputs at all shifts, although `fc1` is not invariant?
#   choices:
#     - {text: "Because the class scores do not change when the digit moves.", why: "They do change: that is what the maps of accuracy show. The pass only computes them quickly."}
#     - {text: "Because the layers before `fc1` are equivariant, and cutting out a window commutes with them.", right: true, why: "So the map of a window is a window of the map of the canvas, and `fc1` can slide over it."}
#     - {text: "Because `fc1` was trained on digits at all places.", why: "It was trained on centred digits. The trick works for untrained weights as well."}
# - question: A network pools three times with stride 2. Which dilation has the layer behind the third pooling, if all pooling has stride 1 now?
#   choices:
#     - {text: "3", why: "Strides multiply; they do not count how many there were."}
#     - {text: "6", why: "Strides multiply, they do not add up: 2 · 2 · 2."}
#     - {text: "8", right: true, why: "The total stride before it, 2 · 2 · 2."}
# - question: Dense evaluation and brute force differ by 3e-7 of the largest score. How do you tell rounding from a small mistake?
#   choices:
#     - {text: "Run both in float64. Rounding shrinks a billion times, a mistake stays.", right: true, why: "Rounding depends on the precision, a mistake does not."}
#     - {text: "3e-7 is small, so it is rounding.", why: "A mistake can be small as well, for instance one that touches a few pixels of background."}
#     - {text: "Average over more images. Rounding averages out.", why: "Rounding need not average out, and a mistake could."}
# - question: For which network does `lab.shift_map` have to run once for each shift?
#   choices:
#     - {text: "One whose pooling layers have stride 2.", why: "A stride only splits the map into phases; dense evaluation keeps all of them."}
#     - {text: "One whose convolutions pad with zeros.", right: true, why: "The zeros stand around each window, and the canvas has something else there."}
#     - {text: "One that was never trained.", why: "What matters is the architecture, not the weights."}
# - question: Far from the middle a network gets 95 % of all sixes right, and it calls 90 % of all digits a six. What does its shift map of class 6 show?
#   choices:
#     - {text: "The network recognises sixes wherever they are.", why: "It says six nearly always. Of the other digits it calls nearly 90 % a six as well."}
#     - {text: "Hardly any recognition: hit rate less false alarms is near 0.", right: true, why: "A hit rate means nothing without the rate of false alarms beside it."}
#     - {text: "The network is invariant for the class 6.", why: "An output that is nearly constant tells nothing about the digit, moved or not."}
# ```
