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
# To measure equivariance you compare a network's outputs for an image with its outputs for the same image, moved. On a
# grid of 28 × 28 pixels that is less simple than it sounds: something leaves the frame, something enters it, and both can
# spoil a measurement without any error message.

# %%
#| code-fold: true
#| code-title: Load the digits, and move a 7
#| alt: >-
#|   A handwritten 7; the same moved 3 pixels to the right; moved 8 pixels down, its foot cut off; and moved 8 pixels down
#|   in a circle, its foot at the top.
#| caption: >-
#|   A 7, and three moves. To the right by 3 px, it is the same 7. Down by 8 px, the frame cuts off its foot. In a circle,
#|   the foot comes in again at the top. Which of these is "the same digit, moved"?
import matplotlib.pyplot as plt
import torch

import lab
from lab.plotting import COLORS, MARKERS, draw_panels, image_row

SEED = 0
mnist = lab.load_mnist()
x, labels = mnist.test.images, mnist.test.labels  # from 0 (background) to 1 (ink)
room = lab.ink_margins(x)
has_room = (room.down <= 2) & (room.right >= 4)
seven = x[(labels == 7) & has_room][0, 0]
panels = [
    ("x", seven, "image"),
    ("3 px right", lab.shift(seven, 0, 3), "image"),
    ("8 px down", lab.shift(seven, 8, 0), "image"),
    ("8 down, circle", lab.shift(seven, 8, 0, mode="wrap"), "image"),
]
figure = image_row(panels, width=1.55)
for axis in figure.axes:
    axis.title.set_fontsize(12)
figure

# %% [markdown]
# !!! abstract "After this page you can"
#
#     - say what [`lab.shift`][lab.shifting.shift] does to every pixel, and which sign is which direction;
#     - tell how far a digit can move before it becomes another picture;
#     - choose between wrapping, filling with background, and a larger canvas;
#     - make pairs of moved images that favour no direction and no digit;
#     - shift and normalise in the right order, and name a measurement that cannot notice the wrong one.
#
# ## What leaves, and what enters?
#
# A [translation](../glossary.md#translation) is what happens to the image; a [shift](../glossary.md#shift) is its
# displacement `dy, dx` in whole pixels. Rows are counted downwards, so `dy > 0` is **down**; `dx > 0` is **right**; `dy`
# comes first, as rows do in an array. Pixel by pixel, with $c$ the value that fills,
#
# $$(T_{dy,dx}\,x)[i, j] = \begin{cases} x[i - dy,\; j - dx] & \text{where that pixel exists,}\\
# c & \text{elsewhere.}\end{cases}$$

# %%
tiny = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])

# %% [markdown]
# ```predict
# id: tiny-down
# question: What is the first row of `lab.shift(tiny, 1, 0)`?
# choices:
#   - "`4, 5, 6`"
#   - "`0, 0, 0`"
#   - "`7, 8, 9`"
# ```

# %%
filled = lab.shift(tiny, 1, 0)
wrapped = lab.shift(tiny, 1, 0, mode="wrap")

# %% [markdown]
# ```observed
# id: tiny-down
# right: 2
# value: "`{{ filled.int().tolist() }}`"
# reason: |
#   Mind the minus sign in the formula: to move the content *down*, each pixel takes its value from *above*. Above the first
#   row there is nothing, so it is filled, and 7, 8, 9 are gone. They come in at the top with `mode="wrap"`: `{{ wrapped.int().tolist() }}`.
# ```

# %% [markdown]
# These are the two modes of [`lab.shift`][lab.shifting.shift]. `"background"` drops what leaves and fills what enters, with
# 0 unless you say otherwise. [`"wrap"`](../glossary.md#wrap) is the circular translation of page 1.
#
# Think of the frame as a window on an endless sheet of paper. When ink leaves it, the digit is
# [clipped](../glossary.md#clipping): the moved image is another picture. An output that sees the lost part changes,
# however good the layer is. What you can still compare are the outputs that see the same piece of the sheet before and after: the
# [overlap](../glossary.md#overlap). On it, clipped digits are as good as others, as [page 4](04_sorting.py) shows.
#
# ## How far can a digit move?
#
# The [ink margin](../glossary.md#ink-margin) of an image is the number of blank lines on one side: how far its ink can
# move that way. [`lab.ink_margins`][lab.shifting.ink_margins] finds all four. Ink is every pixel that differs from the
# background.
#
# MNIST's digits were scaled to fit a box of 20 × 20 pixels, and then placed in the frame of 28 × 28 with their *centre of
# mass* in the middle ([LeCun et al. 1998](../references.md#lecun1998)). The mass of a pixel is its brightness.

