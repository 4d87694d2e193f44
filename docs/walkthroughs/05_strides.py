# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: Which layers of a CNN with pooling commute with a translation, at which shifts, and why at no others.
# ---
# # 5. Strides
#
# The exercise speaks of a trained CNN *with pooling*, but the network that it gives has none. Here is one that has. You
# follow a translation through it, layer by layer: which layers move their output along, and at which shifts?

# %%
#| code-fold: true
#| code-title: "Load the digits, train three networks"
import copy
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import lab
from lab.plotting import COLORS, CONTROL_LOOK

plt.rcParams["font.size"] = 12
SEED, SEEDS = 0, (0, 1, 2)
mnist = lab.load_mnist()
cache = lab.data_root() / "checkpoints"
untrained = [lab.build_model("pooled", seed=seed) for seed in SEEDS]
trained = copy.deepcopy(untrained)
for net, seed in zip(trained, SEEDS, strict=True):
    recipe = replace(lab.RECIPES["pooled"], seed=seed)
    lab.fit(net, mnist.train, recipe, cache=cache)
test = mnist.test.sample(2000, seed=SEED)
accuracy = torch.tensor([lab.evaluate(net, test).accuracy for net in trained])
images = test.images[:64]
LAYERS, STRIDES = list(lab.PooledCNN.STRIDES), list(lab.PooledCNN.STRIDES.values())

# %%
#| code-fold: true
#| code-title: "Draw a digit and its translation in four layers"
#| alt: >-
#|   Two rows of four pictures: a digit and three feature maps, with 26, 13 and 5 positions along each side. The
#|   second row shows the same for the digit one pixel further to the right. The coarser the map, the harder it is to
#|   see whether it moved.
#| caption: >-
#|   Above, a digit and one channel each of three layers of a trained network. Below, the same digit one pixel further to the
#|   right. Did the maps move along? By one pixel of the image, `pool2` would have to move by a quarter of a position.
views = {"x": images[:1], "T x": lab.shift(images[:1], 0, 1)}
figure, grid = plt.subplots(2, 4, figsize=(6.0, 3.3), layout="constrained")
for row, (name, x) in zip(grid, views.items(), strict=True):
    maps = lab.activations(trained[0], lab.normalize(x), LAYERS)
    row[0].imshow(x[0, 0], cmap="gray_r")
    row[0].set_ylabel(name)
    for axes, layer in zip(row[1:], ("conv1", "pool1", "pool2"), strict=True):
        channel = maps[layer][0].flatten(1).std(1).argmax()  # one that shows much
        axes.imshow(maps[layer][0, channel], cmap="viridis")
for axes, title in zip(grid[0], ("image", "conv1", "pool1", "pool2"), strict=True):
    axes.set_title(title)
plt.setp(grid.flat, xticks=[], yticks=[])

# %% [markdown]
# !!! abstract "After this page you can"
#
#     - compute the step and the total stride of a layer, and name the shifts at which it is exact;
#     - prove that it is exact there, and say which weights the proof asks for;
#     - take a pooling layer apart into two steps, and say which of them breaks equivariance;
#     - measure what a remedy gains, beside a control.
#
# [`lab.PooledCNN`][lab.models.PooledCNN] is convolution, ReLU, max pooling, the same again, then two linear layers. You
# have it three times, trained from three seeds (accuracy on 2,000 test digits: {{ accuracy.mean():.1%}} ±
# {{ accuracy.std():.1%}}, mean ± standard deviation), and three times untrained. It pads nothing: every output sees
# real pixels only. [Page 6](06_borders.py) is about padding, [page 8](08_invariance.py) about the linear layers.
#
# ## What does an output see?
#
# - The [*total stride*](../glossary.md#total-stride) $S$ of a layer is the product of all strides up to it.
# - Its [*step*](../glossary.md#step) $s$ is the distance, in input pixels, between the windows of neighbouring outputs.
# - Its [*receptive field*](../glossary.md#receptive-field) $R$ is the width of a window, in input pixels.
#
# In a network that only gets coarser, as here, step and total stride are the same number.
#
# | layer | conv1 | relu1 | pool1 | conv2 | relu2 | pool2 |
# |---|---|---|---|---|---|---|
# | $S$ (px) | 1 | 1 | 2 | 2 | 2 | 4 |
# | $R$ (px) | 3 | 3 | 4 | 8 | 8 | 10 |
# | outputs | 26 × 26 | 26 × 26 | 13 × 13 | 11 × 11 | 11 × 11 | 5 × 5 |
#
# ## At which shifts does a layer commute?
#
# Translate the image by $t$ pixels. An equivariant layer moves its output by $t/S$ positions. Where that is not whole,
# take the better of the two whole moves beside it, for each digit. Compare on the [overlap](../glossary.md#overlap),
# where f(T x) and T f(x) both exist. Two [controls](../glossary.md#control) say what a large error is in each layer: a
# move that is one position wrong, and the feature map of another digit.


