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
# You move a digit. What does a layer's output do: does it move along, or does it stay the same? The first is called
# *equivariance*, the second *invariance*. Both words mean nothing until you say what *moving* is, on the input and on
# the output. This page does that, and measures each statement. Nothing is trained before the last exercise.
#
# !!! abstract "After this page you can"
#     - say when translation is a group action, and why filling with background spoils it;
#     - draw the commuting square, and read equivariance and invariance off it;
#     - tell from a layer's formula whether it commutes with translation, and refute it by measurement if it does not;
#     - say by how much a feature map moves behind a stride;
#     - say what an invariant network can no longer know.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import lab
from lab.plotting import COLORS, CONTROL_LOOK, image_row

# %%
SEED = 0
mnist = lab.load_mnist()
digits = mnist.test.sample(500, seed=SEED)
images = digits.images
torch.set_grad_enabled(False)
images.shape

# %% [markdown]
# 500 test digits, one channel, values from 0 (background) to 1 (ink). Our layers take these values as they are. A
# trained network wants them [normalised][lab.data.normalize]; that is for [the exercise](03_lab.py). Gradients are off.
#
# ## Can every translation be undone?
#
# A [group](../glossary.md#group) is a set of moves that holds the move "do nothing", holds with any two moves their
# combination, and with each move the one that undoes it. Translations of an endless grid by whole pixels are one: the
# move $t = (dy, dx)$, $dy$ pixels down and $dx$ right, is undone by $-t$. A [group action](../glossary.md#group-action)
# lets the moves work on images: for each $t$ a map $T_t$ from images to images, with two laws,
#
# $$T_0\,x = x, \qquad T_s\,T_t\,x = T_{s+t}\,x .$$
#
# Together they say that $T_{-t}\,T_t\,x = x$: every translation can be undone. An MNIST image is not endless, though.
# It has 28 × 28 pixels, so you must decide what enters where the image moves away. [`lab.shift`][lab.shifting.shift]
# offers two choices: `background` fills with 0, `wrap` brings in on one side what left on the other.
#
# !!! question "Predict before you run"
#     You push a 4 to the right, 6 pixels further than the blank margin beside it, and then pull it back by as much. Do
#     you get the 4 back, with `background` and with `wrap`? Do two pushes to the right add up to one long push?

# %%
#| alt: >-
#|   A handwritten 4; pushed right with background filling, its right part is cut off and stays lost after pulling it
#|   back; pushed right with wrapping, that part stands at the left edge, and pulling it back restores the 4.
#| caption: >-
#|   Second and third picture: with background filling, the ink that left the frame does not return. Fourth and fifth:
#|   with wrapping, it enters on the left, and the digit comes back whole.
four = images[digits.labels == 4][:1]
dx = int(lab.ink_margins(four).right) + 6
panels = [("x", four[0, 0], "image")]
for mode in ("background", "wrap"):
    there = lab.shift(four, 0, dx, mode=mode)
    back = lab.shift(there, 0, -dx, mode=mode)
    panels.append((f"T x, {mode}", there[0, 0], "image"))
    panels.append(("and back", back[0, 0], "image"))
image_row(panels, width=1.7)

# %% [markdown]
# One digit is an anecdote. Draw two random translations $s$ and $t$, up to 9 pixels each way, for each of the 500
# digits, and compare bit by bit.


# %%
def differ(a, b):
    """Which images differ in at least one pixel."""
    return (a != b).flatten(1).any(1)


def law_fails(s, t, mode="background"):
    """For which images T_s T_t x is not T_{s+t} x."""
    twice = lab.shift(lab.shift(images, *t, mode=mode), *s, mode=mode)
    return differ(twice, lab.shift(images, *(s + t), mode=mode))


# %%
generator = torch.Generator().manual_seed(SEED)
s, t = torch.randint(-9, 10, (2, 2, len(images)), generator=generator)
modes = ("wrap", "background")
not_composed = {mode: law_fails(s, t, mode) for mode in modes}
not_undone = {mode: law_fails(-t, t, mode) for mode in modes}  # T_0 x = x
one_way = law_fails(s.abs(), t.abs())  # both down and right
fits = lab.ink_margins(images).fits(*t)  # T_t x keeps all its ink