# %% [markdown]
# ```predict
# id: worst-direction
# question: You move every test digit by 4 px, filling with background. In which direction do most digits lose ink?
# choices:
#   - "in none: the digits are centred, so the four shares are about the same"
#   - up
#   - down
#   - left or right, since digits are wide
# ```

# %%
sides = {"up": room.up, "down": room.down, "left": room.left, "right": room.right}
steps = torch.arange(13)  # px
lost = {side: (m[:, None] < steps).double().mean(0) for side, m in sides.items()}

# %%
#| code-fold: true
#| code-title: Draw the share of digits that lose ink
#| label: clipping
#| alt: >-
#|   Four rising curves, one a direction: the share of test digits that lose ink against the shift in pixels. Down rises
#|   first; left rises last.
#| caption: >-
#|   Share of test digits that lose ink when moved. Down is the worst direction; left is the best from 2 px on. The dotted line marks 4 px,
#|   the largest shift of the exercise's pairs.
figure, axes = plt.subplots(figsize=(6.2, 3.5), layout="constrained")
axes.axvline(4, color="#777777", linestyle=":", linewidth=1)
for side, color, marker in zip(lost, COLORS[2:], MARKERS, strict=False):
    axes.plot(steps, 100 * lost[side], color=color, marker=marker, label=side)
axes.set_xlabel("shift (px)", fontsize=12)
axes.set_ylabel("digits that lose ink (%)", fontsize=12)
axes.set(xlim=(0, 12), ylim=(-2, 102))
axes.tick_params(labelsize=12)
legend = axes.legend(fontsize=12)

# %%
#| code-fold: true
#| code-title: Find the centres of mass, and the middles of the ink
line = torch.arange(28, dtype=torch.float64)
ink = x[:, 0].double()
rows, columns = ((ink.sum(dim) * line).sum(1) / ink.sum((1, 2)) for dim in (2, 1))
centre = torch.stack([rows, columns])
off_pixel_14 = (centre - 14).abs().max().item()
off_frame = (centre - 13.5).abs().max().item()
middle = (room.up + 27 - room.down) / 2  # of the ink, in rows
low = {digit: (middle - rows)[labels == digit].mean().item() for digit in (6, 7)}

# %% [markdown]
# ```observed
# id: worst-direction
# right: 3
# value: "up {{ lost['up'][4]:.0%}}, down {{ lost['down'][4]:.0%}}, left {{ lost['left'][4]:.0%}}, right {{ lost['right'][4]:.0%}}"
# reason: |
#   A frame of 28 pixels has no middle pixel: its middle lies between pixels 13 and 14. The digits were put on pixel 14: no
#   centre of mass is more than {{ off_pixel_14:.2f }} px from it, along either axis. So they sit half a pixel low and half a
#   pixel to the right. And the centre of *mass* is not the middle of the *ink*. A 7 is heavy at the top; putting its mass in the
#   centre moves its ink down, by {{ low[7]:.1f }} px on average. A 6 is heavy at the bottom, and its ink sits
#   {{ -low[6]:.1f }} px higher.
# ```

# %% [markdown]
# The box gives you one certainty: every digit has at least 28 − 20 = 8 blank rows *in all*, and 8 blank columns. But they
# are not shared evenly between the sides.
#
# ## Can you shift back?
#
# Undoing is the test of a translation: moving by $t$ and then by $-t$ must give the image back.

# %% [markdown]
# ```predict
# id: there-and-back
# question: Move every test digit 4 px down and then 4 px up, filling with background. How many are the original again, bit for bit?
# number: {unit: "%", places: 0}
# ```