# %%
def errors_at(net: nn.Module, dy: int, dx: int) -> torch.Tensor:
    """Equivariance error, and its two controls: 6 layers, 3 comparisons, 64 digits."""
    views = images, lab.shift(images, dy, dx)
    first, second = (lab.activations(net, lab.normalize(x), LAYERS) for x in views)
    rows = []
    for layer, s in lab.PooledCNN.STRIDES.items():
        grid = lab.metrics.Grid.unpadded((28, 28), first[layer].shape[2:], s)
        compare = lab.metrics.Comparison(
            first[layer], grid, quantities=["equivariance"]
        )
        found = compare.errors(second[layer], (dy, dx))
        three = found.equivariance, found.wrong_shift, found.unrelated
        rows.append(torch.stack([each.each for each in three]))
    return torch.stack(rows)


# %% [markdown]
# ```predict
# id: strides-pool2
# question: You move digits to the right by 0, 1, 2, … 8 px. At which of these shifts is the error of `pool2` 0, up to rounding?
# choices:
#   - at all of them
#   - at the even ones
#   - at 0, 4 and 8
#   - at 0 only
# ```

# %%
shifts = range(9)
divides = torch.tensor([[t % s == 0 for s in STRIDES] for t in shifts])  # shift, layer


def sweep(nets: list[nn.Module]) -> torch.Tensor:
    """Errors for moves to the right: networks, 9 shifts, 6 layers, 3 comparisons, digits."""
    return torch.stack(
        [torch.stack([errors_at(n, 0, t) for t in shifts]) for n in nets]
    )


errors = sweep(trained)

# %%
#| code-fold: true
#| code-title: "Draw the error of each layer against the shift"
#| alt: >-
#|   Four panels, error against the shift from 0 to 8 pixels. conv1 is zero everywhere. pool1 and conv2 zigzag: zero at
#|   even shifts, high at odd ones. pool2 is zero at 0, 4 and 8 only. The controls, in grey, are never zero.
#| caption: >-
#|   Mean over digits and over three trained networks (`relu1` and `relu2` look like the layer before them). The error is 0 wherever S divides
#|   the shift, and nowhere else: a zigzag of period 2 behind the first pooling, of period 4 behind the second. Grey: the
#|   controls.
figure, grid = plt.subplots(
    2, 2, figsize=(6.4, 5.8), sharex=True, sharey=True, layout="constrained"
)
another = CONTROL_LOOK | {"marker": "+", "linestyle": ":"}
looks = {
    "moved digit": {"color": COLORS[2], "marker": "o"},
    "control: wrong move": CONTROL_LOOK,
    "control: another digit": another,
}
for axes, layer in zip(grid.flat, ("conv1", "pool1", "conv2", "pool2"), strict=True):
    i = LAYERS.index(layer)
    for k, (label, look) in enumerate(looks.items()):
        mean = errors[:, :, i, k].mean((0, -1))
        axes.plot(shifts, mean, label=label, clip_on=False, **look)
    axes.set(title=f"{layer}, S = {STRIDES[i]}", ylim=(0, None), xticks=shifts)
