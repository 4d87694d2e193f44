# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: How to translate a digit on a finite grid so that a measurement of equivariance means something.
# ---
# # 2. Shifting a digit correctly
#
# Equivariance compares the outputs of a network for an image with its outputs for the same image, translated. An
# endless sheet of paper can be translated without a second thought. A grid of 28 × 28 pixels cannot: something leaves,
# something enters, and each of the two can ruin a measurement without any error message.
#
# !!! abstract "After this page you can"
#
#     - say what [`lab.shift`][lab.shifting.shift] does to every pixel, and which sign is which direction;
#     - tell how far a digit can move before it becomes another picture, and why the four sides differ;
#     - decide between filling with background and wrapping around;
#     - make pairs of mutually translated images that favour no direction and no digit;
#     - shift and normalise in the order that draws no grey band, and name a measurement that would miss one.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import lab
from lab.plotting import COLORS, FIRST, MARKERS, SECOND, image_row

SEED = 0
mnist = lab.load_mnist()
x = mnist.test.images
tuple(x.shape), x.min().item(), x.max().item()

# %% [markdown]
# You have {{ len(x):,d }} test images of one channel and 28 × 28 pixels. Their values go from 0, the
# [background](../glossary.md#background), to 1, full ink.
#
# ## What leaves, and what enters?
#
# A [translation](../glossary.md#translation) is what happens to the image; a [shift](../glossary.md#shift) is its
# displacement `dy, dx` in whole pixels. Rows are counted downwards, so `dy > 0` is **down**; `dx > 0` is **right**; and
# `dy` comes first, as rows do in an array. Pixel by pixel, with $b$ the value that fills,
#
# $$(T_{dy,dx}\,x)[i, j] = \begin{cases} x[i - dy,\; j - dx] & \text{where that pixel exists,}\\
# b & \text{elsewhere.}\end{cases}$$
#
# Mind the minus sign: to move the content *down*, each pixel takes its value from *above*.
#
# !!! question "Predict before you run"
#
#     `tiny` holds the numbers 1 to 9. Which row of `lab.shift(tiny, 1, 0)` is filled, and which numbers are gone?

# %%
tiny = torch.arange(1.0, 10.0).reshape(3, 3)
lab.shift(tiny, 1, 0), lab.shift(tiny, 1, 0, mode="wrap")

# %% [markdown]
# ??? success "Answer"
#
#     The first row is filled with 0, and 7, 8, 9 are gone: down by one. With `mode="wrap"` they come back in at the
#     top.
#
# These are the two modes of [`lab.shift`][lab.shifting.shift]. `"background"` drops what leaves and fills what enters.
# [`"wrap"`](../glossary.md#wrap) is the circular translation: what leaves on one side enters on the other. Now do both to a
# digit with little room below.

# %%
#| alt: >-
#|   A handwritten 7; the same moved 3 pixels to the right; moved 8 pixels down, its foot cut off; and the same with
#|   wrapping, its foot at the top.
#| caption: >-
#|   Three pixels to the right, the 7 is the same 7. Eight pixels down, the frame cuts off its foot: this is
#|   another picture. With wrapping all of its ink is there, but its foot has come in at the top.
room = lab.ink_margins(x)
has_room = (room.down <= 2) & (room.right >= 4)
seven = x[(mnist.test.labels == 7) & has_room][0, 0]
panels = {
    "x": seven,
    "dy = 0, dx = 3": lab.shift(seven, 0, 3),
    "dy = 8, background": lab.shift(seven, 8, 0),
    "dy = 8, wrap": lab.shift(seven, 8, 0, mode="wrap"),
}
image_row([(title, values, "image") for title, values in panels.items()])

# %% [markdown]
# Think of the frame as a window on an endless sheet. The second picture is what you would see if the whole sheet had
# moved. So is the third; but part of the digit is out of sight now. This is called [clipping](../glossary.md#clipping).
# A network whose output for a clipped digit differs has seen a different digit: nothing follows about its
# equivariance.
#
# ## How far can a digit move?
#
# The [ink margin](../glossary.md#ink-margin) of an image is the number of blank lines on one side of it, which is how
# far its ink can move that way. [`lab.ink_margins`][lab.shifting.ink_margins] finds all four, the image's [shift-safe
# range](../glossary.md#shift-safe-range). Ink is every pixel that differs from the background.
#
# MNIST's digits were scaled to fit a box of 20 × 20 pixels, then placed in the frame of 28 × 28 with their *centre of
# mass* in the middle ([LeCun et al. 1998](../references.md#lecun1998)). The mass of a pixel is its brightness.
#
# !!! question "Predict before you run"
#
#     You move every test digit by 4 px. Is the share that loses ink the same in all four directions? If not, which
#     direction is the worst?