# %%
def restored(images, dy, dx, mode):
    """Whether each image, moved there and back, is what it was."""
    back = lab.shift(lab.shift(images, dy, dx, mode=mode), -dy, -dx, mode=mode)
    return (back == images).flatten(1).all(1).double()


MOVES = {"up": (-4, 0), "down": (4, 0), "left": (0, -4), "right": (0, 4)}
wrap = torch.stack([restored(x, *t, "wrap") for t in MOVES.values()])
background = torch.stack([restored(x, *t, "background") for t in MOVES.values()])
canvas = torch.nn.functional.pad(x, (4, 4, 4, 4))  # 36 × 36
on_canvas = torch.stack([restored(canvas, *t, "background") for t in MOVES.values()])

# %% [markdown]
# | restored | up | down | left | right |
# |---|---|---|---|---|
# | wrap | {{ wrap[0].mean():.1%}} | {{ wrap[1].mean():.1%}} | {{ wrap[2].mean():.1%}} | {{ wrap[3].mean():.1%}} |
# | background | {{ background[0].mean():.1%}} | {{ background[1].mean():.1%}} | {{ background[2].mean():.1%}} | {{ background[3].mean():.1%}} |
# | background, on a canvas of 36 × 36 | {{ on_canvas[0].mean():.1%}} | {{ on_canvas[1].mean():.1%}} | {{ on_canvas[2].mean():.1%}} | {{ on_canvas[3].mean():.1%}} |

# %% [markdown]
# ```observed
# id: there-and-back
# value: "{{ 100 * background[1].mean():.0f}}"
# within: 5
# reason: |
#   Lost ink does not come back, so these are just the digits that lost none: 100 % less the {{ lost['down'][4]:.0%}} of
#   the curve *down* at 4 px. The ink margins tell which ones, without a single mistake among {{ background.numel():,d }}
#   moves. With wrapping, every digit comes back.
# ```

# %% [markdown]
# **Your turn:** move this digit out of its frame. From where on does the way back not bring it back? What changes on a ring?
#
# <div><live-lab src="../assets/live/" preset="undo"><p>With JavaScript, you can drag a digit here.</p></live-lab></div>

# %% [markdown]
# So there are three clean ways to move a digit:
#
# | way | can be undone | price |
# |---|---|---|
# | **wrap** | always: a group action, with 28 · 28 translations | ink on the wrong side; right only where the layer's grid is a circle too, `padding_mode="circular"` |
# | **background, ink inside** | while no ink leaves | the [shift-safe range](../glossary.md#shift-safe-range) differs from digit to digit |
# | **larger [canvas](../glossary.md#canvas)** | up to the width that was added | the network must accept larger images: the exercise's `fc1` does not |
#
# For digits that have the room, the first two draw the same picture, bit for bit. Page 1 wraps, since its layers are
# circular. The exercise on [page 3](03_exercise.py) fills with background and keeps the ink inside, since its convolution
# is not circular, and no camera wraps. [Page 11](11_shift_maps.py) uses a canvas.
#
# ## How do you make pairs?
#
# The exercise asks for pairs of mutually translated images. The obvious way: take each test image as the first, draw a
# shift, make the second, and throw the pair away if ink leaves. [`lab.translated_pairs`][lab.shifting.translated_pairs] differs in one
# point: it draws the place of the *first* image as well, among all places that leave room for the shift.
#
# Here both get the same 2,000 digits and the same shifts, spread evenly over ±4 px along both axes.

# %% [markdown]
# ```predict
# id: obvious-pairs
# question: Every obvious pair is correct. What is wrong with them as a set?
# choices:
#   - "nothing: a set of correct pairs is a correct set"
#   - "fewer of them move down than up, and those that move far down show hardly any 7"
#   - "fewer of them move up than down, and those that move far up show hardly any 7"
#   - "they contain the same digit twice"
# ```

# %%
digits = mnist.test.sample(2000, seed=SEED)
balanced = lab.translated_pairs(digits, max_shift=4, seed=SEED)
dy, dx = balanced.dy, balanced.dx
kept = lab.ink_margins(digits.images).fits(dy, dx)  # the obvious way's pairs
is_7 = digits.labels == 7
at = torch.arange(-4, 5)
sets = {"obvious": kept, "balanced": torch.ones_like(kept)}
count = {k: torch.stack([(s & (dy == t)).sum() for t in at]) for k, s in sets.items()}
sevens = {
    k: torch.stack([is_7[s & (dy == t)].double().mean() for t in at])
    for k, s in sets.items()
}