figure.supxlabel("shift t (px)")
figure.supylabel("equivariance error on the overlap")
figure.legend(
    *grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2
)

# %% [markdown]
# ```observed
# id: strides-pool2
# right: "{{ 3 if errors[:, ::4, 5, 0].max() < 1e-6 < errors[:, [1, 2, 3, 5, 6, 7], 5, 0].mean(-1).min() else 1 }}"
# reason: |
#   The total stride of `pool2` is 4, and 4 divides 0, 4 and 8. "The even ones" is right for `pool1` and `conv2`, whose
#   total stride is 2: two poolings of stride 2 make 4. At the other shifts the error is not small, but it stays below that of another digit.
# ```

# %% [markdown]
# **Your turn:** drag the digit to the right, pixel by pixel. Which layers commute at 1 px, which at 2, which at 4? The numbers are the error in units of its control.
#
# <div><live-lab src="../assets/live/" preset="zigzag"><p>With JavaScript, you can drag a digit here.</p></live-lab></div>

# %% [markdown]
# ```predict
# id: strides-untrained
# question: The same networks before training. Where is their error 0?
# choices:
#   - nowhere, since equivariance is learned
#   - where S divides the shift, as after training
#   - everywhere, since training is what breaks it
# ```

# %%
both = torch.stack([errors, sweep(untrained)])
on, off = both[:, :, divides], both[:, :, ~divides][..., 0, :].mean(-1)
down = torch.stack([errors_at(trained[0], t, 0) for t in shifts])[divides]
on = torch.cat([on[..., 0, :].flatten(), down[:, 0].flatten()])
worst, lowest_off, highest_off = on.max().item(), off.min().item(), off.max().item()
controls = both[..., 1:, :].mean(-1).flatten(0, 3).amin(0)  # smallest means
wrong, other = controls.tolist()


# %%
# kind, comparison, t mod 4: mean of pool2 over the networks, the digits and such shifts
pool2 = both[:, :, :, 5].mean((1, -1)).mT
pool2 = torch.stack([pool2[..., r::4].mean(-1) for r in range(4)], -1)

# %% [markdown]
# | mean error of `pool2` | t mod 4 = 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | trained | {{ pool2[0, 0, 0]:.1g}} | {{ pool2[0, 0, 1]:.2f}} | {{ pool2[0, 0, 2]:.2f}} | {{ pool2[0, 0, 3]:.2f}} |
# | untrained | {{ pool2[1, 0, 0]:.1g}} | {{ pool2[1, 0, 1]:.2f}} | {{ pool2[1, 0, 2]:.2f}} | {{ pool2[1, 0, 3]:.2f}} |

# %% [markdown]
# ```observed
# id: strides-untrained
# right: "{{ 2 if worst < 1e-6 < lowest_off else 1 }}"
# value: "at most {{ worst:.1g}} where S divides the shift"
# reason: |
#   Training changes how large the error is at the other shifts, not where it is 0. The zeros come from where the windows
#   lie, and no training moves a window.
# ```