# %%
sides = {"up": room.up, "down": room.down, "left": room.left, "right": room.right}
steps = torch.arange(13)  # px
lost = {side: (m[:, None] < steps).double().mean(0) for side, m in sides.items()}
up, down, left, right = lost.values()  # share of digits that lose ink, at each step
blank = torch.stack([room.up + room.down, room.left + room.right])  # in all
bold = lab.ink_margins((x > 0.5).float())  # control: only pixels above 0.5 are ink

# %%
#| label: clipping
#| alt: >-
#|   Four rising curves, one a direction: the share of test digits that lose ink against the shift in pixels. Down
#|   rises first, then right and up, which cross between 4 and 5 pixels; left rises last.
#| caption: >-
#|   Share of test digits that lose ink when moved. Down is the worst direction from 1 px until nearly every digit loses ink, left the best from
#|   2 px on; up is safer than right up to 4 px and worse after. The dotted line marks 4 px, the largest shift of the
#|   exercise's pairs.
#| code-fold: true
figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
axes.axvline(4, color="#777777", linestyle=":", linewidth=1)
for side, color, marker in zip(lost, COLORS[2:], MARKERS, strict=False):
    axes.plot(steps, 100 * lost[side], color=color, marker=marker, label=side)
axes.set(xlabel="shift (px)", xlim=(0, 12))
axes.set(ylabel="digits that lose ink (%)", ylim=(-2, 102))
legend = axes.legend(title="direction", frameon=False)

# %% [markdown]
# | direction | mean margin (px) | lose ink at 2 px | at 4 px | at 6 px | at 8 px |
# |---|---|---|---|---|---|
# | up | {{ room.up.double().mean():.2f }} | {{ up[2]:.1% }} | {{ up[4]:.1% }} | {{ up[6]:.1% }} | {{ up[8]:.1% }} |
# | down | {{ room.down.double().mean():.2f }} | {{ down[2]:.1% }} | {{ down[4]:.1% }} | {{ down[6]:.1% }} | {{ down[8]:.1% }} |
# | left | {{ room.left.double().mean():.2f }} | {{ left[2]:.1% }} | {{ left[4]:.1% }} | {{ left[6]:.1% }} | {{ left[8]:.1% }} |
# | right | {{ room.right.double().mean():.2f }} | {{ right[2]:.1% }} | {{ right[4]:.1% }} | {{ right[6]:.1% }} | {{ right[8]:.1% }} |
#
# Faint pixels are not to blame: counting only those above 0.5 as ink, the shares at 4 px are
# {{ (bold.up < 4).double().mean():.1% }} up and {{ (bold.down < 4).double().mean():.1% }} down. What, then, makes the
# sides differ? Let $m$ be the middle row of the ink and $c$ the row of its centre of mass, both counted from 0. Then
#
# $$\text{margin above} - \text{margin below} = 2m - 27 = \underbrace{(2c - 27)}_{\text{place in the frame}} +
# \underbrace{2\,(m - c)}_{\text{shape of the digit}},$$
#
# and likewise for columns. Both parts can be measured.

# %%
labels = mnist.test.labels
line = torch.arange(28, dtype=torch.float64)
ink = x[:, 0].double()
rows, columns = ((ink.sum(dim) * line).sum(1) / ink.sum((1, 2)) for dim in (2, 1))
centre = torch.stack([rows, columns])  # of the mass
box = torch.stack([room.up + 27 - room.down, room.left + 27 - room.right])
place, shape = 2 * centre - 27, box - 2 * centre  # box: twice the middle of the ink
off_pixel_14 = (centre - 14).abs().max().item()
off_frame = (centre - 13.5).abs().max().item()
by_shape = [shape[0, labels == digit].mean().item() for digit in range(10)]
sevens = (room.down[labels == 7] < 4).double().mean().item()
sixes = (room.up[labels == 6] < 4).double().mean().item()