# %%
#| code-fold: true
#| code-title: Count the pairs, and the 7s among them
#| alt: >-
#|   Two bar charts against dy from −4 (up) to 4 (down). Above, the number of pairs: level for the balanced pairs, falling
#|   towards 4 pixels down for the obvious ones. Below, the share of 7s: about level for the balanced pairs, almost none at
#|   4 pixels down for the obvious ones.
#| caption: >-
#|   Above: the obvious way has fewer and fewer pairs the further they move down. (The balanced pairs are fewer at 0,
#|   because the shift (0, 0) is left out.) Below: at 3 and 4 px down, those that are left show hardly any 7.
looks = {"obvious": (-0.2, COLORS[3], "////"), "balanced": (0.2, COLORS[2], "")}
figure, axes = plt.subplots(2, 1, figsize=(6.2, 4.6), sharex=True, layout="constrained")
for name, (offset, color, hatch) in looks.items():
    look = {"width": 0.4, "color": color, "hatch": hatch, "edgecolor": "white"}
    axes[0].bar(at + offset, count[name], label=name, **look)
    axes[1].bar(at + offset, 100 * sevens[name], **look)
axes[0].set_ylabel("pairs", fontsize=12)
axes[1].set_ylabel("of them 7s (%)", fontsize=12)
axes[1].set_xticks(at.tolist())
axes[1].set_xlabel("dy (px), down positive", fontsize=12)
for axis in axes:
    axis.tick_params(labelsize=12)
legend = figure.legend(loc="outside upper center", ncols=2, fontsize=12)

# %% [markdown]
# ```observed
# id: obvious-pairs
# right: 2
# value: "{{ count['obvious'][5:].sum():,d}} pairs down, {{ count['obvious'][:4].sum():,d}} up; at 4 px down {{ sevens['obvious'][8]:.1%}} are a 7, of the balanced pairs {{ sevens['balanced'][8]:.1%}}"
# reason: |
#   Throwing pairs away is a choice, and this one depends on the direction and on the digit. Whatever you then measure at "4 px
#   down" is about the other digits. There is a second trap: the first image of an obvious pair lies where training digits
#   lie, and the second never does (exercise 1).
# ```

# %% [markdown]
# The balanced pairs lose no digit, because 8 blank lines leave room for a shift of 4 px, wherever the digit sits. And a pair is as
# likely as its reverse: if first and second image lie at the places $p$ and $p + t$, then the shift $-t$ is as frequent as $t$, and all places
# with enough room are equally likely. So being the first image means nothing.

# %%
shuffled = lab.derangement(len(balanced), seed=SEED + 1)
forth = lab.shift(balanced.first, dy, dx) == balanced.second
back = lab.shift(balanced.second, -dy, -dx) == balanced.first
before, after = (t.flatten(1).sort().values for t in (balanced.first, digits.images))
wrong = lab.shift(balanced.first[shuffled], dy, dx) == balanced.second
matched = forth.flatten(1).all(1) & back.flatten(1).all(1) & (before == after).all(1)
mismatched = wrong.flatten(1).all(1)

# %% [markdown]
# **Check your pairs** before you use them: the shift forth, the shift back, and that no pixel value was lost. All three
# hold, bit for bit, for {{ matched.double().mean():.1%}} of the pairs. When each second image gets the first image of
# another pair, {{ mismatched.double().mean():.1%}} pass. If you shuffle a test set on one side only, this is what you have, and
# every layer will seem to be broken.
#
# ## Shift first, or normalise first?
#
# Networks get normalised images, $(x - 0.1307) / 0.3081$, with the mean and the standard deviation of the pixels of MNIST's
# training images. The background is then no longer 0 but {{ lab.data.BACKGROUND:.3f }}. If you shift *after* that and fill with 0, a
# grey band enters behind the digit.