# %% [markdown]
# Share of the 500 digits for which a law fails:
#
# | Law | `wrap` | `background` | `background`, where $T_t\,x$ keeps its ink ({{ fits.float().mean():.0% }}) |
# |---|---|---|---|
# | $T_s\,T_t\,x = T_{s+t}\,x$ | {{ not_composed["wrap"].float().mean():.0% }} | {{ not_composed["background"].float().mean():.0% }} | {{ not_composed["background"][fits].float().mean():.0% }} |
# | $T_{-t}\,T_t\,x = x$ | {{ not_undone["wrap"].float().mean():.0% }} | {{ not_undone["background"].float().mean():.0% }} | {{ not_undone["background"][fits].float().mean():.0% }} |
#
# ??? success "Answer"
#     With `wrap` both laws hold, to the last bit: pixels are only renamed, and row indices add modulo 28. So 28 pixels
#     are as good as none, and the group has 28 · 28 = 784 members. With `background` the 4 comes back damaged: an image
#     without its lost ink does not say what the ink was. Pushes in *one* direction do add up (they fail for
#     {{ one_way.float().mean():.0% }} of the digits): what the long push loses, the two short ones lose as well.
#
# Translation with background is a *partial* action: on an image and a move that keep the ink inside the frame both laws
# hold, elsewhere nothing is promised. That is not a flaw of the network you test, but it will look like one. There are
# two clean ways out: translate circularly, as on this page, or keep the ink inside, as [on the next](02_shifting.py), and
# compare only where there is something to compare, as on [page 3](03_lab.py).
#
# ## Which layers make the square commute?
#
# Let $f$ be a layer, or a whole network. There are two ways from an image to the output for its translation: move the
# image, then ask $f$; or ask $f$, then move the output. The move of the output, $T'_t$, need not be the same map as
# $T_t$: it works on feature maps, and it may be slower or stand still. It has to be an action too, of the same group.
#
# <figure>
# <svg viewBox="0 0 360 190" width="360" height="190" role="img" aria-label="The commuting square. Top left x, an arrow
# f to the right to f(x). From x an arrow T down to T x, from f(x) an arrow T prime down to T prime f(x). From T x an arrow f
# to the right to f(T x), which equals T prime f(x): both ways round end at the same place." fill="currentColor"
# font-family="serif" font-style="italic" font-size="20">
# <text x="50" y="42" text-anchor="middle">x</text>
# <text x="260" y="42" text-anchor="middle">f(x)</text>
# <text x="50" y="162" text-anchor="middle">T x</text>
# <text x="260" y="162" text-anchor="middle">f(T x) = T′ f(x)</text>
# <text x="135" y="26" text-anchor="middle">f</text>
# <text x="120" y="146" text-anchor="middle">f</text>
# <text x="36" y="100" text-anchor="end">T</text>
# <text x="274" y="100" text-anchor="start">T′</text>
# <g fill="none" stroke="currentColor" stroke-width="1.6">
# <path d="M72 36H226m-8 -5l8 5l-8 5M78 156H172m-8 -5l8 5l-8 5M50 56V134m-5 -8l5 8l5 -8M260 56V134m-5 -8l5 8l5 -8"/>
# </g>
# </svg>
# <figcaption>The commuting square: right and down, or down and right, lead to the same output. With T′ = T, the output
# moves along; with T′ = do nothing, it stays.</figcaption>
# </figure>
#
# The square *commutes* if both ways give the same, for all images and all moves. Then $f$ is
# [equivariant](../glossary.md#equivariance):
#
# $$f(T_t\,x) = T'_t\,f(x) \quad \text{for all } t \text{ and } x .$$
#
# One choice of $T'$ has a name of its own. If every $T'_t$ leaves the output as it is, the action on the output is
# *trivial*, and $f$ is [invariant](../glossary.md#invariance): $f(T_t\,x) = f(x)$. So invariance is a special case of
# equivariance. In this course, *equivariant* without more means that the output moves along.
#
# !!! question "Predict before you run"
#     Five maps below, none of them trained. For which does the square commute under circular translation? Two add a bias for each channel, two a bias for each pixel:
#     does either do harm?


# %%
def move(x, dy, dx):
    """From here on, T is circular."""
    return lab.shift(x, dy, dx, mode="wrap")


torch.manual_seed(SEED)
conv = nn.Conv2d(1, 8, 3, padding=1, padding_mode="circular")
dense = nn.Linear(784, 784)
table = torch.rand(28, 28)  # one number for each pixel

# %%
maps = {
    "convolution with bias": conv,  # one bias for each channel
    "convolution, bias, ReLU": lambda x: conv(x).relu(),
    "per-pixel bias": lambda x: x + table,
    "per-pixel weight": lambda x: x * table,
    "flatten, linear, reshape": lambda x: dense(x.flatten(1)).view_as(x),
}

# %% [markdown]
# The measurement: the distance between the two ways round, relative to the size of the output, for each image. A number
# alone says little, so beside it stands a [control](../glossary.md#control): the same distance, but with $T' f$
# of *another* digit. An error of that size means: what you expected is no closer to the output than any other digit's.


# %%
def square(f, dy, dx):
    """Equivariance error of each image, and its control."""
    moved = f(move(images, dy, dx))  # down, then right
    expected = move(f(images), dy, dx)  # right, then down
    other = expected[lab.derangement(len(images))]
    error = lab.equivariance_error(moved, expected)
    return error, lab.equivariance_error(moved, other)


# %%
SHIFTS = [(1, 0), (3, -5), (-9, 13)]
error, control = {}, {}
for name, f in maps.items():
    found = [square(f, dy, dx) for dy, dx in SHIFTS]
    error[name], control[name] = map(torch.cat, zip(*found, strict=True))
    mean, most = error[name].mean(), error[name].max()
    unrelated = control[name].mean()
    print(f"{name:25} {mean:.2g}, at most {most:.2g}; control {unrelated:.2f}")

# %%
#| label: square
#| alt: >-
#|   The commuting square in pictures: a digit and its feature map on top, the translated digit and its feature map
#|   below; the lower feature map is the upper one, moved as the digit was.
#| caption: >-
#|   The square with one channel of the untrained convolution. Going right and down, or down and right, you arrive at
#|   the same feature map.
#| code-fold: true
pair = torch.cat([four, move(four, 3, -4)])
outputs = conv(pair)[:, 0]
limits = {"vmin": outputs.min(), "vmax": outputs.max()}
figure, axes = plt.subplots(2, 2, figsize=(4.6, 4.6), layout="constrained")
figure.get_layout_engine().set(wspace=0.25, hspace=0.2)
for (left, right), image, output in zip(axes, pair[:, 0], outputs, strict=True):
    left.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    right.imshow(output, cmap="viridis", **limits)