# %% [markdown]
# | axis | difference of margins, mean (px) | place in the frame | shape of the digit |
# |---|---|---|---|
# | above − below | {{ (room.up - room.down).double().mean():+.2f }} | {{ place[0].mean():+.2f }} | {{ shape[0].mean():+.2f }} |
# | left − right | {{ (room.left - room.right).double().mean():+.2f }} | {{ place[1].mean():+.2f }} | {{ shape[1].mean():+.2f }} |
#
# ??? success "Answer"
#
#     **Place.** A frame of 28 pixels has no middle pixel: its middle lies between pixels 13 and 14. The digits were put
#     on pixel 14. No centre of mass of the test set is more than {{ off_pixel_14:.3f }} px from it along either axis,
#     which is as near as whole pixels allow. So the mean digit sits half a pixel low and half a pixel to the right, and
#     opposite margins differ by 1 px.
#
#     **Shape.** The middle of the ink need not be its centre of mass. A 7 and a 9 are heavy at the top; centring their
#     mass moves them down. That is worth {{ by_shape[7]:+.1f }} px for the mean 7 and {{ by_shape[9]:+.1f }} px for the
#     mean 9. A 6 is heavy at the bottom: {{ by_shape[6]:+.1f }} px. Over all classes this nearly averages out; for some classes it is far from that: moved down by 4 px, {{ sevens:.0% }} of the 7s lose ink; moved up, {{ sixes:.0% }} of the 6s.
#
# The box gives you one thing for certain: every digit has at least 28 − 20 = 8 blank rows *in all*, and 8 blank
# columns. The fewest found are {{ blank.min().item():d }}. They are only not shared evenly. Remember this for the pairs
# below.
#
# ## Can you shift back?
#
# Undo is the test of a translation. A [group action](../glossary.md#group-action) is a family of moves in which moving
# by 0 does nothing, and two moves after each other equal the one move by their sum. So moving by $t$ and then by $-t$
# must give back the image.
#
# !!! question "Predict before you run"
#
#     Move every digit by 4 px and back. For which digits is the result the original, bit for bit: with wrapping, and
#     with background?

# %%
moves = {"up": (-4, 0), "down": (4, 0), "left": (0, -4), "right": (0, 4)}


def restored(dy, dx, mode):
    """Whether each test digit, moved there and back, is what it was."""
    back = lab.shift(lab.shift(x, dy, dx, mode=mode), -dy, -dx, mode=mode)
    return (back == x).flatten(1).all(1)


wrap, background = (
    torch.stack([restored(*move, mode) for move in moves.values()])
    for mode in ("wrap", "background")
)

# %%
foretold = torch.stack([room.fits(*move) for move in moves.values()])
stranger = lab.derangement(len(x), seed=SEED)  # control: the margins of another digit
surprises = (background != foretold).double().mean().item()
by_chance = (background != foretold[:, stranger]).double().mean().item()
fits = room.fits(4, 0)
same_picture = torch.equal(
    lab.shift(x[fits], 4, 0), lab.shift(x[fits], 4, 0, mode="wrap")
)
twice = lab.shift(lab.shift(x, 15, -9, mode="wrap"), 20, 5, mode="wrap")
once = lab.shift(x, 7, -4, mode="wrap")  # 15 + 20 = 7 + 28, and -9 + 5 = -4
same_picture, torch.equal(twice, once)

# %% [markdown]
# | restored, bit for bit | up | down | left | right |
# |---|---|---|---|---|
# | wrap | {{ wrap[0].double().mean():.1% }} | {{ wrap[1].double().mean():.1% }} | {{ wrap[2].double().mean():.1% }} | {{ wrap[3].double().mean():.1% }} |
# | background | {{ background[0].double().mean():.1% }} | {{ background[1].double().mean():.1% }} | {{ background[2].double().mean():.1% }} | {{ background[3].double().mean():.1% }} |
#
# ??? success "Answer"
#
#     With wrapping, all. With background, exactly those that lost no ink: the ink margins foretold {{ 4 * len(x):,d }}
#     outcomes, and {{ surprises:.2g }} of them were wrong. The control, the margins of another digit, is wrong about
#     {{ by_chance:.0% }}.
#
# Wrapping is a true group action: every move has an exact inverse, and moves add up, modulo 28. Its price is ink on the
# wrong side: at 4 px down, for {{ (~fits).double().mean():.0% }} of the digits. Filling with background is a group
# action only while no ink leaves. For digits that have the room, the two modes draw the same picture, bit for bit.
#
# Use **wrap** where the network's grid is circular too: a convolution with `padding_mode="circular"` sees no seam, and
# you can compare every output. Use it also to test a proof or your own code, for then any deviation is a mistake. Use
# **background** for everything else: an unpadded or zero-padded convolution does see the seam, and no camera wraps.
# This course fills, and takes care that no ink leaves.
#
# ## How do you make pairs?
#
# The exercise asks for a test set of pairs of mutually translated images. The obvious way: take each test image as the
# first, draw a displacement, make the second, and throw the pair away if ink leaves. Every pair that is left is
# correct. [`lab.translated_pairs`][lab.shifting.translated_pairs] differs in one point: it draws the place of the
# *first* image too, among all that leave room for the displacement.
#
# Here both get the same 2,000 digits and the same displacements, spread evenly over the square of ±4 px without (0, 0).
# Only the first place differs. `margin=1` keeps a blank line around the ink; the next section says what for.
#
# !!! question "Predict before you run"
#
#     All of the obvious pairs are correct. What is wrong with them as a set? Look at the curves above.

