# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: What equivariant and invariant mean, drawn as one commuting square, and how to check each of them.
# ---
# # 1. Two words, one commuting square
#
# You move a digit, and look at what a layer makes of it. Does the output move along? Then the layer is *equivariant*.
# Does the output stay the same? Then the layer is *invariant*. This page makes both words exact with one picture, and
# then measures them. Nothing is trained before the last exercise.

# %%
#| code-fold: true
#| code-title: Load 500 digits, and draw the square with an open corner
#| alt: >-
#|   A square of four pictures with arrows between them. Top left a digit 4, top right its feature map, bottom left the
#|   moved digit. The picture at the bottom right is empty, with a question mark.
#| caption: >-
#|   Two ways lead from the digit *x* to the lower right corner. Apply the layer *f*, then move its output by *T*; or move
#|   the digit by *T*, then apply *f*. Do both ways end at the same picture?
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import lab
from lab.plotting import COLORS, CONTROL_LOOK, draw_panels

SEED = 0
mnist = lab.load_mnist()
digits = mnist.test.sample(500, seed=SEED)
images = digits.images  # 500 × 1 × 28 × 28, from 0 (background) to 1 (ink)
four = images[digits.labels == 4][:1]
torch.set_grad_enabled(False)
torch.manual_seed(SEED)
conv = nn.Conv2d(1, 8, 3, padding=1, padding_mode="circular")

figure, axes = plt.subplots(2, 2, figsize=(4.4, 4.5), layout="constrained")
figure.get_layout_engine().set(wspace=0.3, hspace=0.22)
unknown = torch.full((28, 28), torch.nan)
panels = [("x", four[0, 0], "image"), ("f(x)", conv(four)[0, 0], "feature")]
panels += [("T x", lab.shift(four, 3, -4, mode="wrap")[0, 0], "image")]
draw_panels(axes.flat, [*panels, ("f(T x), T f(x)", unknown, "feature")])
for axis in axes.flat:
    axis.title.set_fontsize(13)
axes[1, 1].text(13.5, 13.5, "?", fontsize=40, ha="center", va="center")
arrows = (0.5, 0.74, "f →"), (0.5, 0.23, "f →"), (0.23, 0.5, "T ↓"), (0.77, 0.5, "T ↓")
for x, y, arrow in arrows:
    _ = figure.text(x, y, arrow, ha="center", va="center", fontsize=14)

# %% [markdown]
# !!! abstract "After this page you can"
#     - draw the commuting square, and read *equivariant* and *invariant* off it;
#     - prove that a convolution commutes with translation, and say what in the layer makes it so;
#     - measure whether a layer commutes, with a control beside the number;
#     - say what a stride does to the square, and what an invariant output no longer knows.
#
# ## The square, in words
#
# A [translation](../glossary.md#translation) $T_t$ moves an image by the [shift](../glossary.md#shift) $t = (dy, dx)$:
# $dy$ pixels down and $dx$ pixels to the right. On this page it is *circular*: what leaves the picture on one side comes
# in on the other side, so that nothing is lost. ([Page 2](02_shifting.py) shows other ways, and their price.)


# %%
def move(x, dy, dx):
    """T: moves images or feature maps in a circle."""
    return lab.shift(x, dy, dx, mode="wrap")


# %% [markdown]
# Translations obey two laws: $T_0\,x = x$, and $T_s\,T_t\,x = T_{s+t}\,x$. Together they say that every translation can
# be undone, by $T_{-t}$. Moves with these two laws are called a [group action](../glossary.md#group-action). An image of
# 28 × 28 pixels has 28 · 28 = 784 circular translations.
#
# Let $f$ be a layer, or a whole network. Its output $f(x)$ may be moved too; write $T'_t$ for the moves of the output.
# They have to obey the same two laws. The square above *commutes* if both ways give the same output, for **all** images
# and **all** shifts:
#
# $$f(T_t\,x) = T'_t\,f(x) \quad \text{for all } t \text{ and } x .$$
#
# Then $f$ is [equivariant](../glossary.md#equivariance) to translation. Which $T'$ is meant must always be said. Two have
# names:
#
# - $T'_t = T_t$: the output moves along, as far as the image. In this course, *equivariant* without more means this.
# - $T'_t$ does nothing: $f(T_t\,x) = f(x)$. Then $f$ is [invariant](../glossary.md#invariance). So invariance is a special
#   case of equivariance.
#
# ## Which layers make the square commute?
#
# Here are four layers with random weights. The *convolution* computes each output from a window of 3 × 3 pixels, with the
# same weights for every window, and adds one bias for each channel. (A [channel](../glossary.md#channel) is one output
# picture, also called a feature map; this convolution has eight.) At the edge its windows continue on the other side of
# the picture. *ReLU* replaces negative numbers by 0. The *per-pixel bias*
# adds a fixed random picture to the image. The *fully connected* layer has a weight of its own for each pair of an input pixel
# and an output pixel; its 784 outputs are arranged as a picture again.