titles = "x", "f(x)", "T x", "f(T x) = T f(x)"
for axis, title in zip(axes.flat, titles, strict=True):
    axis.set(title=title, xticks=[], yticks=[])
    axis.spines[:].set_visible(True)
arrows = (0.5, 0.74, "f →"), (0.5, 0.23, "f →"), (0.23, 0.5, "T ↓"), (0.77, 0.5, "T ↓")
for x, y, arrow in arrows:
    figure.text(x, y, arrow, ha="center", va="center", fontsize=13)

# %% [markdown]
# ??? success "Answer"
#     The first two commute, the other three do not. With circular indices, and $k$ the kernel,
#
#     $$f(T_t\,x)[i] = b + \sum_u k[u]\,x[i + u - t] = f(x)[i - t] = (T_t\,f(x))[i] .$$
#
#     The middle step works because neither $k[u]$ nor $b$ depends on the place $i$: the same weights are used
#     everywhere. A map that treats each pixel by itself, and every pixel in the same way, as ReLU does, commutes for
#     the same reason. A bias for each channel is harmless; a bias or a weight for each *pixel* stays where it is while
#     the image moves. That is also what a positional embedding does, and it is meant to. The linear layer has other
#     weights at every place.
#
# Whether a layer commutes is a property of how its weights are *tied*, not of their values. Nobody trained this
# convolution. There is a converse: a linear map from images to images commutes with all circular translations exactly
# when it *is* a circular convolution, with a kernel as large as the image. [Kondor and
# Trivedi](../references.md#kondor2018) prove it for all compact groups; in exercise 2 you turn the linear layer into
# one.
#
# !!! warning "State the action before you measure"
#     Is the linear layer "not equivariant"? Its matrix $W$ is square, and a random one can be inverted. (Leave the bias
#     aside.) Then $W T_t\,x = (W T_t W^{-1})\,W x$, so the square commutes with $T'_t = W T_t W^{-1}$, and any
#     invertible map passes in this way. Equivariance says something only about a stated $T'$. What failed here is "the
#     output, read as an image, moves along". (One can also *fit* $T'$ to a network and see how well it does, as [Lenc
#     and Vedaldi](../references.md#lenc2015) did.)
#
# ## Which group? A convolution and a mirror
#
# The square also works for moves that are no translations. A mirror, left to right, and doing nothing are a group of
# two: mirror twice, and you are back. Let $R$ be the mirror, on images and on feature maps.
#
# !!! question "Predict before you run"
#     Does the convolution commute with the mirror, as it does with translations? If not: for which kernels would it?

# %%
symmetric = nn.Conv2d(1, 8, 3, padding=1, padding_mode="circular")
symmetric.weight.copy_((conv.weight + conv.weight.flip(-1)) / 2)
flipped = {
    name: lab.equivariance_error(f(images.flip(-1)), f(images).flip(-1))
    for name, f in {"random kernel": conv, "symmetric kernel": symmetric}.items()
}
{name: f"{errors.mean():.2g}" for name, errors in flipped.items()}

# %% [markdown]
# ??? success "Answer"
#     A convolution with kernel $k$ sees in the mirrored image what a convolution with the mirrored kernel sees in the
#     original: $f_k(R\,x) = R\,f_{Rk}(x)$. The two agree for all images only if $k = Rk$. So the random kernel fails,
#     with an error of {{ flipped["random kernel"].mean():.2f }}, and its symmetric part passes; what is left,
#     {{ flipped["symmetric kernel"].max():.1g }} at most, is rounding: the mirrored sum has the same terms in another
#     order.
#
# "Equivariant" without a group is half a sentence. It is also good to have seen the measurement fail for the very layer
# that passed above: a test that cannot fail shows nothing. Networks whose kernels are tied so that mirrors and
# rotations commute too are [group-equivariant CNNs](../references.md#cohen2016).
#
# ## By how much does the output move behind a stride?
#
# A pooling layer with [stride](../glossary.md#stride) 2 has half as many outputs along each axis. Its output cannot
# move by as many pixels as the image does.
#
# !!! question "Predict before you run"
#     Here is a row of 8 pixels and its maximum over each pair. Move the row by 1, 2, 3 pixels. Does the output move
#     along, by how much, and are its *values* still the same?

# %%
row = torch.tensor([[0.0, 1.0, 5.0, 2.0, 0.0, 0.0, 0.0, 0.0]])
pool = nn.MaxPool1d(2)
for dx in range(4):
    moved = move(row, 0, dx)
    output = pool(moved)
    print(f"moved by {dx}: {moved[0].int().tolist()} -> {output[0].int().tolist()}")

# %% [markdown]
# By 2, the output `[1, 5, 0, 0]` has moved by 1. By 1, it has become `[0, 5, 2, 0]`: the 1 is gone and a 2 is there, so
# that no translation of the old output gives the new one. Does it hold for digits, and behind more than one layer? Take
# convolution, ReLU, pooling, convolution, ReLU: strides multiply along the way, here to a [total
# stride](../glossary.md#total-stride) $S = 2$. At shifts that $S$ does not divide, take the better of the two moves
# next to it, for the control too.

# %%
conv2 = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
stack = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), conv2, nn.ReLU())
features = stack(images)  # n 8 14 14
others = features[lab.derangement(len(images))]