# %%
digits = mnist.test.sample(2000, seed=SEED)
pairs = lab.translated_pairs(digits, max_shift=4, margin=1, seed=SEED)
first, second, dy, dx = pairs.first, pairs.second, pairs.dy, pairs.dx
kept = lab.ink_margins(digits.images).fits(dy, dx)  # the obvious way's pairs
top_heavy = (digits.labels == 7) | (digits.labels == 9)
at = torch.arange(-4, 5)
count = {
    "obvious": torch.stack([(kept & (dy == t)).sum() for t in at]),
    "balanced": torch.stack([(dy == t).sum() for t in at]),
}
share = {
    "obvious": torch.stack([top_heavy[kept & (dy == t)].double().mean() for t in at]),
    "balanced": torch.stack([top_heavy[dy == t].double().mean() for t in at]),
}
len(pairs), int(kept.sum())

# %%
#| alt: >-
#|   Two bar charts against dy from −4 (up) to 4 (down). Left, the number of pairs: level for the balanced pairs,
#|   falling towards 4 px down for the obvious ones. Right, the share of 7s and 9s: about level for the balanced pairs,
#|   falling to almost none at 4 px down for the obvious ones.
#| caption: >-
#|   Left: the obvious way has fewer and fewer pairs the further they move down. (The balanced pairs are fewer at 0 because the
#|   displacement (0, 0) is left out.) Right: at 3 and 4 px down, those that are left show hardly a 7 or a 9, though a
#|   fifth of all test digits are.
#| code-fold: true
looks = {"obvious": (-0.2, COLORS[3], "////"), "balanced": (0.2, COLORS[2], "")}
figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.2), layout="constrained")
for name, (offset, color, hatch) in looks.items():
    look = {"width": 0.4, "color": color, "hatch": hatch, "edgecolor": "white"}
    axes[0].bar(at + offset, count[name], label=name, **look)
    axes[1].bar(at + offset, 100 * share[name], **look)
axes[0].set(ylabel="pairs")
axes[1].set(ylabel="pairs that show a 7 or a 9 (%)")
for panel in axes:
    panel.set(xlabel="dy (px), down positive", xticks=at.tolist())
legend = figure.legend(loc="outside upper center", ncols=2, frameon=False)

# %%
stranger = lab.derangement(len(pairs), seed=SEED + 1)  # SEED makes the scale of errors
forth = lab.shift(first, dy, dx) == second
back = lab.shift(second, -dy, -dx) == first
complete = first.flatten(1).sort().values == digits.images.flatten(1).sort().values
mismatched = lab.shift(first[stranger], dy, dx) == second
forth, back, mismatched = (t.flatten(1).all(1) for t in (forth, back, mismatched))
matched = (forth & back & complete.all(1)).double().mean().item()
mismatched = mismatched.double().mean().item()

both = torch.stack([dy, dx], 1)
balanced_times, obvious_times = (
    t.unique(dim=0, return_counts=True)[1] for t in (both, both[kept])
)