# %%
positions = torch.rand(28, 28)
dense = nn.Linear(784, 784)
layers = {
    "convolution": conv,
    "ReLU": torch.relu,
    "per-pixel bias": lambda x: x + positions,
    "fully connected": lambda x: dense(x.flatten(1)).view_as(x),
}

# %% [markdown]
# ```predict
# id: which-commute
# question: For which of these layers does the output move along, $f(T_t\,x) = T_t\,f(x)$?
# choices:
#   - "none: the weights are random, nobody trained them"
#   - the convolution only
#   - the convolution and ReLU
#   - the convolution, ReLU and the per-pixel bias
#   - all four
# ```

# %% [markdown]
# Measure how far apart the two ways end, relative to the size of the output. This is the *equivariance error* of an
# image; 0 means that the two ways agree. A number alone says little. So measure the same with $T f$ of *another* digit as well:
# this is the [control](../glossary.md#control). An error as large as its control means that your prediction of the output
# is no better than another digit's output.


# %%
def square(f, dy, dx):
    """Equivariance error of each image, and its control."""
    moved = f(move(images, dy, dx))  # down, then right
    expected = move(f(images), dy, dx)  # right, then down
    other = expected[lab.derangement(len(images))]  # each with another digit's
    error = lab.equivariance_error(moved, expected)
    return error, lab.equivariance_error(moved, other)


SHIFTS = (1, 0), (3, -5), (-9, 13)
error, control = {}, {}
for name, f in layers.items():
    found = [square(f, *shift) for shift in SHIFTS]
    error[name], control[name] = map(torch.cat, zip(*found, strict=True))

# %%
#| code-fold: true
#| code-title: Draw a square that commutes above one that does not
#| label: square
#| alt: >-
#|   Two rows of pictures: f(x), T f(x), f(T x) and their difference. For the convolution the second and third picture are
#|   the same, and the difference is blank. For the per-pixel bias the random pattern moves in the second picture and stays
#|   in the third, and the difference shows it.
#| caption: >-
#|   Above, the convolution (one channel): the two ways agree, and their difference is 0 everywhere. Below, the per-pixel
#|   bias: moved with the output, its pattern stands at another place than when it is added to the moved digit.
figure, axes = plt.subplots(2, 4, figsize=(6.2, 3.6), layout="constrained")
for row, (name, title) in zip(
    axes, {"convolution": "conv", "per-pixel bias": "bias"}.items(), strict=True
):
    f = layers[name]
    maps = f(four), move(f(four), 3, -4), f(move(four, 3, -4))
    maps = [values[0, 0] for values in maps]
    names = "f(x)", "T f(x)", "f(T x)"
    panels = [(*pair, "feature") for pair in zip(names, maps, strict=True)]
    draw_panels(row, [*panels, ("difference", maps[2] - maps[1], "difference")])
    row[0].set_ylabel(title, fontsize=13)
for axis in axes.flat:
    axis.title.set_fontsize(12)

# %% [markdown]
# Over {{ len(images):,d }} digits and {{ len(SHIFTS) }} shifts:
#
# | layer | error, mean | error, largest | control: another digit, mean |
# |---|---|---|---|
# | convolution | {{ error["convolution"].mean():.2g }} | {{ error["convolution"].max():.2g }} | {{ control["convolution"].mean():.2f }} |
# | ReLU | {{ error["ReLU"].mean():.2g }} | {{ error["ReLU"].max():.2g }} | {{ control["ReLU"].mean():.2f }} |
# | per-pixel bias | {{ error["per-pixel bias"].mean():.2f }} | {{ error["per-pixel bias"].max():.2f }} | {{ control["per-pixel bias"].mean():.2f }} |
# | fully connected | {{ error["fully connected"].mean():.2f }} | {{ error["fully connected"].max():.2f }} | {{ control["fully connected"].mean():.2f }} |

# %% [markdown]
# ```observed
# id: which-commute
# right: 3
# value: "convolution {{ error['convolution'].max():.1g}}, ReLU {{ error['ReLU'].max():.1g }}, per-pixel bias {{ error['per-pixel bias'].mean():.2f }}, fully connected {{ error['fully connected'].mean():.2f }}"
# reason: |
#   A convolution treats every window in the same way, and ReLU every number. Neither asks *where* it is, so both commute,
#   with any weights: training is not needed. The per-pixel bias depends on the place: it stays where it is while the
#   digit moves. (A positional embedding does the same, on purpose.) The fully connected layer has other weights at every
#   place; its error is as large as its control. Compare each error with *its own* control only. The control of the per-pixel bias is
#   smaller than the others, because the added picture is the same for all digits.
# ```