def best_error(outputs, moved, dx):
    """The least error over the moves next to dx / 2 (one, where 2 divides dx)."""
    moves = {dx // 2, -(-dx // 2)}
    errors = [lab.equivariance_error(moved, move(outputs, 0, m)) for m in moves]
    return torch.stack(errors).amin(0)


# %%
behind_stride, behind_control = [], []
for dx in range(9):
    moved = stack(move(images, 0, dx))
    behind_stride.append(best_error(features, moved, dx))
    behind_control.append(best_error(others, moved, dx))

# %%
#| alt: >-
#|   Mean equivariance error of the stack against the shift: zero at the even shifts 0 to 8 pixels, far above zero at
#|   the odd ones; the control lies above it throughout.
#| caption: >-
#|   Total stride 2: the output moves along exactly at every even shift, and at no odd one. Dash-dotted: the
#|   control, the output for an unrelated digit.
#| code-fold: true
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
means = [errors.mean() for errors in behind_stride]
control_means = [errors.mean() for errors in behind_control]
axis.plot(means, color=COLORS[0], marker="o", label="best move of the output")
axis.plot(control_means, label="control: unrelated digit", **CONTROL_LOOK)
axis.set(xlabel="shift dx (px)", ylabel="equivariance error", ylim=(0, None))
_ = figure.legend(loc="outside upper center", ncols=2)

# %% [markdown]
# ??? success "Answer"
#     Where $S$ divides $t$ (both parts of it), the square commutes with $T'_t = T_{t/S}$: the output moves by $t/S$ of
#     *its* pixels. Elsewhere $t/S$ is not a whole number, pooling pairs other pixels with each other, and the values
#     themselves change: an error of {{ behind_stride[1].mean():.2f }} at a shift of 1 pixel, where the control has
#     {{ behind_control[1].mean():.2f }}.
#
#     That layers may be stacked is two lines. Let $f$ turn $T$ into $T'$, and let $g$ turn $T'$ into $T''$. Then
#
#     $$g(f(T_t\,x)) = g(T'_t\,f(x)) = T''_t\,g(f(x)) .$$
#
#     Each layer must accept the action that the one before it hands over. The stack commutes with the translations that
#     every layer lets through.
#
# So a strided network is equivariant to fewer translations: those by multiples of $S$, a smaller group (here
# 14 · 14 = 196 of the 784). What happens at the others is [aliasing](../references.md#zhang2019). It is one reason why
# trained networks may [change their mind when an image moves by one pixel](../references.md#azulay2019); you meet it in
# [the pooled network](05_pooled.py). Another is a linear layer on flattened features, as in [the lab](03_lab.py).
#
# ## What makes a network invariant, and what does it cost?
#
# Take the proof above, and let $g$ be invariant to $T'$: then $T''$ does nothing, and $g(f(T_t\,x)) = g(f(x))$. The
# maximum of a whole channel is such a $g$: moving the values around does not change which is the largest. So is the
# average. Equivariant layers, then a global pool: that is the standard way to build invariance. A linear layer on
# flattened features is not: it has a weight for each place.
#
# !!! question "Predict before you run"
#     Four networks: the convolution and ReLU, then (1) a global maximum, (2) a global average, (3) flatten and a linear
#     layer with 10 outputs; and (4) the stack with stride 2, then a global maximum. Which are invariant to a
#     translation by (3, −5)?

# %%
head = nn.Linear(8 * 784, 10)
networks = {
    "global maximum": lambda x: conv(x).relu().amax((2, 3)),
    "global average": lambda x: conv(x).relu().mean((2, 3)),
    "flatten, linear": lambda x: head(conv(x).relu().flatten(1)),
    "stride 2, global maximum": lambda x: stack(x).amax((2, 3)),
}
invariance = {}
for name, f in networks.items():
    for by in ((3, -5), (4, -6)):
        errors = lab.invariance_error(f(images), f(move(images, *by)))
        invariance[name, *by] = errors
        print(f"{name:25} moved by {by}: {errors.mean():.2g}")

# %% [markdown]
# The [invariance error][lab.metrics.invariance_error] is 0 for an invariant map, and 1 where the output for the moved
# digit is as far away as the output for another digit, on average. Two single shifts prove nothing about 784, so try
# all of them: the *orbit* of the 4, every place it can have on the circular grid.


# %%
def over_orbit(f):
    """Relative distance of f(T_t x) from f(x), for the translations of one digit."""
    outputs = torch.cat([f(part) for part in orbit.split(196)]).flatten(1)
    size = outputs[0].norm()
    return ((outputs - outputs[0]).norm(dim=1) / size).view(28, 28)


places = [(dy, dx) for dy in range(28) for dx in range(28)]
orbit = torch.cat([move(four, dy, dx) for dy, dx in places])
distance = {"feature map": over_orbit(lambda x: conv(x).relu())}
distance |= {name: over_orbit(f) for name, f in networks.items()}

# %%
#| alt: >-
#|   Four maps of the distance from the untranslated output. Feature map and flatten-linear: zero only at the centre.
#|   Stride 2 then global maximum: a regular grid of zeros. Global maximum: zero everywhere.
#| caption: >-
#|   Each pixel is one translation of the same digit, no translation in the centre; darkest is an unchanged output.
#|   The feature map tells all places apart. Behind stride 2, a fourth of the translations goes unnoticed. With the
#|   global maximum behind the first convolution, all do: the place is gone.
#| code-fold: true
shown = ["feature map", "flatten, linear"]
shown += ["stride 2, global maximum", "global maximum"]
panels = [
    (name.replace("maximum", "max"), distance[name].roll((14, 14), (0, 1)), "feature")
    for name in shown
]
image_row(panels, width=1.7)

# %%
generator = torch.Generator().manual_seed(SEED)
shuffle = torch.randperm(784, generator=generator)
scrambled = images.flatten(2)[..., shuffle].view_as(images)  # the same pixels


def average(x):
    """Circular convolution, no ReLU, global average."""
    return conv(x).mean((2, 3))


with_relu = networks["global average"]
lost = lab.equivariance_error(average(scrambled), average(images))
kept = lab.equivariance_error(with_relu(scrambled), with_relu(images))
print(f"scrambled: {lost.max():.1g} without ReLU, {kept.mean():.2g} with it")

# %% [markdown]
# ??? success "Answer"
#     (1) is invariant, and (2) is up to rounding: an average of 784 numbers in another order may differ in its last
#     bits, a maximum may not. (3) is not: the translation changes its output by
#     {{ invariance["flatten, linear", 3, -5].mean():.1f }} times what another digit would. (4) is invariant to (4, −6),
#     which 2 divides, and not to (3, −5), where the error is
#     {{ invariance["stride 2, global maximum", 3, -5].mean():.2f }}.
#
# Invariance is a loss of information, by definition: the whole orbit has one output, so you cannot read from it where
# the digit is. From the feature map you can: the least distance between the outputs for the 4 and for any of its
# translations is {{ distance["feature map"].flatten()[1:].min():.2f }} of the output's size. So build equivariant
# layers, keep what they know, and pool at the very end, if the task does not ask for the place.
#
# An invariant map may forget far more than the place. Leave out the ReLU, and the average of a circular convolution is
# $b + \bar x \sum_u k[u]$, with the image's mean $\bar x$: all it knows is how much ink there is. That is why scrambling all pixels
# changes the output by {{ lost.max():.0e }} of its size at most without ReLU (rounding), and by {{ kept.mean():.2f }}
# with it.
#
# ## On paper and in code
#
# The notation of all pages. The mask $M$, the norm and the quotient are those of
# [`lab.equivariance_error`][lab.metrics.equivariance_error] and [`lab.invariance_error`][lab.metrics.invariance_error].
#
# | On paper | In code |
# |---|---|
# | $x$, an image | `images`, of shape `n 1 h w`, in [0, 1] |
# | $T_{dy,dx}\,x$, its translation | `lab.shift(x, dy, dx)`; circular: `mode="wrap"` |
# | $f(x)$, the output of a layer | `lab.activations(model, lab.normalize(x))["conv1"]` |
# | $f(T x)$ | `lab.activations(model, lab.normalize(lab.shift(x, dy, dx)))["conv1"]` |
# | $S$, total stride: the product of all strides so far | `model.STRIDES["conv1"]` |
# | $T_{t/S}\,f(x)$, where $S$ divides $dy$ and $dx$ | `lab.shift(fx, dy // S, dx // S)` |
# | $M$: 1 where both ways round can be compared, else 0 | `valid`, a Boolean mask |
# | $E = \frac{\norm{M\,(f(Tx) - T_{t/S} f(x))}}{\norm{M\,T_{t/S} f(x)}}$, equivariance error | `lab.equivariance_error(moved, expected, valid)` |
# | $\frac{\norm{f(Tx) - f(x)}}{\text{mean of } \norm{f(x) - f(x')}}$, invariance error; $x'$ an unrelated image | `lab.invariance_error(fx, ftx)` |
#
# ## Seven things people say
#
# "Convolution layers are invariant."
# :   They are equivariant: the feature map moves along, and so is not the same. Seen
#     [above](#which-layers-make-the-square-commute).
#
# "Equivariant means permuted, so equal sorted activations suffice."
# :   Equal sorted activations are necessary (on a circular grid), but a mirrored or scrambled map has them too. Seen in
#     [Sorting](04_sorting.py).
#
# "Training makes a layer equivariant."
# :   Tied weights do, whatever their values: nothing above is trained; [the exercise](03_lab.py) measures before
#     and after.
#
# "Pooling makes a network invariant."
# :   Local pooling leaves a smaller map, which still moves, and its stride breaks the square for most shifts; only
#     pooling over *all* positions gives invariance. Seen in [the pooled network](05_pooled.py).
#
# "Augmentation gives equivariance."
# :   It shows a network more places, and so makes its outputs *approximately* invariant there; it ties no weights. Seen
#     in [exercise 3](#try-it-yourself).
#
# "Fully connected layers are invariant."
# :   A linear layer on flattened features is invariant only if its weights are the same at all positions that a
#     translation exchanges. Seen [above](#what-makes-a-network-invariant-and-what-does-it-cost) and in [the
#     exercise](03_lab.py).
#
# "The more invariant, the better."
# :   An invariant output has lost the place, and sometimes [much
#     more](#what-makes-a-network-invariant-and-what-does-it-cost).
#
# ## Check yourself
#
# Pick an answer; its reason appears below it. Wrong ones are worth reading too.
#
# <fieldset class="quiz" markdown>
# <legend markdown="span">1. Which line says that $f$ is invariant?</legend>
#
# <label class="quiz-answer"><input type="radio" name="q1"> <span>$f(T_t\,x) = T_t\,f(x)$ for all $t$ and $x$</span></label>
# <div class="quiz-feedback" markdown="span">That is equivariance: the output moves along with the image.</div>
#
# <label class="quiz-answer"><input type="radio" name="q1"> <span>$f(T_t\,x)$ and $f(x)$ hold the same values, sorted</span></label>
# <div class="quiz-feedback" markdown="span">The values may stand at other places, and then the outputs differ.</div>
#
# <label class="quiz-answer"><input type="radio" name="q1" class="quiz-right"> <span>$f(T_t\,x) = f(x)$ for all $t$ and $x$</span></label>
# <div class="quiz-feedback" markdown="span">Right: the action on the output is trivial.</div>
#
# <label class="quiz-answer"><input type="radio" name="q1"> <span>$f(T_t\,x) = f(x)$ for some $t$ and all $x$</span></label>
# <div class="quiz-feedback" markdown="span">For $t = 0$ every map satisfies this. It must hold for all $t$.</div>
#
# </fieldset>
#
# <fieldset class="quiz" markdown>
# <legend markdown="span">2. Why is translation with background filling not a group action on 28 × 28 images?</legend>
#
# <label class="quiz-answer"><input type="radio" name="q2" class="quiz-right"> <span>Ink that leaves the frame does not come back.</span></label>
# <div class="quiz-feedback" markdown="span">Right: $T_{-t}\,T_t\,x \ne x$ as soon as ink is lost.</div>
#
# <label class="quiz-answer"><input type="radio" name="q2"> <span>Down and right do not commute with each other.</span></label>
# <div class="quiz-feedback" markdown="span">They do: you may go down first or right first. And an action need not be commutative.</div>
#
# <label class="quiz-answer"><input type="radio" name="q2"> <span>Filling with 0 is wrong after normalisation.</span></label>
# <div class="quiz-feedback" markdown="span">True, and a common mistake, but filling with the right value loses the ink as well.</div>
#
# <label class="quiz-answer"><input type="radio" name="q2"> <span>$T_0$ changes the image.</span></label>
# <div class="quiz-feedback" markdown="span">It does not: a shift by 0 pixels loses nothing and fills nothing.</div>
#
# </fieldset>
#
# <fieldset class="quiz" markdown>
# <legend markdown="span">3. Convolution with circular padding, then `MaxPool2d(2)`. The image moves circularly by 6 px to the right. What does the output do?</legend>
#
# <label class="quiz-answer"><input type="radio" name="q3"> <span>It moves by 6 of its own pixels.</span></label>
# <div class="quiz-feedback" markdown="span">The action on the output has another index map: one pixel there is two pixels here.</div>
#
# <label class="quiz-answer"><input type="radio" name="q3"> <span>It stays as it is, for pooling is invariant.</span></label>
# <div class="quiz-feedback" markdown="span">Only pooling over all positions is. This output still has positions.</div>
#
# <label class="quiz-answer"><input type="radio" name="q3"> <span>It changes in a way that no move of the output describes.</span></label>
# <div class="quiz-feedback" markdown="span">So it is at odd shifts, but 2 divides 6.</div>
#
# <label class="quiz-answer"><input type="radio" name="q3" class="quiz-right"> <span>It moves by 3 of its own pixels.</span></label>
# <div class="quiz-feedback" markdown="span">Right: $t/S = 6/2$.</div>
#
# </fieldset>
#
# <fieldset class="quiz" markdown>
# <legend markdown="span">4. Which layer does *not* commute with circular translation?</legend>
#
# <label class="quiz-answer"><input type="radio" name="q4"> <span>an untrained circular convolution with a bias for each channel</span></label>
# <div class="quiz-feedback" markdown="span">It commutes. Training changes the values of the weights, not that they are shared; this bias is the same at every place.</div>
#
# <label class="quiz-answer"><input type="radio" name="q4"> <span>ReLU</span></label>
# <div class="quiz-feedback" markdown="span">It commutes: each pixel is treated by itself, and all in the same way.</div>
#
# <label class="quiz-answer"><input type="radio" name="q4" class="quiz-right"> <span>a learned positional embedding, added to the feature map</span></label>
# <div class="quiz-feedback" markdown="span">Right: it stays where it is while the image moves. (Unless it came out the same at every place.)</div>
#
# <label class="quiz-answer"><input type="radio" name="q4"> <span>multiplying all pixels by the same number</span></label>
# <div class="quiz-feedback" markdown="span">It commutes; it is a convolution with a 1 × 1 kernel.</div>
#
# </fieldset>
#
# <fieldset class="quiz" markdown>
# <legend markdown="span">5. Circular convolution, ReLU, global maximum. What can you *not* get back from the output?</legend>
#
# <label class="quiz-answer"><input type="radio" name="q5" class="quiz-right"> <span>by how much the image was translated</span></label>
# <div class="quiz-feedback" markdown="span">Right: all 784 translations have the same output.</div>
#
# <label class="quiz-answer"><input type="radio" name="q5"> <span>whether the strongest response of channel 3 was above 1</span></label>
# <div class="quiz-feedback" markdown="span">That is just what the output says.</div>
#
# <label class="quiz-answer"><input type="radio" name="q5"> <span>whether the pixels were scrambled: no invariant map can tell</span></label>
# <div class="quiz-feedback" markdown="span">Invariance to translation says nothing about other permutations. A 3 × 3 kernel sees neighbours, and scrambling changes them.</div>
#
# </fieldset>
#
# <fieldset class="quiz" markdown>
# <legend markdown="span">6. You sort the values of $f(x)$ and of $f(T x)$, and find them equal for every image and shift you tried. What do you know?</legend>
#
# <label class="quiz-answer"><input type="radio" name="q6"> <span>$f$ is equivariant.</span></label>
# <div class="quiz-feedback" markdown="span">Not yet: a map that mirrors what it should move passes as well. Sorting throws the places away.</div>
#
# <label class="quiz-answer"><input type="radio" name="q6"> <span>$f$ is invariant.</span></label>
# <div class="quiz-feedback" markdown="span">The *sorted* values did not change; the unsorted ones may have.</div>
#
# <label class="quiz-answer"><input type="radio" name="q6" class="quiz-right"> <span>You have not refuted that $f$ is equivariant.</span></label>
# <div class="quiz-feedback" markdown="span">Right: the test is necessary, not sufficient. A constant output passes it too.</div>
#
# </fieldset>
#
# <fieldset class="quiz" markdown>
# <legend markdown="span">7. A linear map from 28 × 28 images to 28 × 28 images commutes with all circular translations. How many of its 784 · 784 weights can you choose?</legend>
#
# <label class="quiz-answer"><input type="radio" name="q7"> <span>all of them</span></label>
# <div class="quiz-feedback" markdown="span">Then a random linear layer would have passed above.</div>
#
# <label class="quiz-answer"><input type="radio" name="q7" class="quiz-right"> <span>784</span></label>
# <div class="quiz-feedback" markdown="span">Right: the weights of one output, a kernel as large as the image. All other outputs use the same, moved.</div>
#
# <label class="quiz-answer"><input type="radio" name="q7"> <span>9</span></label>
# <div class="quiz-feedback" markdown="span">A 3 × 3 kernel commutes, but so does a larger one. That kernels are small is a second decision: locality.</div>
#
# <label class="quiz-answer"><input type="radio" name="q7"> <span>1</span></label>
# <div class="quiz-feedback" markdown="span">That would be the multiples of the identity. (One weight for all 784 · 784 entries would give an *invariant* map.)</div>
#
# </fieldset>
#
# <p class="quiz-score"></p>
#
# ## What you should have seen
#
# Circular translation is a group action; translation with background filling is one only as long as no ink leaves the
# frame. Equivariance means that the square commutes for a *stated* action on the output, invariance that this action
# does nothing. A convolution commutes with translations because its weights are the same at every place, before any
# training; it does not commute with a mirror, unless its kernel is symmetric. Weights or biases for each pixel break the square, and so do shifts that
# the total stride does not divide. Equivariant layers followed by global pooling are invariant, and no longer know
# where the digit was.
#
# ## Theory and observation
#
# All of it once more, as claims that could have failed. The small numbers need a tolerance: a float32 sum of $k$ terms in another order typically
# differs by at most about $\sqrt{k} \cdot 2^{-24}$ of the sum of the terms' absolute values.


# %%
#| code-fold: true
def low(what, values, bound=1e-5):
    """A control whose largest value has to come out small."""
    return lab.Control(what, float(values.max()), "<=", bound)


def high(what, values, bound):
    """A control whose mean has to come out large."""
    return lab.Control(what, float(values.float().mean()), ">=", bound)


# %%
#| code-fold: true
def exact(name, values, control, tolerance=0.0, why=""):
    """The largest of the values is 0, up to the tolerance."""
    seen = float(values.max())
    return lab.Claim(name, "exact", 0.0, seen, (control,), "==", tolerance, why)


def broken(name, values, bound, control):
    """The mean of the values is at least the bound."""
    why = "10,000 × rounding or more: a difference that rounding cannot make"
    seen = float(values.mean())
    return lab.Claim(name, "broken", bound, seen, (control,), ">=", 0.0, why)


# %%
#| code-fold: true
partly, back = not_composed["background"], not_undone["background"]
in_part, undone = high("background", partly, 0.1), high("background", back, 0.3)
surprise = back == fits  # restored though ink left, or spoilt though it stayed
mistaken = high("wrong side", back == lab.ink_margins(images).fits(*-t), 0.1)
mirror = low("symmetric kernel", flipped["symmetric kernel"])
group_claims = [
    exact("wrap: share with T_s T_t x ≠ T_{s+t} x", not_composed["wrap"], in_part),
    exact("wrap: share with T_{-t} T_t x ≠ x", not_undone["wrap"], undone),
    exact("background: exceptions to 'restored = ink stayed'", surprise, mistaken),
    broken("convolution, mirror: error", flipped["random kernel"], 0.1, mirror),
]

# %%
#| code-fold: true
K10 = "float32: sums of 10 terms, √10 · 2⁻²⁴ = 2e-7 of their size"
K73 = "float32: sums of up to 73 terms, √73 · 2⁻²⁴ = 5e-7 of their size"
name = "convolution, bias, ReLU"
layer, other = error[name], high("unrelated digit", control[name], 0.3)
works = low("convolution", layer)
even, odd = torch.stack(behind_stride[::2]), torch.stack(behind_stride[1::2])
odd_shifts = high("odd shifts", odd, 0.05)
square_claims = [
    exact("convolution, bias, ReLU: error", layer, other, 1e-6, K10),
    broken("per-pixel bias: error", error["per-pixel bias"], 0.1, works),
    broken("per-pixel weight: error", error["per-pixel weight"], 0.1, works),
    broken("dense layer: error", error["flatten, linear, reshape"], 0.3, works),
    exact("stride 2, even shifts: error", even, odd_shifts, 1e-6, K73),
]

# %%
#| code-fold: true
K784 = "float32: sums of 784 terms, √784 · 2⁻²⁴ = 2e-6 of their size"
K7840 = "float32: sums of 7,840 terms, √7840 · 2⁻²⁴ = 5e-6 of their size"
moved = with_relu(move(images, 3, -5))
average_error = lab.equivariance_error(moved, with_relu(images))  # T' = 1
linear = high("flatten, linear", invariance["flatten, linear", 3, -5], 0.3)
nearest = high("feature map", distance["feature map"].flatten()[1:].min(), 0.05)
scramble = high("with ReLU", kept, 0.02)
pool_claims = [
    exact("global maximum: orbit", distance["global maximum"], nearest, 1e-6, K10),
    exact("global average: change", average_error, linear, 4e-6, K784),
    exact("average, no ReLU: scrambled digits", lost, scramble, 1e-5, K7840),
]

# %%
#| code-fold: true
lab.check([*group_claims, *square_claims, *pool_claims], data=mnist, seeds=[SEED])

# %% [markdown]
# ## Try it yourself
#
# **Exercise 1.** Give the convolution the usual zero padding, `nn.Conv2d(1, 8, 3, padding=1)`, and translate circularly. Predict
# *where* $f(Tx)$ and $T f(x)$ differ, and build the mask $M$: 1 where they must agree, 0 where they may differ.
#
# **Exercise 2.** Turn the linear layer into an equivariant one: average its matrix over the group,
# $\frac{1}{784}\sum_t T_t^{-1}\,W\,T_t$. What kind of matrix comes out?
#
# **Exercise 3.** Train the given network on digits moved by up to 4 pixels at random. What happens to the equivariance error of
# `conv1`, to the invariance error of `fc1`, and to the accuracy on digits that are not moved?

# %%
#| fold: Solution 1
#| text: >-
#|   An output in the outermost rows and columns has seen zeros where the circular world has pixels of the other side. On the way
#|   *right, then down* this border is computed first and then moved along; on the way *down, then right* it is at the
#|   frame. So two borders can differ, the one at the frame and the moved one. Outside both the error is 0 up to
#|   rounding; on the full frame it is not.
zero_padded = nn.Conv2d(1, 8, 3, padding=1)
border = torch.ones(1, 1, 28, 28)
border[..., 1:-1, 1:-1] = 0
valid = (border + move(border, 3, -5)) == 0
moved = zero_padded(move(images, 3, -5))
expected = move(zero_padded(images), 3, -5)
full_frame = lab.equivariance_error(moved, expected)
masked = lab.equivariance_error(moved, expected, valid)
print(f"full frame {full_frame.mean():.2g}; outside the borders {masked.max():.1g}")

# %%
#| fold: Solution 2
#| text: >-
#|   The average commutes with every translation, because translating it only reorders its terms. All rows are
#|   translations of the first one, so 784 free weights are left of 614,656: it is a circular convolution with a
#|   kernel as large as the image. The bias must be averaged too. Moving rows and columns together is `roll` over both
#|   indices; vertical and horizontal averages can be taken one after the other.
W = dense.weight.view(28, 28, 28, 28)  # row, column of the output, then of the input
for pair in ((0, 2), (1, 3)):
    W = torch.stack([W.roll((step, step), pair) for step in range(28)]).mean(0)
W, b = W.reshape(784, 784), dense.bias.mean()


def averaged(x):
    """The dense layer, averaged over the group."""
    return F.linear(x.flatten(1), W, b).view_as(x)


before, after = square(maps["flatten, linear, reshape"], 3, -5), square(averaged, 3, -5)
print(
    f"before {before[0].mean():.2f}; averaged {after[0].max():.1g}, control {after[1].mean():.2f}"
)

# %%
#| fold: Solution 3
#| text: >-
#|   The convolution commuted before, and does so after: there was nothing to gain. The scores of `fc1` change less
#|   when the digit moves, but they still change, and accuracy on the digits where MNIST puts them is lower: one
#|   linear layer now has to serve all places. Augmentation buys approximate invariance to the moves it has shown.
#|   (The digits of the test pairs stay inside the frame, with `background`; some training digits lose ink. Why
#|   `conv1` is then compared under a mask is told on page 3.)
generator = torch.Generator().manual_seed(SEED)
moves = torch.randint(-4, 5, (2, len(mnist.train)), generator=generator)
moved = lab.Split(lab.shift(mnist.train.images, *moves), mnist.train.labels)
sample = mnist.test.sample(2000, seed=SEED)
pairs = lab.translated_pairs(sample, max_shift=4, margin=1, seed=SEED)
ones = torch.ones(len(pairs), 1, 27, 27)
valid = lab.shift(ones, pairs.dy, pairs.dx) > 0
trained = {}
torch.set_grad_enabled(True)
for name, split in {"as they are": mnist.train, "moved": moved}.items():
    trained[name] = lab.build_model("given", seed=SEED)
    lab.fit(trained[name], split, cache=lab.data_root() / "checkpoints")

# %%
#| fold: Solution 3, measured
for name, model in trained.items():
    first = lab.activations(model, lab.normalize(pairs.first))
    second = lab.activations(model, lab.normalize(pairs.second))
    expected = lab.shift(first["conv1"], pairs.dy, pairs.dx)
    conv1 = lab.equivariance_error(second["conv1"], expected, valid).max()
    fc1 = lab.invariance_error(first["fc1"], second["fc1"]).mean()
    accuracy = lab.evaluate(model, mnist.test).accuracy
    print(f"{name:11}: conv1 {conv1:.1g}, fc1 {fc1:.2f}, accuracy {accuracy:.3f}")