# %% [markdown]
# ??? success "Answer"
#
#     Throwing away is a choice, and this one depends on direction and digit. The obvious way keeps
#     {{ count["obvious"][:4].sum():,d }} pairs that move up and {{ count["obvious"][5:].sum():,d }} that move down, of
#     {{ count["balanced"][:4].sum():,d }} each. At 4 px down, {{ share["obvious"][8]:.1% }} of its pairs show a 7 or a
#     9; of the balanced pairs, {{ share["balanced"][8]:.1% }}. Whatever you then find about "4 px down" is a finding
#     about the other eight digits.
#
# The balanced pairs lose no digit: each axis has at least 8 blank lines, and a displacement of 4 with a margin of 1 on
# both sides takes 6. Each of the {{ len(balanced_times):d }} displacements comes up {{ balanced_times.min():d }} times; with the obvious way, {{ obvious_times.min():d }} to {{ obvious_times.max():d }}.
#
# They are also symmetric. Say the first image lies at place $p$ and the second at $p + t$. Seen from the second, the
# displacement is $-t$, which comes up as often; the places that leave room for $-t$ are the same ones, moved by $t$;
# and all places are equally likely. So a pair is as likely as its reverse, and being the first means nothing. In the
# obvious way the first image always lies where training digits lie, and the second never does (exercise 1).
#
# **Check your pairs.** That `shift(first, dy, dx)` equals `second`, bit for bit, holds by construction. So ask also
# whether the way back restores the first, and whether the first holds every pixel value of its test image: all
# three hold for {{ matched:.1% }} of the pairs. As a control, give each second image the first of another pair:
# {{ mismatched:.1% }} match. Shuffle a test set on one side only, and this is what you have; every layer of every
# network will then seem to be broken.
#
# ## Shift first, or normalise first?
#
# Networks get normalised images, $(x - 0.1307) / 0.3081$, with the mean and the standard deviation of the pixels of
# MNIST's training images. The background is then no longer 0 but {{ lab.data.BACKGROUND:.3f }}. If you shift *after* that and
# fill with 0, you fill with the mean brightness: a grey band enters behind the digit.

# %%
correct = lab.normalize(second)  # shifted, then normalised
wrong = lab.shift(lab.normalize(first), dy, dx)  # normalised, then filled with 0

model = lab.build_model("given", seed=SEED)
run = lab.fit(model, mnist.train, cache=lab.data_root() / "checkpoints")
before, after, band = (
    lab.activations(model, images, ["conv1", "fc1"])
    for images in (lab.normalize(first), correct, wrong)
)

# %%
#| label: grey-band
#| alt: >-
#|   A digit; the same moved down and right; the same with a grey band along the top and the left side; and the
#|   difference of the convolution's outputs, which is confined to that band.
#| caption: >-
#|   The same digit, moved by 4 px down and right in both orders, in brightness from 0 to 1. The wrong order draws a
#|   grey band where pixels have entered. Last, what this does to conv1: the band again, with a rim where windows see
#|   both the band and the background.
#| code-fold: true
i = int(((dy == 4) & (dx == 4)).nonzero()[0])
panels = {
    "x": first[i, 0],
    "shift, normalise": second[i, 0],
    "normalise, shift": wrong[i, 0] * 0.3081 + 0.1307,
}
change = (band["conv1"] - after["conv1"])[i, 0]
image_row(
    [(title, values, "image") for title, values in panels.items()]
    + [("conv1: wrong − right", change, "difference")]
)

# %% [markdown]
# !!! question "Predict before you run"
#
#     Three measurements look at all {{ len(pairs):,d }} pairs: conv1's equivariance error on the
#     [overlap](../glossary.md#overlap), the windows that lie inside the picture before and after; the sort test of
#     [page 4](04_sorting.py), which asks whether the translation only permutes conv1's outputs; and fc1's invariance
#     error. Which of them notice the band?

# %%
unrelated = {name: values[stranger] for name, values in after.items()}
cases = after, band, unrelated
overlap = [lab.aligned_error(before["conv1"], a["conv1"], dy, dx) for a in cases]
sorting = [lab.sorted_distance(before["conv1"], a["conv1"]) for a in cases]
invariance = [lab.invariance_error(before["fc1"], a["fc1"]) for a in cases]
changed = (after["fc1"].argmax(1) != band["fc1"].argmax(1)).double().mean().item()
closer = (invariance[1] < invariance[0]).double().mean().item()
bias = model.conv1.bias.item()
# of a window without ink
plain = bias + lab.data.BACKGROUND * model.conv1.weight.sum().item()