# %% [markdown]
# ## Why does a convolution commute?
#
# **Theorem.** A convolution with stride 1 on a circular grid commutes with every circular translation, whatever its
# weights are.
#
# **Proof.** Let $w$ be the [kernel](../glossary.md#kernel), the weights of the window; $u$ runs over the places in the
# window, $b$ is the bias, and $i$ is the place of the output. Places are counted around the circle. By definition,
# $f(x)[i] = b + \sum_u w[u]\,x[i + u]$ and $(T_t\,x)[i] = x[i - t]$. So
#
# $$f(T_t\,x)[i] = b + \sum_u w[u]\,(T_t\,x)[i + u] = b + \sum_u w[u]\,x[i - t + u] = f(x)[i - t] = (T_t\,f(x))[i] .$$
#
# The third step reads the sum as the output at the place $i - t$. It may, because $w[u]$ and $b$ do not depend on $i$. ∎
#
# With several input channels there is one such sum for each of them. ReLU commutes for the same reason: its window is a
# single pixel, and it does the same with each.
#
# Using the same weights at every place is called **weight sharing**. It *guarantees* equivariance, for all values of the
# weights. Without it, special values can still do: a fully connected layer whose weights happen to be those of a
# convolution commutes too. There is even a converse. A linear map from images to images commutes with all circular translations
# only if it *is* a circular convolution, with a kernel that may be as large as the image
# ([Kondor and Trivedi 2018](../references.md#kondor2018) prove it for all compact groups). In exercise 2 you make one
# out of the fully connected layer.
#
# **Layers in a row.** Say that $f$ *turns $T$ into $T'$* if the square commutes with this $T'$. Let $f$ turn $T$ into
# $T'$, and let $g$ turn $T'$ into $T''$. Then both in a row turn $T$ into $T''$:
#
# $$g(f(T_t\,x)) = g(T'_t\,f(x)) = T''_t\,g(f(x)) .$$
#
# ??? abstract "Optional: why must T′ be stated?"
#     Suppose $f(x) = Wx$ is a fully connected layer whose square matrix can be inverted, as a random one nearly always can.
#     Then $W T_t\,x = (W T_t W^{-1})\,W x$. So the square commutes with $T'_t = W T_t W^{-1}$, and every invertible layer
#     passes in this way. What failed above is a stronger sentence: *the output, read as a picture, moves along*. One can
#     also learn $T'$ from data and see how well it fits, as [Lenc and Vedaldi 2015](../references.md#lenc2015) did.
#
# ??? abstract "Optional: other moves than translations"
#     The square works for other moves too. Let $R$ be the mirror, left to right. A convolution with the kernel $w$ sees
#     in the mirrored image what a convolution with the mirrored kernel sees in the image itself:
#     $f_w(R\,x) = R\,f_{Rw}(x)$. So it commutes with the mirror if $w$ is symmetric, and in general not. "Equivariant" is
#     complete only with the group it refers to. Networks that share weights over mirrors and rotations as
#     well are [group-equivariant CNNs](../references.md#cohen2016).
#
# ## When does the output stay the same?
#
# Now ask for invariance. Take the convolution and ReLU, and then make a few numbers of the feature maps, in two ways:
#
# 1. **global maximum**: the largest value of each channel, 8 numbers;
# 2. **flatten, linear**: all 8 · 784 values in one long list, then a fully connected layer with 10 outputs.

# %%
head = nn.Linear(8 * 784, 10)


def feature_map(x):
    """The convolution and ReLU."""
    return conv(x).relu()


networks = {
    "feature map": feature_map,
    "flatten, linear": lambda x: head(feature_map(x).flatten(1)),
    "global maximum": lambda x: feature_map(x).amax((2, 3)),
}

# %% [markdown]
# ```predict
# id: which-invariant
# question: Move the 4 to each of its 784 places. Which outputs stay the same at all of them?
# choices:
#   - "both: the convolution has taken care of the translation"
#   - only the global maximum
#   - only flatten and linear, since it sees the whole map
#   - "neither: the weights are random"
# ```

# %% [markdown]
# The *invariance error* is the distance between $f(T_t\,x)$ and $f(x)$, divided by the mean distance between the outputs
# for two different digits: 0 is invariant, and about 1 is as far away as another digit. Here it
# is over the [orbit](../glossary.md#orbit) of the 4: all its 784 translations.

# %%
places = [(dy, dx) for dy in range(28) for dx in range(28)]
orbit = torch.cat([move(four, *place) for place in places])
errors = {}
for name, f in networks.items():
    outputs, all_digits = f(orbit).flatten(1), f(images).flatten(1)
    unit = (all_digits - all_digits[lab.derangement(len(images))]).norm(dim=1).mean()
    errors[name] = (outputs - outputs[0]).norm(dim=1) / unit
moved = {name: values[1:].mean() for name, values in errors.items()}  # without t = 0