# %% [markdown]
# Over all six layers, six networks and 64 digits, the largest error where $S$ divides the shift is {{ worst:.1g}}. The mean errors at
# the other shifts begin at {{ lowest_off:.2f}}, those of the controls at {{ wrong:.2f}} (wrong move) and {{ other:.2f}} (another digit).
#
# ## Why there, and nowhere else
#
# **Theorem.** *Let a layer do the same in each of its windows, and let neighbouring windows lie $S$ pixels apart. Then it
# is equivariant to every shift $t = mS$, with $m$ whole, for all outputs whose windows stay inside the image, whatever its weights.*
#
# *Proof.* Output $j$ is $f(x)[j] = g(\text{the pixels of } x \text{ from } jS \text{ on})$, with the same function $g$ for every $j$.
# The translation puts pixel $p$ of $x$ at $p + mS$. So what begins at $jS$ in $T_t x$ began at $jS - mS = (j - m)S$ in
# $x$, and
#
# $$f(T_t x)[j] = f(x)[j - m]$$
#
# The same numbers go in, so the same number comes out. ∎
#
# Where $S$ does not divide $t$, the window of output $j$ begins at $jS - t$, and no window of $x$ begins there. It sees a
# crop of the digit that no window saw before. Theory says no more than: *not guaranteed*. The measurement says: broken.
# So here $S$ is also the layer's [*period*](../glossary.md#period), the smallest shift at which it can be exact. (In a
# network that upsamples, step and period differ: [page 10](10_meter.py).) `conv2` is as equivariant as `conv1` to
# translations *of its own input*; it inherits its zigzag from `pool1`.
#
# For `pool2` the error is largest at a remainder of 2: half a step is as far as you can get from a whole one. Part
# of the error is due to the comparison, since no whole move of the map is half a step; part to what the map has lost.
# [Page 7](07_aliasing.py) tells the two apart.
#
# ## What does max pooling do with an odd shift?
#
# Two pixels of ink in a row of six, then the same row one pixel further. `pool` takes the larger of each pair, as
# `pool1` does along each axis. `slide` takes the larger of *all* neighbours: the same window, with stride 1 instead
# of 2.
#
# ```predict
# id: strides-slide
# question: "The row 0 1 1 0 0 0 moves one pixel to the right. Which of the two moves its output along?"
# choices:
#   - "`slide` only"
#   - "`pool` only"
#   - both
#   - neither
# ```

# %%
row = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
rows = {"row": row, "moved by 1 px": lab.shift(row, 0, 1)}
slide = {name: F.max_pool1d(line, 2, stride=1)[0] for name, line in rows.items()}
pool = {name: F.max_pool1d(line, 2, stride=2)[0] for name, line in rows.items()}