# %% [markdown]
# | measured | right order | wrong order | control: unrelated image |
# |---|---|---|---|
# | conv1: equivariance error on the overlap | {{ overlap[0].mean():.2g }} | {{ overlap[1].mean():.2g }} | {{ overlap[2].mean():.2f }} |
# | conv1: sorted distance | {{ sorting[0].mean():.2g }} | {{ sorting[1].mean():.2f }} | {{ sorting[2].mean():.2f }} |
# | fc1: invariance error | {{ invariance[0].mean():.3f }} | {{ invariance[1].mean():.3f }} | {{ invariance[2].mean():.2f }} |
#
# ??? success "Answer"
#
#     Only the sort test shouts. The overlap leaves out every window that reaches into the strip that has entered, so it
#     cannot see what fills the strip. fc1 does see it, and {{ changed:.1% }} of the predictions change. But the band
#     takes {{ closer:.0% }} of the outputs closer to those for the original image and the others further away, and the
#     mean hides it. How much reaches fc1 at all is up to the weights: inside the band conv1 gives its bias, here
#     {{ bias:.2f }}, and in the background {{ plain:.2f }}. Where, with another seed, both are negative, the ReLU makes
#     0 of both.
#
# That the right order passes the sort test exactly is owed to `margin=1`: with a blank line around the ink, each 2 × 2
# window that touches ink lies inside both pictures.
#
# Think of this table before you trust a number. The convolution is equivariant, its error on the overlap says so, and still
# every image is wrong. Look at what you feed to the network.
#
# There are two right ways: shift, then normalise; or normalise, then shift with `background=lab.data.BACKGROUND`. Are they the
# same?

# %%
entered = lab.shift(torch.ones_like(first), dy, dx) == 0
in_strip = (wrong - correct)[entered]  # what the wrong order adds to each new pixel
other_way = lab.shift(lab.normalize(first), dy, dx, background=lab.data.BACKGROUND)
gap = (other_way - correct).abs().max().item()
first64, second64 = (lab.normalize(t.double()) for t in (first, second))
other_way64 = lab.shift(first64, dy, dx, background=lab.data.BACKGROUND)
gap64 = (other_way64 - second64).abs().max().item()

# %% [markdown]
# On paper, yes: normalising treats all pixels alike, so it commutes with moving them about. On the machine, up to one
# rounding: the largest difference is {{ gap:.2g }} in float32, whose numbers are
# $2^{-25} \approx 3 \times 10^{-8}$ apart at this size, and {{ gap64:.2g }} in float64. The constant `lab.data.BACKGROUND` is
# divided in double precision and rounded once; `normalize` rounds after every step. For equal bits, fill with what
# `normalize` makes of a 0.
#
# ## Why whole pixels?
#
# The world does not move by whole pixels. A shift by a fraction $a$ of a pixel needs *interpolation*: values between
# pixels, made from those around. The usual, bilinear way mixes neighbours along a row: $(1 - a)\,x[j] + a\,x[j-1]$.
#
# !!! question "Predict before you run"
#
#     Move each digit by half a pixel to the right, then by half a pixel to the left. Do you get it back?


# %%
def slide(images, a, side=1):
    """Move by a fraction `a` of a pixel, to the right, or to the left (`side=-1`)."""
    return (1 - a) * images + a * lab.shift(images, 0, side)


fractions = torch.linspace(0, 1, 11).tolist()
errors = [
    lab.equivariance_error(slide(slide(first, a), a, -1), first).mean().item()
    for a in fractions
]
bend = torch.diff(F.pad(first, (1, 1)), n=2)  # x[j + 1] - 2 x[j] + x[j - 1]
bend = (bend.flatten(1).norm(dim=1) / first.flatten(1).norm(dim=1)).mean().item()

# %%
#| alt: >-
#|   The relative error of a shift there and back against the fraction of a pixel: a parabola, zero at 0 and at 1 pixel,
#|   highest at one half. The measured points lie on the curve.
#| caption: >-
#|   There and back by a fraction of a pixel: relative difference from the original. It is 0 for whole pixels only. The
#|   curve is computed from the second differences of the images, the points are measured.
#| code-fold: true
figure, axes = plt.subplots(figsize=(5.6, 2.9), layout="constrained")
grid = torch.linspace(0, 1, 101)
look = {"color": SECOND, "marker": "s", "linestyle": "none", "clip_on": False}
axes.plot(grid, grid * (1 - grid) * bend, color=FIRST, label="theory")
axes.plot(fractions, errors, label="measured", **look)
axes.set(xlabel="fraction of a pixel", xlim=(0, 1))
axes.set(ylabel="relative error, there and back", ylim=(0, None))
legend = axes.legend(frameon=False, loc="lower center")

# %%
seen = (torch.arange(27) > 0).expand(27, 27)  # the first column has no left neighbour
conv = before["conv1"]
half, whole = (
    lab.activations(model, lab.normalize(slide(first, a)), ["conv1"])["conv1"]
    for a in (0.5, 1.0)
)
conv_error = lab.equivariance_error(half, slide(conv, 0.5), seen).max().item()
relu_error, relu_whole = (
    lab.equivariance_error(moved.relu(), slide(conv.relu(), a), seen).mean().item()
    for moved, a in ((half, 0.5), (whole, 1.0))
)
mixed, permuted = (
    lab.sorted_distance(first, slide(first, a)).mean().item() for a in (0.5, 1.0)
)