# %%
#| code-fold: true
#| code-title: Draw the invariance error at all 784 places
#| alt: >-
#|   Three square maps of the invariance error. Feature map, and flatten and linear: dark only in the centre, bright
#|   elsewhere. Global maximum: dark everywhere.
#| caption: >-
#|   Each pixel is one of the 784 translations, no translation in the centre; dark is an unchanged output. Only the
#|   global maximum is the same everywhere. The feature map tells all places apart.
figure, axes = plt.subplots(1, 3, figsize=(6.2, 2.5), layout="constrained")
top = max(float(values.max()) for values in errors.values())
for axis, (name, values) in zip(axes, errors.items(), strict=True):
    picture = values.view(28, 28).roll((14, 14), (0, 1))
    drawn = axis.imshow(picture, "viridis", vmin=0, vmax=top)
    axis.set_title(name, fontsize=12)
    axis.set(xticks=[], yticks=[])
bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
bar.set_label("invariance error", fontsize=12)
bar.ax.tick_params(labelsize=12)

# %% [markdown]
# ```observed
# id: which-invariant
# right: 2
# value: "global maximum {{ errors['global maximum'].max():.1g }} at all places; flatten, linear {{ moved['flatten, linear']:.2f }} on average"
# reason: |
#   The convolution moves its output along, so the feature map is *not* the same: its error is {{ moved["feature map"]:.2f }}
#   on average. Moving the values of a channel around does not change which is the largest, so the maximum stays. The linear layer has
#   another weight for each place, so it notices where the values are.
# ```

# %% [markdown]
# In general: let $f$ turn $T$ into $T'$, and let $g$ be invariant to $T'$. Then $T''$ does nothing, and the line about
# layers in a row says $g(f(T_t\,x)) = g(f(x))$. **Equivariant layers, then a global pool**: that is the standard way
# to build an invariant network. ([Page 8](08_invariance.py) trains one.) The mean over all places works as well, up to rounding.
#
# Invariance has a price: **an invariant output no longer knows where the digit is**, since all 784 places give the same
# numbers. The feature map knows: over all translations, the one that changes it least still changes it by
# {{ errors["feature map"][1:].min():.2f }}. So keep equivariant layers as long as you can, and pool at the end, if the task does not ask for
# the place.
#
# ## What does a stride do to the square?
#
# *Max pooling* with a window of 2 pixels and a [stride](../glossary.md#stride) of 2 keeps the larger pixel of each pair:
# first and second, third and fourth, and so on. A row of eight pixels becomes four.

# %%
row = torch.tensor([[0.0, 1.0, 5.0, 2.0, 0.0, 0.0, 0.0, 0.0]])
pool = nn.MaxPool1d(2)  # stride 2: 0 1 | 5 2 | 0 0 | 0 0 becomes 1 5 0 0

# %% [markdown]
# ```predict
# id: row-moved
# question: "Move the row by one pixel to the right. `[1, 5, 0, 0]` becomes:"
# choices:
#   - "`[1, 5, 0, 0]`: it stays the same"
#   - "`[0, 1, 5, 0]`: it moves along by one"
#   - "`[0, 5, 2, 0]`: other numbers"
# ```

# %%
#| code-fold: true
#| code-title: Draw the row and its maxima
#| alt: >-
#|   Three rows of eight numbered cells, moved by 0, 1 and 2 pixels, each beside its four maxima: 1 5 0 0; then 0 5 2 0;
#|   then 0 1 5 0.
#| caption: >-
#|   The row moved by 0, 1 and 2 pixels, and the maximum of each pair. By two pixels, the output moves by one. By one pixel, the
#|   pairs are other pairs: the 1 is gone from the output, and a 2 has come.
figure, axes = plt.subplots(
    3, 2, figsize=(6.2, 2.6), width_ratios=(2, 1), layout="constrained"
)
for dx, (left, right) in enumerate(axes):
    for axis, cells in ((left, move(row, 0, dx)), (right, pool(move(row, 0, dx)))):
        axis.imshow(cells, "gray_r", vmin=0, vmax=12, aspect="auto")
        for place, value in enumerate(cells[0].int().tolist()):
            axis.text(
                place, 0, value, ha="center", va="center", fontsize=13, color="black"
            )
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(True)
    left.set_ylabel(f"{dx} px", rotation=0, ha="right", va="center", fontsize=12)
    for edge in (1.5, 3.5, 5.5):
        left.axvline(edge, color=COLORS[1], linewidth=2)
axes[0, 0].set_title("row, in pairs", fontsize=12)
_ = axes[0, 1].set_title("maxima", fontsize=12)

# %% [markdown]
# ```observed
# id: row-moved
# right: 3
# value: "`{{ pool(move(row, 0, 1))[0].int().tolist() }}`"
# reason: |
#   The pairs stay where they are while the pixels move. So 5 and 2, one pair before, are in two pairs now, and 2 becomes a maximum of its own.
#   The values themselves have changed: no move of the old output gives the new one. Moved by *two* pixels, every pair finds
#   the pixels of the pair before it, and the output moves by one.
# ```