# %%
pairs = lab.translated_pairs(digits, max_shift=4, margin=1, seed=SEED)
right = lab.normalize(pairs.second)  # shifted, then normalised
band = lab.shift(lab.normalize(pairs.first), pairs.dy, pairs.dx)  # the other order

model = lab.build_model("given", seed=SEED)
run = lab.fit(model, mnist.train, cache=lab.data_root() / "checkpoints")
before, after, spoilt = (
    lab.activations(model, images, ["conv1", "fc1"])
    for images in (lab.normalize(pairs.first), right, band)
)

# %%
#| code-fold: true
#| code-title: Draw the grey band
#| label: grey-band
#| alt: >-
#|   A digit; the same moved down and right; the same with a grey band along the top and the left side; and the difference
#|   of the convolution's outputs, which is confined to that band.
#| caption: >-
#|   The same digit, moved by 4 px down and right in both orders. The wrong order draws a grey band where pixels have
#|   entered. Last, what this changes in `conv1`: the band again.
i = int(((pairs.dy == 4) & (pairs.dx == 4)).nonzero()[0])
figure, axes = plt.subplots(1, 4, figsize=(6.2, 2.0), layout="constrained")
panels = [
    ("x", pairs.first[i, 0], "image"),
    ("shift first", pairs.second[i, 0], "image"),
    ("shift last", band[i, 0] * 0.3081 + 0.1307, "image"),
    ("conv1 changes", (spoilt["conv1"] - after["conv1"])[i, 0], "difference"),
]
draw_panels(axes, panels)
for axis in axes:
    axis.title.set_fontsize(12)

# %% [markdown]
# Three measurements look at all {{ len(pairs):,d }} pairs: `conv1`'s equivariance error on the overlap; its *sorted
# distance*, which sorts the outputs of both images and compares the two lists ([page 4](04_sorting.py)); and the invariance
# error of `fc1`, the last layer.

# %% [markdown]
# ```predict
# id: who-notices
# question: Which of them can *not* notice the band, whatever the weights are?
# choices:
#   - the equivariance error of `conv1` on the overlap
#   - the sorted distance of `conv1`
#   - the invariance error of `fc1`
#   - "none: a wrong image makes every measurement wrong"
# ```

# %%
other = lab.derangement(len(pairs), seed=SEED + 1)
unrelated = {name: values[other] for name, values in after.items()}
cases = after, spoilt, unrelated
a = before["conv1"]
overlap = [lab.aligned_error(a, b["conv1"], pairs.dy, pairs.dx) for b in cases]
sorting = [lab.sorted_distance(a, b["conv1"]) for b in cases]
invariance = [lab.invariance_error(before["fc1"], b["fc1"]) for b in cases]
changed = (after["fc1"].argmax(1) != spoilt["fc1"].argmax(1)).double().mean().item()

# %% [markdown]
# | measured | right order | wrong order | control: another digit |
# |---|---|---|---|
# | `conv1`: equivariance error on the overlap, largest | {{ overlap[0].max():.2g }} | {{ overlap[1].max():.2g }} | mean {{ overlap[2].mean():.2f }} |
# | `conv1`: sorted distance, mean | {{ sorting[0].mean():.2g }} | {{ sorting[1].mean():.2f }} | {{ sorting[2].mean():.2f }} |
# | `fc1`: invariance error, mean | {{ invariance[0].mean():.3f }} | {{ invariance[1].mean():.3f }} | {{ invariance[2].mean():.2f }} |

# %% [markdown]
# ```observed
# id: who-notices
# right: 1
# value: "{{ overlap[1].max():.1g }} in the wrong order"
# reason: |
#   The overlap leaves out every window that reaches into what has entered. So the error on it stays at 0, and it should: the
#   convolution *is* equivariant. But the second image of each pair is wrong all the same. The sorted distance notices at once.
#   `fc1` sees the band too: {{ changed:.1%}} of its predicted classes change. Whether its *mean* error shows that is up to the
#   weights. So look at the images that you feed to a network.
# ```