# %% [markdown]
# ??? success "Answer"
#
#     No. There and back turns $x[j]$ into $x[j] + a(1-a)\,(x[j+1] - 2x[j] + x[j-1])$: a blur, worst at half a pixel,
#     where the error is {{ errors[5]:.3f }} of the image's norm. At 1 px, the control, it is {{ errors[10]:.2g }}.
#     Stripes one pixel wide would turn into plain grey; nothing brings them back.
#
# A whole-pixel shift *permutes* pixel values, and the exercise wants to see permuted activations. Interpolation makes
# new values: sorted, the pixels of a digit and of the same moved by half a pixel are {{ mixed:.2f }} apart (1: another
# image; a whole pixel: {{ permuted:.2g }}). You would measure two operators at once, one that moves and one that blurs.
#
# And layers treat the two differently. Mixing neighbours is itself a convolution, so conv1 commutes with it up to
# rounding ({{ conv_error:.1g }}). The ReLU does not: its error is {{ relu_error:.2g }} here, against
# {{ relu_whole:.2g }} at a whole pixel, and it depends on the weights. Continuous translations are a subject of their
# own: [Gruver et al. 2023](../references.md#gruver2023) link many violations of equivariance to aliasing, pointwise
# nonlinearities included. Here, *exactly 0* must be possible, so this course shifts by whole pixels.
#
# ## What you should have seen
#
# `dy > 0` is down, `dx > 0` is right, and a digit that leaves the frame is another picture. MNIST's digits are not in
# the middle of the frame, each class in its own way: at 4 px, {{ up[4]:.0% }} of the test digits lose ink upwards and
# {{ down[4]:.0% }} downwards. Wrapping can always be undone, filling only while no ink leaves; then the two are the
# same. Pairs that are correct one by one can still be biased as a set, so draw the first place too. Shift, then
# normalise: the wrong order draws a grey band, and not every measurement notices.
#
# ## Theory and observation
#
# Shares are of test digits or of pairs; *restored* and *match* mean bit for bit.


# %%
#| code-fold: true
def excess(ink):
    """Share of digits that lose ink 4 px down, less the largest share in another direction."""
    lost = {side: (getattr(ink, side) < 4).double().mean().item() for side in sides}
    return lost.pop("down") - max(lost.values())