# %% [markdown]
# And digits? Take convolution, ReLU, max pooling with stride 2, another convolution, ReLU. Strides multiply along the way; their
# product, here $S = 2$, is the [total stride](../glossary.md#total-stride). A shift by $t$ should move the output by
# $t / S$ of *its* pixels. Where that is not a whole number, try the two whole moves next to it and take the better one,
# for the control too.

# %% [markdown]
# ```predict
# id: stride-digits
# question: At which of the shifts 0, 1, 2, …, 8 pixels to the right does the output move along exactly?
# choices:
#   - at all of them
#   - at the even ones
#   - "at 0 only: the second convolution mixes what pooling has changed"
# ```

# %%
conv2 = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
stack = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), conv2, nn.ReLU())
maps = stack(images)  # 500 × 8 × 14 × 14
others = maps[lab.derangement(len(images))]


def best_error(maps, moved, dx):
    """The smaller error of the whole moves next to dx / 2."""
    moves = dx // 2, (dx + 1) // 2  # the same, where dx is even
    found = [lab.equivariance_error(moved, move(maps, 0, m)) for m in moves]
    return torch.stack(found).amin(0)


seen = [stack(move(images, 0, dx)) for dx in range(9)]
by_shift = [best_error(maps, moved, dx) for dx, moved in enumerate(seen)]
by_shift_control = [best_error(others, moved, dx) for dx, moved in enumerate(seen)]

# %%
#| code-fold: true
#| code-title: Draw the error against the shift
#| alt: >-
#|   Mean equivariance error of the stack against the shift: zero at the even shifts from 0 to 8 pixels, far above zero at
#|   the odd ones; the control lies above it throughout.
#| caption: >-
#|   Total stride 2: the output moves along exactly at every even shift, and at no odd one. Dash-dotted: the control, the
#|   output for another digit.
figure, axis = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
means = [errors.mean() for errors in by_shift]
axis.plot(means, color=COLORS[0], marker="o", label="best whole move")
control_means = [errors.mean() for errors in by_shift_control]
axis.plot(control_means, label="control: another digit", **CONTROL_LOOK)
axis.set_xlabel("shift to the right (px)", fontsize=12)
axis.set_ylabel("equivariance error", fontsize=12)
axis.set(ylim=(0, None))
axis.tick_params(labelsize=12)
_ = figure.legend(loc="outside upper center", ncols=2, fontsize=12)

# %% [markdown]
# ```observed
# id: stride-digits
# right: 2
# value: "at 1 px {{ by_shift[1].mean():.2f }} (another digit: {{ by_shift_control[1].mean():.2f }}), at 2 px {{ by_shift[2].max():.1g }}"
# reason: |
#   At even shifts whole pairs move along, and the convolution behind the pooling takes over the moved map: the square
#   commutes with $T'_t = T_{t/S}$. At odd shifts no whole move of the output fits. The best one still leaves
#   {{ means[1] / control_means[1]:.0%}} of the error that another digit has.
# ```

# %% [markdown]
# So a layer behind a total stride of $S$ is equivariant to fewer translations: those by multiples of $S$, here
# 14 · 14 = 196 of the 784. At the others we have seen only that no *whole* move of the output fits. Why that is so, you see on
# [page 5](05_strides.py); whether a *half* move would fit is another question, and [page 7](07_aliasing.py) asks it.
#
# ## On paper and in code
#
# The notation of all pages:
#
# | On paper | In code |
# |---|---|
# | $x$, an image; $x'$, another one | `images`, `n × 1 × 28 × 28`, from 0 to 1 |
# | $t = (dy, dx)$, a shift in pixels | `dy, dx`: down and right are positive |
# | $T_t\,x$, the image moved by $t$ | `lab.shift(x, dy, dx)`; circular: `mode="wrap"` |
# | $f$, a layer or a network; $f(x)$, its activations | `lab.activations(model, lab.normalize(x))["conv1"]` |
# | $w[u]$, $b$: weights and bias of a convolution; $k$: its window has $k \times k$ pixels | `conv.weight`, `conv.bias`, `kernel_size` |
# | $S$, total stride: the product of all strides so far | `model.STRIDES["conv1"]` |
# | $T_{t/S}\,f(x)$, where $S$ divides $t$ | `lab.shift(fx, dy // S, dx // S)` |
# | $M$: 1 where the two ways can be compared, else 0 | `valid`, a Boolean mask |
# | $E = \frac{\norm{M\,(f(T_t x) - T'_t f(x))}}{\norm{M\,T'_t f(x)}}$, equivariance error | [`lab.equivariance_error(moved, expected, valid)`][lab.metrics.equivariance_error] |
# | $\frac{\norm{f(T_t x) - f(x)}}{\text{mean of } \norm{f(x) - f(x')}}$, invariance error | [`lab.invariance_error(fx, ftx)`][lab.metrics.invariance_error] |
#
# ## Theory and observation
#
# Everything once more, as claims that could have failed. The two numbers of a control are what was measured and what it
# had to be. A float32 sum of $n$ terms in another order typically differs by at most about $\sqrt{n} \cdot 2^{-24}$ of the
# sum of the terms' sizes; the tolerances come from there.