# %% [markdown]
# There are two right ways: shift, then normalise; or normalise, then shift with `background=lab.data.BACKGROUND`. On paper
# they are the same, since normalising treats all pixels alike. In float32 they may differ in the last bits.
#
# All shifts here are by *whole* pixels. A shift by a fraction of a pixel has to invent values between the pixels, so that
# it does not only move the image. [Page 7](07_aliasing.py) needs such shifts, and says how they are made.
#
# ## Theory and observation
#
# Shares are of test digits or of pairs; *restored* and *matches* mean bit for bit.


# %%
#| code-fold: true
#| code-title: What the claims compare
def share(which):
    return which.double().mean().item()


def excess(margins):
    """Share that loses ink 4 px down, less the largest share in another direction."""
    lost = {side: share(getattr(margins, side) < 4) for side in sides}
    return lost.pop("down") - max(lost.values())


def law_fails(mode):
    """For which digits T_s T_t x is not T_{s+t} x, for random s and t."""
    some = digits.images
    twice = lab.shift(lab.shift(some, *t, mode=mode), *s, mode=mode)
    return (twice != lab.shift(some, *(s + t), mode=mode)).flatten(1).any(1)


generator = torch.Generator().manual_seed(SEED)
s, t = torch.randint(-9, 10, (2, 2, len(digits)), generator=generator)
foretold = torch.stack([room.fits(*move) for move in MOVES.values()])
stranger = lab.derangement(len(x), seed=SEED)
surprises = share(background.bool() != foretold)
by_chance = share(background.bool() != foretold[:, stranger])
boxed = lab.shift(x, (room.down - room.up) // 2, (room.right - room.left) // 2)
even = lab.ink_margins(boxed)  # the middle of the ink in the middle of the frame
both = torch.stack([dy, dx], 1)
times, obvious_times = (
    d.unique(dim=0, return_counts=True)[1] for d in (both, both[kept])
)
filled_right = lab.shift(
    lab.normalize(pairs.first), pairs.dy, pairs.dx, background=lab.data.BACKGROUND
)
gap = (filled_right - right).abs().max().item()
entered = lab.shift(torch.ones_like(right), pairs.dy, pairs.dx) == 0

# %%
#| code-fold: true
#| code-title: The claims about moving and undoing
moving = [
    lab.Claim(
        "centre of mass: largest distance from pixel 14 (px)",
        "placed by whole pixels",
        0.5,
        off_pixel_14,
        (lab.Control("from the frame's middle", off_frame, ">=", 0.9),),
        "<=",
        1e-3,
        "half a step; 8-bit pixels, rounded by 1.1e-3 each: √150 · 6 px · 1.1e-3 over a mass of 100 = 8e-4. A first run showed that the pixel is 14",
        kind="empirical",
        n=2 * len(x),
    ),
    lab.Claim(
        "4 px down: share that loses ink, less that in the worst other direction",
        "more than in other directions",
        0.06,
        excess(room),
        (lab.Control("ink in mid-frame", excess(even), "<=", 0.06),),
        ">=",
        why="4 standard errors of a difference of two shares of 2,000: at most 4 · √2 · 0.011; a first run showed the direction",
        kind="empirical",
        n=len(x),
    ),
    lab.Claim(
        "wrap, 4 px there and back: share restored",
        "a group action",
        1.0,
        wrap.mean().item(),
        (lab.Control("background", background.mean().item(), "<=", 0.9),),
        kind="exact",
        n=wrap.numel(),
    ),
    lab.Claim(
        "background on a canvas of 36 × 36, 4 px there and back: share restored",
        "nothing leaves",
        1.0,
        on_canvas.mean().item(),
        (lab.Control("without canvas", background.mean().item(), "<=", 0.9),),
        kind="exact",
        n=on_canvas.numel(),
    ),
    lab.Claim(
        "wrap: share of images that two moves and one by their sum put to different places",
        "a group action",
        0.0,
        share(law_fails("wrap")),
        (lab.Control("background", share(law_fails("background")), ">=", 0.1),),
        kind="exact",
        n=len(digits),
    ),
    lab.Claim(
        "background, 4 px there and back: share foretold wrongly by ink margins",
        "restored if and only if no ink leaves",
        0.0,
        surprises,
        (lab.Control("margins of another digit", by_chance, ">=", 0.1),),
        kind="exact",
        n=background.numel(),
    ),
]

# %%
#| code-fold: true
#| code-title: The claims about pairs and the grey band
matches, rarest, rarest_obvious = (
    share(matched),
    (times.min() / times.max()).item(),
    (obvious_times.min() / obvious_times.max()).item(),
)
on_overlap = lab.shift(torch.ones_like(a), pairs.dy, pairs.dx) > 0
masked = lab.equivariance_error(spoilt["conv1"], after["conv1"], on_overlap)
everywhere = lab.equivariance_error(spoilt["conv1"], after["conv1"])
blind = [
    lab.Control("another digit", overlap[2].mean().item(), ">=", 0.5),
    lab.Control("on the whole map", everywhere.mean().item(), ">=", 0.05),
]
pairing = [
    lab.Claim(
        "pairs: share that matches both ways, with all ink",
        "mutually translated",
        1.0,
        matches,
        (lab.Control("shuffled on one side", share(mismatched), "<=", 0.01),),
        kind="by construction",
        n=len(balanced),
    ),
    lab.Claim(
        "pairs: rarest shift over most frequent",
        "balanced",
        1.0,
        rarest,
        (lab.Control("the obvious way", rarest_obvious, "<=", 0.75),),
        kind="by construction",
        n=len(balanced),
    ),
    lab.Claim(
        "obvious pairs, 4 px down: share of 7s",
        "biased",
        0.03,
        sevens["obvious"][8].item(),
        (lab.Control("balanced pairs", sevens["balanced"][8].item(), ">=", 0.05),),
        "<=",
        why="less than a third of the 7s' share of the test digits; a pilot with five samples of digits, on two data sets, saw none",
        kind="empirical",
        n=int(count["obvious"][8]),
    ),
    lab.Claim(
        "two right orders: largest difference",
        "equal",
        0.0,
        gap,
        (
            lab.Control(
                "filled with 0", (band - right)[entered].min().item(), ">=", 0.4
            ),
        ),
        tolerance=1e-7,
        why="float32: four roundings of a number of size 0.42, each 2⁻²⁴ of it",
        kind="exact",
        n=right.numel(),
    ),
    lab.Claim(
        "conv1, wrong order: error on the overlap, against T f(x) and the right order, worst pair",
        "blind to what has entered",
        0.0,
        torch.cat([overlap[1], masked]).max().item(),
        tuple(blind),
        tolerance=1e-6,
        why="float32: sums of 5 terms in another order, √5 · 2⁻²⁴ = 1.3e-7",
        kind="exact",
        n=2 * len(pairs),
    ),
    lab.Claim(
        "conv1, wrong order: sorted distance, mean",
        "notices what has entered",
        0.1,
        sorting[1].mean().item(),
        (lab.Control("right order", sorting[0].max().item(), "<=", 1e-6),),
        ">=",
        why="a third of what a first run saw on two data sets, with one network each: 0.29 and 0.32",
        kind="empirical",
        n=len(pairs),
    ),
]
lab.check([*moving, *pairing], data=mnist, seeds=[SEED])

# %% [markdown]
# ## Try it yourself
#
# **Exercise 1.** Compare the accuracy of the trained network on the first and on the second images, for the balanced and for the
# obvious pairs. Which of the four numbers differs from the others, and why?
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
#|   other images lie away from where it saw digits in training. This goes for both images of a balanced pair. With the
#|   obvious pairs, *first against second* is also *familiar against unfamiliar place*.
accuracy = {}
for name, start, chosen in (
    ("balanced", balanced.first, sets["balanced"]),
    ("obvious", digits.images, kept),
):
    for place, images in (("first", start), ("second", lab.shift(start, dy, dx))):
        some = lab.Split(images[chosen], digits.labels[chosen])
        accuracy[name, place] = lab.evaluate(model, some).accuracy
        print(f"{name:8}, {place:6}: {accuracy[name, place]:.3f}")

# %%
#| fold: Solution 2
#| text: >-
#|   Up to 8 px, no digit is dropped: 28 − 20 = 8 blank lines are there, however they are split. From 9 px on, a digit
#|   20 pixels high has no room for a shift of 9 rows.
dropped = {
    size: len(x) - len(lab.translated_pairs(mnist.test, max_shift=size, seed=SEED))
    for size in (7, 8, 9, 10)
}
for size, digits_dropped in dropped.items():
    print(f"max_shift={size}: {digits_dropped:,} digits dropped")

# %%
#| fold: Solution 3
#| text: >-
#|   At 4 px, none. A digit 20 pixels high would have 4 blank rows above and 4 below, and a smaller one no fewer. At 5
#|   px most would lose ink, upwards as well as downwards: the same 8 rows, shared evenly. To the left and right far
#|   fewer would, since most digits are narrower than 20 pixels.
for px in (4, 5):
    shares = (f"{side} {share(getattr(even, side) < px):.1%}" for side in sides)
    print(f"{px} px:", ", ".join(shares))

# %%
#| code-fold: true
#| code-title: The claims about the solutions
familiar = accuracy["obvious", "first"] - accuracy["obvious", "second"]
reverse = abs(accuracy["balanced", "first"] - accuracy["balanced", "second"])
at_4 = max(share(getattr(even, side) < 4) for side in sides)
lab.check(
    [
        lab.Claim(
            "obvious pairs: accuracy on first images, less that on second ones",
            "familiar place",
            0.2,
            familiar,
            (lab.Control("balanced pairs", reverse, "<=", 0.05),),
            ">=",
            why="a pilot with five samples of digits, on two data sets, saw 0.56 to 0.59, and at most 0.022 for balanced pairs",
            kind="empirical",
            n=int(kept.sum()),
        ),
        lab.Claim(
            "max_shift = 8: digits dropped",
            "8 blank lines",
            0.0,
            float(dropped[8]),
            (lab.Control("max_shift = 9", float(dropped[9]), ">=", 1.0),),
            kind="exact",
            n=len(x),
        ),
        lab.Claim(
            "ink in mid-frame, 4 px: largest share that loses ink",
            "4 blank lines on each side",
            0.0,
            at_4,
            (lab.Control("as they are", lost["down"][4].item(), ">=", 0.1),),
            kind="exact",
            n=4 * len(x),
        ),
    ],
    data=mnist,
    seeds=[SEED],
)

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: "`lab.shift(x, -2, 3)` moves the digit"
#   choices:
#     - {text: "2 px left and 3 px down", why: "The first number is for rows, as in an array."}
#     - {text: "2 px up and 3 px right", right: true, why: "`dy` comes first, down is positive; `dx` to the right."}
#     - {text: "2 px down and 3 px right", why: "Rows are counted downwards, so a negative `dy` is up."}
# - question: Why is translation with background filling not a group action on 28 × 28 images?
#   choices:
#     - {text: "Ink that leaves the frame does not come back.", right: true, why: "$T_{-t}\\,T_t\\,x \\ne x$ as soon as ink is lost."}
#     - {text: "Down and then right is not the same as right and then down.", why: "It is the same: both orders lead to the same place, and lose the same ink."}
#     - {text: "$T_0$ changes the image.", why: "A shift by 0 px loses nothing and fills nothing."}
#     - {text: "The background is not 0 after normalisation.", why: "True, and a common mistake; but filling with the right value loses the ink as well."}
# - question: A digit was clipped by its shift, and `conv1`'s outputs differ from the moved ones. What follows?
#   choices:
#     - {text: "`conv1` is not equivariant.", why: "The outputs that see the lost part must differ: they see another picture."}
#     - {text: "Nothing can be measured on this digit.", why: "On the overlap, outputs see the same piece of the picture before and after, and can be compared."}
#     - {text: "Nothing yet: compare on the overlap.", right: true, why: "There each window holds the same pixels before and after."}
# - question: Your pairs are made from test images, and those that lose ink are thrown away. At 4 px down, accuracy is higher than at 4 px up. What is the first thing to suspect?
#   choices:
#     - {text: "The network prefers digits that are low.", why: "Perhaps; but first compare the same digits."}
#     - {text: "Other digits are left at 4 px down.", right: true, why: "7s are nearly absent there, and other classes are more frequent."}
#     - {text: "The sign of dy is wrong.", why: "Possible, and to be checked; but a turned sign would exchange the two numbers, and explain no difference."}
# ```