upright = lab.shift(x, (room.down - room.up) // 2, (room.right - room.left) // 2)
wrap_restored, background_restored = (
    t.double().mean().item() for t in (wrap, background)
)
balance, imbalance = (
    (t.min() / t.max()).item() for t in (balanced_times, obvious_times)
)
top_heavy_obvious, top_heavy_balanced = (t[8].item() for t in share.values())
unseen, control = overlap[1].max().item(), overlap[2].mean().item()
seen_by_sorting, least_in_strip = sorting[1].mean().item(), in_strip.min().item()

# %%
#| code-fold: true
lab.check(
    [
        lab.Claim(
            "centre of mass: largest distance from pixel 14 (px)",
            "placed by whole pixels",
            predicted=0.5,
            observed=off_pixel_14,
            controls=(lab.Control("from the frame's middle", off_frame, ">=", 0.9),),
            relation="<=",
            tolerance=1e-3,
            why="half a step; 8-bit pixels, rounded by 1.1e-3 each: √150 · 6 px · 1.1e-3 over a mass of 100 = 8e-4",
        ),
        lab.Claim(
            "4 px down: share that loses ink, less that in the worst other direction",
            "more than in other directions",
            predicted=0.06,
            observed=excess(room),
            controls=(
                lab.Control(
                    "digits in mid-frame", excess(lab.ink_margins(upright)), "<=", 0.06
                ),
            ),
            relation=">=",
            why="4 standard errors of a difference of two shares of 2,000: at most 4 · √2 · 0.011",
        ),
        lab.Claim(
            "wrap, 4 px there and back: share restored",
            "a group action",
            predicted=1.0,
            observed=wrap_restored,
            controls=(lab.Control("background", background_restored, "<=", 0.9),),
        ),
        lab.Claim(
            "background, 4 px there and back: share foretold wrongly by ink margins",
            "restored if and only if no ink leaves",
            predicted=0.0,
            observed=surprises,
            controls=(lab.Control("margins of another digit", by_chance, ">=", 0.1),),
        ),
        lab.Claim(
            "pairs: share that matches both ways, with all ink",
            "mutually translated",
            predicted=1.0,
            observed=matched,
            controls=(lab.Control("mismatched pairs", mismatched, "<=", 0.01),),
        ),
        lab.Claim(
            "pairs: rarest displacement over most frequent",
            "balanced",
            predicted=1.0,
            observed=balance,
            controls=(lab.Control("the obvious way", imbalance, "<=", 0.75),),
        ),
        lab.Claim(
            "obvious pairs, 4 px down: share of 7s and 9s",
            "biased",
            predicted=0.05,
            observed=top_heavy_obvious,
            controls=(lab.Control("balanced pairs", top_heavy_balanced, ">=", 0.1),),
            relation="<=",
            why="a quarter of their share of the test digits, a fifth",
        ),
        lab.Claim(
            "two right orders: largest difference",
            "equal",
            predicted=0.0,
            observed=gap,
            controls=(lab.Control("filled with 0, least", least_in_strip, ">=", 0.4),),
            tolerance=1e-7,
            why="float32: four roundings of a number of size 0.42, each 2⁻²⁴ of it",
        ),
        lab.Claim(
            "conv1, wrong order: equivariance error on the overlap, worst pair",
            "blind to what fills the strip",
            predicted=0.0,
            observed=unseen,
            controls=(
                lab.Control("unrelated image", control, ">=", 0.5),
                lab.Control("sorted distance", seen_by_sorting, ">=", 0.1),
            ),
            tolerance=1e-6,
            why="float32: sums of 5 terms in another order, √5 · 2⁻²⁴ = 1.3e-7",
        ),
        lab.Claim(
            "half a pixel there and back: relative error",
            "a quarter of the second difference",
            predicted=bend / 4,
            observed=errors[5],
            controls=(lab.Control("a whole pixel", errors[10], "<=", 0.0),),
            tolerance=1e-6,
            why="float32 norms of 784 terms: √784 · 2⁻²⁴ = 1.7e-6 of a value of 0.2",
        ),
    ],
    data=mnist,
    seeds=[SEED],
)

# %% [markdown]
# ## Try it yourself
#
# **Exercise 1.** Compare the accuracy of the trained network on the first and on the second images, for the balanced and for the
# obvious pairs. Which of the four numbers is the odd one out, and why?
#
# **Exercise 2.** With `margin=0`, how large can `max_shift` be before [`lab.translated_pairs`][lab.shifting.translated_pairs] has to
# drop digits? Predict it from the 20 × 20 box.
#
# **Exercise 3.** Suppose the digits had been centred by the middle of their ink, not by their centre of mass. How many would lose ink
# at 4 px, in each direction? And at 5 px?

# %%
#| fold: Solution 1
#| text: >-
#|   The obvious pairs' first images are untouched test digits, which the network recognises as well as ever. Nearly all
#|   other images lie away from where it saw digits in training. That goes for both images of a balanced pair, whose
#|   accuracies differ by chance only. With the obvious pairs, *first against second* is also *familiar against
#|   unfamiliar place*.
accuracy = {}
for name, start, chosen in (
    ("balanced", first, torch.ones_like(kept)),
    ("obvious", digits.images, kept),
):
    for place, images in (("first", start), ("second", lab.shift(start, dy, dx))):
        some = lab.Split(images[chosen], digits.labels[chosen])
        accuracy[f"{name}, {place}"] = round(lab.evaluate(model, some).accuracy, 3)
accuracy

# %%
#| fold: Solution 2
#| text: >-
#|   Up to 8 px, no digit is dropped: 28 − 20 = 8 blank lines are there, however they are split. From 9 px on, a digit
#|   20 pixels high has no room for a displacement of 9 rows. Below: digits dropped.
{
    size: len(x) - len(lab.translated_pairs(mnist.test, max_shift=size, seed=SEED))
    for size in (7, 8, 9, 10)
}

# %%
#| fold: Solution 3
#| text: >-
#|   At 4 px, none. A digit 20 pixels high would have 4 blank rows above and 4 below, and a smaller one no fewer. At 5
#|   px most would lose ink, upwards as well as downwards: the same 8 rows, shared evenly. To the left and right far
#|   fewer would, for most digits are narrower than 20 pixels.
boxed = lab.shift(x, (room.down - room.up) // 2, (room.right - room.left) // 2)
even = lab.ink_margins(boxed)
{
    px: {side: (getattr(even, side) < px).double().mean().item() for side in sides}
    for px in (4, 5)
}