# %%
#| code-fold: true
#| code-title: Two kinds of claims, and of controls
def low(what, values, bound=1e-5):
    """A control whose largest value has to come out small."""
    return lab.Control(what, float(values.max()), "<=", bound)


def high(what, values, bound):
    """A control whose mean has to come out large."""
    return lab.Control(what, float(values.mean()), ">=", bound)


def exact(name, values, *controls, tolerance=0.0, why=""):
    """The largest of the values is 0, up to the tolerance."""
    seen, many = float(values.max()), values.numel()
    return lab.Claim(
        name, "exact", 0.0, seen, controls, "==", tolerance, why, kind="exact", n=many
    )


def broken(name, values, bound, pilot, *controls):
    """The mean of the values is at least the bound."""
    why = f"a fifth, or less, of what a pilot run with five sets of weights and digits saw: {pilot}"
    seen, many = float(values.mean()), values.numel()
    return lab.Claim(
        name, "broken", bound, seen, controls, ">=", why=why, kind="empirical", n=many
    )


# %%
#| code-fold: true
#| code-title: Whether T moves down and right
room = lab.ink_margins(images)  # blank lines on each side
roomy = room.fits(3, -5)
now = lab.ink_margins(move(images[roomy], 3, -5))
down, left = room.down[roomy], room.left[roomy]
as_said = ((now.down == down - 3) & (now.left == left - 5)).double()
turned = ((now.down == down + 3) & (now.left == left + 5)).double()
direction = lab.Claim(
    "T by (3, −5): share of digits that lie 3 px lower and 5 px further left",
    "definition of T",
    1.0,
    float(as_said.mean()),
    (lab.Control("higher and further right", float(turned.mean()), "<=", 0.0),),
    kind="by construction",
    n=len(as_said),
)

# %%
#| code-fold: true
#| code-title: The claims about the square
SUM10 = "float32: sums of 10 terms, √10 · 2⁻²⁴ = 2e-7 of their size"
SUM73 = "float32: sums of up to 73 terms, √73 · 2⁻²⁴ = 5e-7 of their size"
tied, _ = square(lambda x: x + positions.mean(), 3, -5)  # one bias for all pixels
square_claims = [
    exact(
        "convolution: equivariance error, largest",
        error["convolution"],
        high("another digit", control["convolution"], 0.3),
        tolerance=1e-6,
        why=SUM10,
    ),
    exact(
        "ReLU: equivariance error, largest",
        error["ReLU"],
        high("another digit", control["ReLU"], 0.3),
    ),
    broken(
        "per-pixel bias: equivariance error, mean",
        error["per-pixel bias"],
        0.1,
        "0.52 to 0.56",
        low("the same bias for all pixels", tied),
    ),
    broken(
        "fully connected: equivariance error, mean",
        error["fully connected"],
        0.3,
        "1.4",
        low("convolution", error["convolution"]),
    ),
]

# %%
#| code-fold: true
#| code-title: The claims about invariance and the stride
even, odd = torch.stack(by_shift[::2]), torch.stack(by_shift[1::2])
even_control = torch.stack(by_shift_control[::2])
more_claims = [
    exact(
        "global maximum: invariance error over the 784 places, largest",
        errors["global maximum"],
        high("feature map", errors["feature map"], 0.3),
        tolerance=1e-6,
        why=SUM10,
    ),
    broken(
        "flatten, linear: invariance error over the 783 moves, mean",
        errors["flatten, linear"][1:],
        0.2,
        "1.0 to 1.3 at large shifts",
        low("global maximum", errors["global maximum"]),
    ),
    exact(
        "total stride 2, even shifts: equivariance error, largest",
        even,
        high("odd shifts", odd, 0.04),
        high("another digit", even_control, 0.2),
        tolerance=1e-6,
        why=SUM73,
    ),
    broken(
        "total stride 2, odd shifts: error of the best whole move, mean",
        odd,
        0.04,
        "0.23 to 0.45",
        low("even shifts", even),
    ),
]
lab.check([direction, *square_claims, *more_claims], data=mnist, seeds=[SEED])

# %% [markdown]
# ## Try it yourself
#
# **Exercise 1.** Give the convolution the usual zero padding, `nn.Conv2d(1, 8, 3, padding=1)`, and translate circularly
# by (3, −5). Predict *where* $f(T x)$ and $T f(x)$ can differ, and build the mask $M$: 1 where they must agree, 0 elsewhere.
#
# **Exercise 2.** Make the fully connected layer equivariant: average its matrix over all translations,
# $\frac{1}{784}\sum_t T_t^{-1}\,W\,T_t$. What kind of matrix comes out?
#
# **Exercise 3.** Train the network of [the exercise](03_exercise.py) twice: on the digits as they are, and on digits moved
# at random by up to 4 pixels (this is called *augmentation*). What changes in `conv1`, in `fc1`, and in the accuracy?