# %%
#| code-fold: true
#| code-title: "Draw the row, its dense maximum and what pooling keeps"
#| alt: >-
#|   Left: the row 0 1 1 0 0 0; slide gives 1 1 1 0 0; pool keeps its first, third and fifth value, 1 1 0. Right: the row
#|   moved by one pixel, 0 0 1 1 0 0; slide gives 0 1 1 1 0, also moved by one; pool keeps 0 1 0, which is no translation of 1 1 0.
#| caption: >-
#|   The dense maximum (middle) moves along by one position. Pooling (bottom) keeps its positions 0, 2 and 4, outlined: before
#|   the move they hold two ones, after it one.
figure, grid = plt.subplots(1, 2, figsize=(6.4, 2.6), layout="constrained")
for axes, name in zip(grid, rows, strict=True):
    for y, values in enumerate((rows[name][0], slide[name], pool[name])):
        for j, value in enumerate(values.int().tolist()):
            x = j if y == 0 else 2 * j + 0.5 if y == 2 else j + 0.5
            kept = y == 2 or (y == 1 and j % 2 == 0)
            box = plt.Rectangle(
                (x - 0.42, -y - 0.35), 0.84, 0.7, lw=2.5 if kept else 0.8
            )
            box.set_facecolor(COLORS[5] if value else "none")
            box.set_edgecolor(COLORS[1] if kept else CONTROL_LOOK["color"])
            axes.add_patch(box)
            ink = "black" if value else plt.rcParams["text.color"]
            axes.text(x, -y, value, ha="center", va="center", color=ink)
    axes.set(xlim=(-0.6, 5.6), ylim=(-2.5, 0.5), title=name, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
grid[0].set_yticks([0, -1, -2], ["input", "slide", "pool"])

# %% [markdown]
# ```observed
# id: strides-slide
# right: 1
# reason: |
#   `slide` has stride 1, so the theorem holds with $S = 1$: taking a maximum is harmless. `pool` reads `slide` at positions 0, 2
#   and 4. After the move it reads there what stood at positions −1, 1 and 3 before. One grid holds two ones, the other holds
#   one, and no move turns one into the other.
# ```

# %% [markdown]
# So max pooling is two steps: a dense maximum, which is equivariant, and subsampling, which is so at some shifts only
# ([Zhang 2019](../references.md#zhang2019)). In the network it is the same: `pool1` is the dense maximum of `relu1`, read
# at every second row and column.
#
# ```predict
# id: strides-grids
# question: The digit moves by 1 px to the right. Where in the dense maximum of the *original* digit do you find what `pool1` gives now?
# choices:
#   - at the even columns, as before
#   - at the odd columns, which `pool1` skipped before
#   - nowhere, since pooling the moved digit makes new values
# ```

# %%
views = images, lab.shift(images, 0, 1)
x, moved = (lab.activations(trained[0], lab.normalize(view)) for view in views)
dense, dense_moved = (F.max_pool2d(a["relu1"], 2, stride=1) for a in (x, moved))
even, odd = dense[..., ::2, ::2], dense[..., ::2, 1::2]
inside = torch.arange(dense.shape[-1]) >= 1  # column 0 came in from outside

expected = lab.shift(dense, 0, 1)
dense_error = lab.equivariance_error(dense_moved, expected, inside).max().item()
other_grid = lab.equivariance_error(moved["pool1"][..., 1:], odd).max().item()
one = torch.ones(len(images), dtype=torch.int64)
own_grid = lab.best_aligned_error(even, moved["pool1"], 0 * one, one, 2).mean().item()

# %%
#| code-fold: true
#| code-title: "Draw the two grids"
#| alt: >-
#|   Four small feature maps. Top: pool1 of the digit, and pool1 of the digit one pixel further. They differ. Bottom: the
#|   dense maximum of the digit read at its even columns, which looks like the map above it on the left, and at its odd columns, which looks like
#|   the one above it on the right.
#| caption: >-
#|   One channel of the first digit. Below, the dense maximum of the digit itself on its two grids of columns. Each is
#|   the same, number for number, as the picture above it.
channel = even[0].flatten(1).std(1).argmax()
names = ("pool1(x)", "pool1(T x)", "even columns", "odd columns")
panels = (x["pool1"], moved["pool1"][..., 1:], even, odd)
figure, grid = plt.subplots(2, 2, figsize=(4.4, 4.8), layout="constrained")
for axes, name, values in zip(grid.flat, names, panels, strict=True):
    axes.imshow(values[0, channel], cmap="viridis", vmin=0, vmax=even[0, channel].max())
    axes.set(title=name, xticks=[], yticks=[])

# %% [markdown]
# ```observed
# id: strides-grids
# right: "{{ 2 if other_grid < 1e-6 < own_grid else 3 }}"
# value: "error {{ other_grid:.1g}} against the odd columns, {{ own_grid:.2f}} against the even ones"
# reason: |
#   `pool1` of the moved digit reads the moved dense map at even columns. That map is the old one, one column further (error
#   {{ dense_error:.1g}}), so even columns of the new are odd columns of the old. Nothing new was computed, only other values were kept.
# ```

# %% [markdown]
# An odd shift takes you from one grid to the other, and the grids differ by {{ own_grid:.2f}} of the map's size. Three
# remedies follow:
#
# - **Keep both grids**: no subsampling. Exact, and expensive ([page 8](08_invariance.py)).
# - **Make the grids alike**: blur before subsampling ([Zhang 2019](../references.md#zhang2019)). The error gets smaller;
#   nothing promises 0. Exercise 2 measures it.
# - **Let the data choose the grid**: keep the one with the larger norm. When the digit moves, the grids change places, and
#   the choice with them: adaptive polyphase sampling ([Chaman and Dokmanić 2021](../references.md#chaman2021)). On a circle
#   it is exact up to the move that the data chose, unless two norms are equal.
#
# [Azulay and Weiss 2019](../references.md#azulay2019) name the cause: strided layers ignore the sampling theorem.
#
# ## What you should have seen
#
# The first half of the exercise's sentence says that convolutional layers are equivariant. That is exact where the total
# stride divides the shift, before and after training. At other shifts the layers behind a stride are off by
# {{ lowest_off:.2f}} to {{ highest_off:.2f}} of their activations' size. It is not the maximum that breaks them, but what
# is thrown away after it.
#
# ## Theory and observation


# %%
#| code-fold: true
#| code-title: "Compare theory and observation"
def exact(name: str, observed: float, n: int, *controls: lab.Control) -> lab.Claim:
    """Theory says 0, up to rounding."""
    why = "float32: sums of k ≤ 145 terms in another order differ by about √k · 2⁻²⁴ ≤ 7.2e-7 of their size"
    return lab.Claim(
        name, "exact", 0, observed, controls, "==", 1e-6, why, kind="exact", n=n
    )


def empirical(name, theory, relation, bound, observed, why, n, *controls) -> lab.Claim:
    """A bound that was set after a pilot run."""
    return lab.Claim(
        name, theory, bound, observed, controls, relation, 0, why, kind="empirical", n=n
    )


# fmt: off
half_step, _, half_step_other = (pool2[0, :, 2] / pool2[0, :, 1::2].amax(1)).tolist()
n, with_stride = len(images), lab.Control("pool1 on the even columns, best move", own_grid, ">=", 0.1)
lab.check([
    exact("all six layers, trained and untrained: equivariance error where S divides the shift", worst, len(on),
          lab.Control("wrong move", wrong, ">=", 0.3), lab.Control("another digit", other, ">=", 0.3)),
    empirical("pool1 to pool2, trained and untrained: smallest mean equivariance error at other shifts",
              "not guaranteed, broken in general", ">=", 0.05, lowest_off,
              "50,000 × what rounding can do; a pilot on these six networks gave 0.3",
              off.numel(), lab.Control("where S divides the shift", worst, "<=", 1e-6)),
    empirical("trained pool2: error at t mod 4 = 2 over that at 1 and 3",
              "half a step is the farthest", ">=", 1.1, half_step,
              "without an effect it is 1; a pilot on three seeds gave 1.4, and 0.99 for another digit",
              6 * 3 * n, lab.Control("the same ratio for another digit", half_step_other, "<=", 1.05)),
    exact("pool1 without its stride, 1 px: error", dense_error, n, with_stride),
    exact("pool1, 1 px: error against the odd columns", other_grid, n, with_stride),
], data=mnist, seeds=SEEDS)
# fmt: on

# %% [markdown]
# ## Try it yourself
#
# In the [live lab](../live.md), open *Both networks side by side*: you see each stride break at 1, 2 and 4 px.
#
# The size of an error depends on the layer, for instance on its bias. So compare networks by *error ÷ control*.
#
# **Exercise 1.** Replace both max poolings of the trained networks by average poolings (`nn.AvgPool2d(2)`). At which
# shifts is `pool2` exact now? Is it closer to equivariant at the others?
#
# **Exercise 2.** Blur before you subsample: a maximum with stride 1, then a fixed 3 × 3 binomial filter with stride 2
# ([Zhang 2019](../references.md#zhang2019)). By how much does the error of `pool2` fall? Does it become 0?


# %%
#| fold: "Solution 1"
#| text: >-
#|   The same shifts are exact, since the stride is the same. An average of 2 × 2 is a blur, but a short one: it helps a
#|   little at 1 and 3 px, and not at 2 px. The numbers stand below solution 2.
def measured(nets: list[nn.Module]) -> tuple[torch.Tensor, float]:
    """pool2: error ÷ another digit's at 1, 2 and 3 px, 3 networks; largest error at 4 px."""
    found = torch.stack(
        [torch.stack([errors_at(n, 0, t)[5] for t in range(1, 5)]) for n in nets]
    )
    error, _, unrelated = found[:, :3].mean(-1).unbind(-1)
    return error / unrelated, found[:, 3, 0].max().item()


averaging = copy.deepcopy(trained)
for net in averaging:
    net.pool1, net.pool2 = nn.AvgPool2d(2), nn.AvgPool2d(2)
(maximum, maximum_4), (average, average_4) = measured(trained), measured(averaging)


# %%
#| fold: "Solution 2"
#| text: >-
#|   Blurring makes the grids more alike, not equal: the error falls at 1, 2 and 3 px, and becomes 0 at none of them. The
#|   blurred networks were not trained again: this is what the filter does to the maps.
def blur_pool(channels: int) -> nn.Sequential:
    """Dense maximum, binomial blur, subsampling."""
    blur = nn.Conv2d(channels, channels, 3, stride=2, groups=channels, bias=False)
    line = torch.tensor([0.25, 0.5, 0.25])
    blur.weight.data.copy_(torch.outer(line, line).expand_as(blur.weight))
    return nn.Sequential(nn.MaxPool2d(2, stride=1), blur)


blurred = copy.deepcopy(trained)
for net in blurred:
    net.pool1, net.pool2 = blur_pool(16), blur_pool(32)
    net.fc1 = nn.AdaptiveAvgPool1d(64)  # pool2 is smaller now, what follows must fit
blur, blur_4 = measured(blurred)


# %%
def told(ratio: torch.Tensor) -> str:
    """Mean ± standard deviation of the networks, as cells of a table."""
    values = zip(ratio.mean(0).tolist(), ratio.std(0).tolist(), strict=True)
    return " | ".join(f"{mean:.2f} ± {std:.2f}" for mean, std in values)


# %% [markdown]
# Error of `pool2` ÷ error of another digit; mean ± standard deviation of three networks:
#
# | pooling | 1 px | 2 px | 3 px | largest error at 4 px |
# |---|---|---|---|---|
# | maximum | {{ told(maximum)}} | {{ maximum_4:.1g}} |
# | average | {{ told(average)}} | {{ average_4:.1g}} |
# | maximum, blurred | {{ told(blur)}} | {{ blur_4:.1g}} |

# %%
#| code-fold: true
#| code-title: "Compare theory and observation in the solutions"
averaged, blurs = ((of / maximum).mean(1) for of in (average, blur))
by_average = lab.Control("average, smallest", averaged.min().item(), ">=", 0.85)
off_4 = (
    lab.Control("at 1 to 3 px", of.min().item(), ">=", 0.05) for of in (average, blur)
)
# fmt: off
lab.check([
    exact("pool2 averaged, 4 px: largest error", average_4, 3 * n, next(off_4)),
    exact("pool2 blurred, 4 px: largest error", blur_4, 3 * n, next(off_4)),
    empirical("pool2 blurred, 1 to 3 px: error ÷ control, over that without blur, largest",
              "smaller than without the blur", "<=", 0.85, blurs.max().item(),
              "a pilot on three seeds gave 0.70, and for average pooling 0.94", len(blurs), by_average),
], data=mnist, seeds=SEEDS)
# fmt: on

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: A network without padding has strides 2, 1, 2 and 2, in this order. At which shifts is its last map certain to move along exactly?
#   choices:
#     - {text: "the even ones", why: "That holds behind the first stride. The later ones multiply it."}
#     - {text: "the multiples of 4", why: "That holds behind the third layer. The last stride doubles the step."}
#     - {text: "the multiples of 8", right: true, why: "The total stride is 2 · 1 · 2 · 2 = 8."}
# - question: You set the strides of `pool1` and `pool2` to 1 and keep their windows. At which shifts is `pool2` equivariant, on the overlap?
#   choices:
#     - {text: "all", right: true, why: "All windows lie 1 px apart then: the theorem with S = 1."}
#     - {text: "the even ones, since the windows are 2 wide", why: "What counts is how far the windows lie apart, not how wide they are."}
#     - {text: "none, since the maximum is not linear", why: "The theorem allows any function of the window, as long as it is the same everywhere."}
# - question: Two layers have equivariance errors of 10 % and 30 % at 1 px. Is the first closer to equivariant?
#   choices:
#     - {text: "yes, since 10 % is less", why: "A large bias makes every error of a layer small, that of another digit too."}
#     - {text: "not known without their controls", right: true, why: "If another digit has 10 % in the first layer and 100 % in the second, it is the second that tells a moved digit from another one."}
#     - {text: "no, layers can never be compared", why: "Divided by the error of another digit in the same layer, they can."}
# ```