# %%
#| fold: Solution 1
#| text: >-
#|   An output in the outermost rows and columns has seen zeros where the circular world has the pixels of the other side. On the way
#|   *right, then down* of the square, this border is computed first and then moved; on the way *down, then right* it is at the edge. So
#|   there are two borders where the two ways can differ: the one at the edge, and the moved one. Outside both they agree.
zero_padded = nn.Conv2d(1, 8, 3, padding=1)
border = torch.ones(1, 1, 28, 28)
border[..., 1:-1, 1:-1] = 0
valid = (border + move(border, 3, -5)) == 0
moved = zero_padded(move(images, 3, -5))
expected = move(zero_padded(images), 3, -5)
everywhere = lab.equivariance_error(moved, expected)
outside = lab.equivariance_error(moved, expected, valid)
other = expected[lab.derangement(len(images))]
outside_control = lab.equivariance_error(moved, other, valid)
print(f"whole map {everywhere.mean():.2g}; outside both borders {outside.max():.1g}")

# %%
#| fold: Solution 2
#| text: >-
#|   The average commutes with every translation, because translating it only reorders its terms. All its rows are
#|   translations of the first one, so that 784 free weights are left of 614,656: it is a circular convolution with a
#|   kernel as large as the image. The bias must be averaged too. Moving rows and columns together is `roll` over both
#|   indices; the vertical and the horizontal average can be taken one after the other.
W = dense.weight.view(28, 28, 28, 28)  # row, column of the output, then of the input
for pair in ((0, 2), (1, 3)):
    W = torch.stack([W.roll((step, step), pair) for step in range(28)]).mean(0)
W, b = W.reshape(784, 784), dense.bias.mean()


def averaged(x):
    """The fully connected layer, averaged over all translations."""
    return F.linear(x.flatten(1), W, b).view_as(x)


after, after_control = square(averaged, 3, -5)
before, _ = square(layers["fully connected"], 3, -5)
print(f"before {before.mean():.2f}; averaged {after.max():.1g}")

# %%
#| fold: Solution 3
#| text: >-
#|   `conv1` commuted before, and does so after: there was nothing to gain. `fc1` changes less when the digit moves, but
#|   still changes. On moved digits the network is right more often than before; on the digits where MNIST put them, less often. One
#|   linear layer now has to serve all places. So augmentation buys *approximate* invariance to the moves that it has shown; it
#|   shares no weights. (One network of each kind here. [Page 2](02_shifting.py) tells how the moved test pairs are made.)
generator = torch.Generator().manual_seed(SEED)
moves = torch.randint(-4, 5, (2, len(mnist.train)), generator=generator)
augmented = lab.Split(lab.shift(mnist.train.images, *moves), mnist.train.labels)
sample = mnist.test.sample(2000, seed=SEED)
pairs = lab.translated_pairs(sample, max_shift=4, margin=1, seed=SEED)
moved_test = lab.Split(pairs.second, pairs.labels)
trained = {}
torch.set_grad_enabled(True)
for name, split in {"as they are": mnist.train, "moved": augmented}.items():
    trained[name] = lab.build_model("given", seed=SEED)
    lab.fit(trained[name], split, cache=lab.data_root() / "checkpoints")

# %%
#| fold: Solution 3, measured
#| text: |
#|   | trained on digits | `conv1`: error, largest | `fc1`: invariance error | right, in place | right, moved |
#|   |---|---|---|---|---|
#|   | as they are | {{ conv1["as they are"].max():.1g }} | {{ fc1["as they are"].mean():.2f }} | {{ in_place["as they are"]:.1% }} | {{ on_moved["as they are"]:.1% }} |
#|   | moved | {{ conv1["moved"].max():.1g }} | {{ fc1["moved"].mean():.2f }} | {{ in_place["moved"]:.1% }} | {{ on_moved["moved"]:.1% }} |
conv1, conv1_control, fc1, in_place, on_moved = {}, {}, {}, {}, {}
for name, model in trained.items():
    first = lab.activations(model, lab.normalize(pairs.first))
    second = lab.activations(model, lab.normalize(pairs.second))
    a, b = first["conv1"], second["conv1"]
    other = a[lab.derangement(len(a))]
    conv1[name] = lab.aligned_error(a, b, pairs.dy, pairs.dx)
    conv1_control[name] = lab.aligned_error(other, b, pairs.dy, pairs.dx)
    fc1[name] = lab.invariance_error(first["fc1"], second["fc1"])
    in_place[name] = lab.evaluate(model, mnist.test).accuracy
    on_moved[name] = lab.evaluate(model, moved_test).accuracy

# %%
#| code-fold: true
#| code-title: The claims about the solutions
SUM784 = "float32: sums of 785 terms, √785 · 2⁻²⁴ = 2e-6 of their size"
SUM5 = "float32: sums of 5 terms, √5 · 2⁻²⁴ = 1.3e-7 of their size"
gain = on_moved["moved"] - on_moved["as they are"]
loss = in_place["as they are"] - in_place["moved"]
left_over = fc1["moved"].mean().item()
fall = fc1["as they are"].mean().item() - left_over
lab.check(
    [
        exact(
            "zero padding, outside both borders: equivariance error, largest",
            outside,
            high("whole map", everywhere, 0.01),
            high("another digit", outside_control, 0.3),
            tolerance=1e-6,
            why=SUM10,
        ),
        exact(
            "fully connected, averaged: equivariance error, largest",
            after,
            high("before", before, 0.3),
            high("another digit", after_control, 0.02),
            tolerance=1e-5,
            why=SUM784,
        ),
        exact(
            "conv1, trained on digits as they are and moved: equivariance error, largest",
            torch.cat(list(conv1.values())),
            high("another digit", torch.cat(list(conv1_control.values())), 0.3),
            tolerance=1e-6,
            why=SUM5,
        ),
        lab.Claim(
            "augmentation: gain in accuracy on moved digits",
            "learned",
            0.05,
            gain,
            (lab.Control("on digits in place", -loss, "<=", 0.0),),
            ">=",
            why="a pilot with three seeds saw 0.16 to 0.28 on the full set, and a loss of 0.16 to 0.21 in place",
            kind="empirical",
            n=len(pairs),
        ),
        lab.Claim(
            "augmentation: by how much fc1's mean invariance error falls",
            "learned",
            0.05,
            fall,
            (lab.Control("what is left", left_over, ">=", 0.1),),
            ">=",
            why="a pilot with three seeds saw 0.15 to 0.36 on the full set, and 0.40 to 0.60 left",
            kind="empirical",
            n=len(pairs),
        ),
    ],
    data=mnist,
    seeds=[SEED],
)

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: Which line says that $f$ is invariant?
#   choices:
#     - {text: "$f(T_t\\,x) = T_t\\,f(x)$ for all $t$ and $x$", why: "This is equivariance: the output moves along with the image."}
#     - {text: "$f(T_t\\,x)$ and $f(x)$ have the same values, perhaps at other places", why: "If the values are at other places, the two outputs differ."}
#     - {text: "$f(T_t\\,x) = f(x)$ for all $t$ and $x$", right: true, why: "The move of the output does nothing."}
#     - {text: "$f(T_t\\,x) = f(x)$ for some $t$ and all $x$", why: "For $t = 0$ every map satisfies this. It must hold for all $t$."}
# - question: Which layer does *not* commute with circular translation?
#   choices:
#     - {text: "an untrained circular convolution with a bias for each channel", why: "It commutes. Training changes the values of the weights; that they are shared does not change. The bias is the same at every place."}
#     - {text: "ReLU", why: "It commutes: each number is treated by itself, and all in the same way."}
#     - {text: "a layer that adds a learned number to each pixel", right: true, why: "What it adds stays where it is while the image moves (unless it learned the same number for all pixels)."}
#     - {text: "multiplying all pixels by the same number", why: "It commutes; it is a convolution with a window of one pixel."}
# - question: A circular convolution, then `MaxPool2d(2)`. The image moves by 6 px to the right. What does the output do?
#   choices:
#     - {text: "It moves by 6 of its own pixels.", why: "One of its pixels is two pixels of the image."}
#     - {text: "It stays as it is: pooling is invariant.", why: "Only pooling over all places is. This output still has places."}
#     - {text: "It changes in a way that no whole move of the output describes.", why: "So it is at odd shifts, but 2 divides 6."}
#     - {text: "It moves by 3 of its own pixels.", right: true, why: "$t/S = 6/2$."}
# - question: A circular convolution, ReLU, global maximum. What can you *not* read from the output?
#   choices:
#     - {text: "how far the digit was moved", right: true, why: "All 784 translations have the same output."}
#     - {text: "whether some window gave more than 1 in channel 3", why: "The output says just that: it is the largest value of each channel."}
#     - {text: "anything about the shape of the digit", why: "Which windows the digit contains decides the maxima. Invariant to translation does not mean the same for all images."}
# - question: Someone says "training made this convolution equivariant". What do you answer?
#   choices:
#     - {text: "Right: random weights do not commute.", why: "They do: the convolution above had random weights and an error of 0 up to rounding."}
#     - {text: "It shares its weights, so it was equivariant before training.", right: true, why: "The proof uses that the weights are the same at every place, and nothing about their values."}
#     - {text: "Only augmented training can do that.", why: "Augmentation changes the values of the weights. For the convolution there is nothing to gain."}
# ```
