# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: The exercise's hint, "sorting is invariant to permutations", as a theorem, as a test, and as a trap.
# ---
# # 4. What sorting can and cannot tell
#
# The exercise ends with a hint: *sorting is invariant to permutations*. If moving the image only permutes a layer's
# activations, sort both sets and compare. You need to know no direction, no stride and no alignment. When does this
# work, what does it miss, and when does it raise a false alarm?

# %%
#| code-fold: true
#| code-title: Load network and pairs, and draw the sort test
#| alt: >-
#|   Above, a digit, the same digit moved, and the feature maps of both. Below, the activations of each map in order: the
#|   curves of the two maps lie on each other, that of another digit does not.
#| caption: >-
#|   The sort test. Above, a digit, the same digit moved, and what `conv1` and ReLU make of them. Below, the largest 250 of
#|   the 729 activations of each map, in order: the two curves lie on each other. Another digit has another curve.
from types import SimpleNamespace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import lab
from lab.plotting import COLORS, CONTROL_LOOK, FIRST, SECOND, draw_panels

SEED = 0
ROUNDING = 1e-6  # float32: sums of 5 terms differ by about √5 · 2⁻²⁴ = 1.3e-7
mnist = lab.load_mnist()
untrained = lab.build_model("given", seed=SEED)
trained = lab.build_model("given", seed=SEED)
lab.fit(trained, mnist.train, cache=lab.data_root() / "checkpoints")
digits = mnist.test.sample(1000, seed=SEED)
pairs = lab.translated_pairs(digits, max_shift=4, seed=SEED, margin=1)


def feature_map(model, images):
    """Activations after conv1 and ReLU, n × 1 × 27 × 27, of images in [0, 1]."""
    return torch.relu(lab.activations(model, lab.normalize(images), ["conv1"])["conv1"])


first, second = (feature_map(trained, x) for x in (pairs.first, pairs.second))
other = lab.derangement(len(pairs), seed=1)  # pairs each image with another digit
pair = int(((pairs.dy == 3) & (pairs.dx < -1)).long().argmax())  # to look at

figure, axes = plt.subplot_mosaic("abcd;eeee", figsize=(6.2, 4.4), layout="constrained")
panels = [("x", pairs.first[pair, 0], "image"), ("T x", pairs.second[pair, 0], "image")]
panels += [("f(x)", first[pair, 0], "feature"), ("f(T x)", second[pair, 0], "feature")]
draw_panels([axes[key] for key in "abcd"], panels)
curves = (
    (first[pair], "f(x), sorted", {"color": FIRST, "linewidth": 4, "alpha": 0.6}),
    (second[pair], "f(T x), sorted", {"color": SECOND, "linestyle": "--"}),
    (first[other[pair]], "another digit", CONTROL_LOOK),
)
for values, name, look in curves:
    ordered = values.flatten().sort().values[-250:]
    axes["e"].plot(range(480, 730), ordered, **look, markevery=25, label=name)
axes["e"].set_xlabel("rank", fontsize=12)
axes["e"].set_ylabel("activation", fontsize=12)
axes["e"].tick_params(labelsize=12)
for key in "abcd":
    axes[key].title.set_fontsize(12)
_ = axes["e"].legend(fontsize=12)

# %% [markdown]
# !!! abstract "After this page you can"
#     - say what the sort test needs, and prove that it then gives 0;
#     - say what follows from a 0, and what does not;
#     - tell a broken layer from a digit that touches the frame;
#     - choose the axis to sort along, and the measurement to use instead.
#
# ## Why can sorting work at all?
#
# Take one [channel](../glossary.md#channel) of a layer $f$: a grid of [activations](../glossary.md#activation), here
# 27 × 27 = 729 of them.
#
# **Theorem.** If $f(Tx)$ has the values of $f(x)$ in another order, channel by channel, then sorting each channel of
# both gives the same list. **Proof.** A sorted list depends only on how often each value occurs, and a permutation does not
# change that. ∎
#
# The work is in the *if*. When does moving the image only permute the outputs of a convolution?
#
# 1. **Image.** Let the ink stay inside the frame. Then what leaves the frame is background, and so is what enters: the pixels
#    are permuted, as in a circular shift. If ink leaves, this is false.
# 2. **Windows.** Each output sees one window of $k \times k$ pixels. Windows without ink all give the same number, $r$.
#    Windows with ink move along with it: the same values at new places.
# 3. **Frame.** Without padding, only windows inside the frame are computed. If *every* window that touches ink is among
#    them, before and after, then both maps have the same ink values, and $r$ everywhere else. A window that touches an ink
#    pixel reaches at most $k - 1$ pixels beyond it. So an [ink margin](../glossary.md#ink-margin) of $k - 1$ pixels
#    on all sides, in both images, is enough.
#
# ReLU changes each value alone, so it changes nothing in this. Through several layers, $k$ becomes the [receptive
# field](../glossary.md#receptive-field) $R$; with a stride, the shift must be a multiple of it too.
#
# `conv1` has $k = 2$, so a margin of 1 pixel will do. The [sorted distance](../glossary.md#sorted-activation-distance) is the
# distance between the two sorted lists, divided by the mean distance of different digits' lists. Here it is, in the
# trained network and in its untrained twin:

# %%
twins = [feature_map(untrained, x) for x in (pairs.first, pairs.second)]
passed = lab.sorted_distance(first, second)
twin_passed = lab.sorted_distance(*twins)
unrelated = lab.sorted_distance(first, second[other])
twin_unrelated = lab.sorted_distance(twins[0], twins[1][other])
chance = torch.pdist(lab.sort_positions(first)[:, 0].double())  # all pairs of digits
nearest = (chance.min() / chance.mean()).item()

# %% [markdown]
# | after `conv1` and ReLU | sorted distance, largest of {{ len(pairs):,d }} pairs | control: another digit, mean |
# |---|---|---|
# | trained | {{ passed.max():.2g }} | {{ unrelated.mean():.2f }} |
# | untrained | {{ twin_passed.max():.2g }} | {{ twin_unrelated.mean():.2f }} |
#
# The theorem holds, trained or not. And no digit passes by luck: of all {{ len(chance):,d }} pairs of different digits, the two nearest are
# {{ nearest:.2g }} apart.
#
# ## A distance of zero, so equivariant?
#
# The theorem goes from permuted values to equal lists. The test reads it backwards: equal lists, so equivariant. But the
# lists are equal after *every* permutation. The distance of the sorted lists is in fact the smallest that
# any rearrangement $\pi$ of the values can reach:
#
# $$\lVert \operatorname{sort} p - \operatorname{sort} q \rVert = \min_{\pi} \lVert p - q \circ \pi \rVert .$$
#
# ??? abstract "Optional: why"
#     $\lVert p - q \circ \pi \rVert^2 = \lVert p \rVert^2 + \lVert q \rVert^2 - 2 \sum_i p_i q_{\pi(i)}$, and the sum is
#     largest when large meets large: if $p_i < p_j$ meet $u > v$, swapping $u$ and $v$ adds
#     $(p_j - p_i)(u - v) > 0$ to it.
#
# Here are layers that spoil the map of `conv1`. *Flipped* turns it by 180°. *Reshuffled* puts its values into a new random
# order for every image.

# %%
generator = torch.Generator().manual_seed(SEED)


def reshuffle(maps):
    """A new random order of the positions for every image."""
    order = torch.rand(maps.flatten(2).shape, generator=generator).argsort(-1)
    return maps.flatten(2).gather(-1, order).view_as(maps)


layers = {
    "conv1, ReLU": lambda maps: maps,
    "flipped": lambda maps: maps.flip(-2, -1),
    "reshuffled": reshuffle,
    "fixed picture": lambda maps: first[:1].expand_as(maps),  # that of one digit
    "constant": torch.ones_like,
}

# %% [markdown]
# ```predict
# id: flipped
# question: "The layer *flipped*, for pairs of a digit and the same digit moved: what are its sorted distance, and its equivariance error, which compares $f(Tx)$ with $T f(x)$ place by place?"
# choices:
#   - "both 0"
#   - "sorted distance 0, equivariance error as large as for another digit"
#   - "both as large as for another digit"
# ```

# %% [markdown]
# The equivariance error is taken on the [overlap](../glossary.md#overlap), as on page 3. It has two controls: the map of
# another digit, and the map moved by a wrong shift, one step beside the right one.

# %%
one_off = pairs.dy + torch.where(pairs.dy > 0, -1, 1)


def judge(layer):
    """Equivariance error of each pair, its controls, and the largest difference after sorting."""
    a, b = layer(first), layer(second)
    return SimpleNamespace(
        sorting=(lab.sort_positions(a) - lab.sort_positions(b)).abs().amax((1, 2)),
        aligned=lab.aligned_error(a, b, pairs.dy, pairs.dx),
        backwards=lab.aligned_error(a, b, -pairs.dy, -pairs.dx),  # T' = T⁻¹
        wrong=lab.aligned_error(a, b, one_off, pairs.dx),
        unrelated=lab.aligned_error(a[other], b, pairs.dy, pairs.dx),
    )


judged = {name: judge(layer) for name, layer in layers.items()}

# %%
#| code-fold: true
#| code-title: Draw a digit and the moved digit through three layers
#| label: zero-sorted
#| alt: >-
#|   Two rows of pictures, for a digit and for the same digit moved: the image, the map of conv1, the map turned by 180
#|   degrees, and the map in random order. Below each layer its sorted distance, 0 for all three, and its aligned error,
#|   0 for conv1 only.
#| caption: >-
#|   Above a digit, below the same digit moved. All three layers have the same values in both rows, so the sorted distance is 0. Only the map
#|   of `conv1` has moved as the digit has (aligned: the equivariance error on the overlap, mean of all pairs). The flipped map has moved the other way.
shown = ["conv1, ReLU", "flipped", "reshuffled"]
figure, axes = plt.subplots(2, 4, figsize=(6.2, 4.0), layout="constrained")
both_rows = ("x", pairs.first, first), ("T x", pairs.second, second)
for row, (name, images, maps) in zip(axes, both_rows, strict=True):
    panels = [(key, layers[key](maps)[pair, 0], "feature") for key in shown]
    draw_panels(row, [(name, images[pair, 0], "image"), *panels])
for axis in axes.flat:
    axis.title.set_fontsize(12)
for axis, name in zip(axes[1, 1:], shown, strict=True):
    found = judged[name]
    text = f"sorted {found.sorting.max():.2g}\naligned {found.aligned.mean():.3g}"
    axis.set_xlabel(text, fontsize=12)

# %% [markdown]
# | layer | sorted: largest difference | equivariance error, mean | control: wrong shift | control: another digit |
# |---|---|---|---|---|
# | `conv1`, ReLU | {{ judged["conv1, ReLU"].sorting.max():.2g }} | {{ judged["conv1, ReLU"].aligned.mean():.2g }} | {{ judged["conv1, ReLU"].wrong.mean():.2f }} | {{ judged["conv1, ReLU"].unrelated.mean():.2f }} |
# | flipped | {{ judged["flipped"].sorting.max():.2g }} | {{ judged["flipped"].aligned.mean():.2f }} | {{ judged["flipped"].wrong.mean():.2f }} | {{ judged["flipped"].unrelated.mean():.2f }} |
# | reshuffled | {{ judged["reshuffled"].sorting.max():.2g }} | {{ judged["reshuffled"].aligned.mean():.2f }} | {{ judged["reshuffled"].wrong.mean():.2f }} | {{ judged["reshuffled"].unrelated.mean():.2f }} |
# | fixed picture | {{ judged["fixed picture"].sorting.max():.2g }} | {{ judged["fixed picture"].aligned.mean():.2f }} | {{ judged["fixed picture"].wrong.mean():.2f }} | {{ judged["fixed picture"].unrelated.mean():.2f }} |
# | constant | {{ judged["constant"].sorting.max():.2g }} | {{ judged["constant"].aligned.mean():.2g }} | {{ judged["constant"].wrong.mean():.2g }} | {{ judged["constant"].unrelated.mean():.2g }} |

# %% [markdown]
# ```observed
# id: flipped
# right: 2
# value: "sorted {{ judged['flipped'].sorting.max():.2g }}, equivariance error {{ judged['flipped'].aligned.mean():.2f }} (another digit {{ judged['flipped'].unrelated.mean():.2f }})"
# reason: |
#   A flip only rearranges values, so its sorted distance is 0 *by construction*, whatever it flips. Sorting throws the places
#   away, and the places are what equivariance is about. All five layers pass. Two of them do not even look at the digit: the
#   fixed picture and the constant are *invariant*. The constant has an equivariance error of 0 as well, but so have its controls:
#   an error of 0 shows nothing where another digit has it too.
# ```

# %% [markdown]
# **Your turn:** flip or scramble what `conv1` says, and drag the digit. Which of the two numbers notices?
#
# <div><live-lab src="../assets/live/" preset="sort"><p>With JavaScript, you can drag a digit here.</p></live-lab></div>

# %% [markdown]
# **Is the flip not equivariant in another sense?** It is. When the digit moves down, its flipped map moves up, by a rule that is
# the same for all images: $f(Tx) = T^{-1} f(x)$. Measured against $T' = T^{-1}$, the largest equivariance error of the flip
# is {{ judged["flipped"].backwards.max():.1g }}. General theory allows such a $T'$
# ([Cohen and Welling 2016](../references.md#cohen2016)); the exercise asks for $T' = T$. The reshuffled map obeys no
# rule at all ({{ judged["reshuffled"].backwards.mean():.2f }} against $T^{-1}$), and passes the sort test just the same.
#
# So a sorted distance of 0 says: *not refuted*. It does not say equivariant.
#
# ## When does it raise a false alarm?
#
# The theorem asks for a margin. It is tempting to shift the test images as they are, and to have none.

# %% [markdown]
# ```predict
# id: whole-images
# question: Shift whole test images down by 1 to 8 px, until most digits are cut off. How do `conv1`'s sorted distance and its equivariance error on the overlap grow?
# choices:
#   - "both stay 0: a convolution is equivariant"
#   - "the sorted distance grows, the equivariance error on the overlap stays 0"
#   - "both grow: cut digits are other pictures"
# ```

# %%
still = feature_map(trained, digits.images)
DOWN = range(1, 9)


def fall(dy):
    """All digits moved down, whatever leaves: sorted distance and equivariance error."""
    moved = feature_map(trained, lab.shift(digits.images, dy, 0))
    expected, wrong = (lab.shift(still, t, 0, mode="wrap") for t in (dy, dy - 1))
    overlap = torch.arange(27)[:, None] >= dy  # the rows that both maps have
    return SimpleNamespace(
        sorting=lab.sorted_distance(still, moved),
        aligned=lab.equivariance_error(moved, expected, overlap),
        wrong=lab.equivariance_error(moved, wrong, overlap),
        everywhere=lab.equivariance_error(moved, expected),
    )


falls = {dy: fall(dy) for dy in DOWN}

# %%
#| code-fold: true
#| code-title: Draw sorted distance and equivariance error against the shift
#| alt: >-
#|   Sorted distance against the shift down, 1 to 8 pixels: it rises for all digits; it is zero for digits that keep a
#|   margin, above zero for digits at the frame and for digits that lost ink. The equivariance error stays at zero.
#| caption: >-
#|   Whole test images, shifted down. The sorted distance of all digits rises; that of digits that keep a margin of 1 px
#|   stays at 0. The equivariance error on the overlap is 0 for all. A group is drawn where it has 20 digits or more.
room = lab.ink_margins(digits.images)


def groups(dy):
    """Which digits keep a margin of 1 px before and after, which only fit, and which lose ink."""
    roomy = room.fits(0, 0, margin=1) & room.fits(dy, 0, margin=1)
    fits = room.fits(dy, 0)
    return {"margin kept": roomy, "at the frame": fits & ~roomy, "ink lost": ~fits}


framed = falls[4].sorting[groups(4)["at the frame"]]
figure, axes = plt.subplots(figsize=(6.2, 4.6), layout="constrained")
for i, (name, marker) in enumerate(zip(groups(4), "D^s", strict=True), start=2):
    found = [r.sorting[groups(dy)[name]] for dy, r in falls.items()]
    means = [d.mean().item() if len(d) >= 20 else float("nan") for d in found]
    look = {"color": COLORS[i], "marker": marker, "linestyle": ":"}
    axes.plot(DOWN, means, **look, label=f"sorted: {name}")
means = [r.sorting.mean() for r in falls.values()]
axes.plot(DOWN, means, color=SECOND, marker="o", label="sorted: all digits")
largest = [r.aligned.max() for r in falls.values()]
look = {"color": FIRST, "linewidth": 4, "alpha": 0.6}
axes.plot(DOWN, largest, **look, label="aligned: largest of all")
axes.set_xlabel("shift down (px)", fontsize=12)
axes.set_ylabel("sorted distance, aligned error", fontsize=12)
axes.tick_params(labelsize=12)
_ = figure.legend(loc="outside upper center", ncols=2, fontsize=12)

# %% [markdown]
# ```observed
# id: whole-images
# right: 2
# value: "8 px down: sorted {{ falls[8].sorting.mean():.2f }}, equivariance error {{ falls[8].aligned.max():.1g }}"
# reason: |
#   Where both maps are defined, they agree: the windows there see the same pixels before and after, cut digit or not. What grows is the part that
#   the frame cuts off. "Equivariance holds for small translations only" would be a wrong conclusion: you measured the frame. Without
#   the overlap, on the whole map moved in a circle, the error is {{ falls[8].everywhere.mean():.2f }}.
# ```

# %% [markdown]
# Now look at the digits *at the frame*. They have lost no ink, so their pixels are only permuted. Yet at 4 px down their sorted
# distance is {{ framed.mean():.2g }} on average. A row of four pixels shows why. Take the kernel that adds two neighbours:
# the row 1, 0, 0, 0 gives 1, 0, 0. Moved by one pixel, 0, 1, 0, 0 gives 1, 1, 0. A lone pixel lies in two windows, but at
# the edge one of them starts outside, and is not computed. When the pixel moves in, that window appears.
#
# ## What does a "no" prove?
#
# Give the digits all the room they need. Then let max pooling with stride 2 follow: 27 × 27 becomes 13 × 13. The receptive
# field is now 3 pixels, so the margin is 2.

# %% [markdown]
# ```predict
# id: pooled-odd
# question: Of the pairs whose shift is odd along some axis, how many fail the sort test after pooling?
# choices:
#   - "none: pooling keeps the largest values, wherever they are"
#   - about half
#   - nearly all
# ```

# %%
roomy = lab.translated_pairs(digits, max_shift=4, seed=SEED, margin=2)
maps = [feature_map(trained, images) for images in (roomy.first, roomy.second)]
pooled, moved = (F.max_pool2d(x, 2) for x in maps)
even = lab.on_stride(roomy, 2)  # dy and dx both even
pool_sorted = lab.sorted_distance(pooled, moved)
stranger = lab.derangement(len(roomy), seed=1)
pool_unrelated = lab.sorted_distance(pooled, moved[stranger])
odd_failing = (pool_sorted[~even] > ROUNDING).double()

# %% [markdown]
# ```observed
# id: pooled-odd
# right: 3
# value: "{{ odd_failing.mean():.0% }} (mean distance {{ pool_sorted[~even].mean():.2f }}; another digit {{ pool_unrelated.mean():.2f }}); with even shifts {{ (pool_sorted[even] > ROUNDING).double().mean():.0% }}"
# reason: |
#   Even shifts move whole 2 × 2 blocks. Odd shifts divide the digit into other blocks, and their maxima are other values, not
#   the same ones elsewhere. No rearrangement of the pooled map can give the other, so no whole move can.
# ```

# %% [markdown]
# Such a "no" is a proof: **no $T'$ that only permutes positions makes the square commute.** (The margin makes sure that the layer is to
# blame, and not the frame.) But it excludes nothing else, and some moves are not permutations. Take a circular convolution, and move the image by *half* a pixel
# ([page 7](07_aliasing.py) says how): new values arise between the old ones. The convolution commutes with that move too.

# %%
#| code-fold: true
#| code-title: Move by half a pixel, and compare
generator = torch.Generator().manual_seed(SEED)
kernel = torch.randn(4, 1, 3, 3, generator=generator).double()


def circular(x):
    """A 3 × 3 convolution on a circle."""
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), kernel)


x = lab.normalize(digits.images[:300].double())
f_x = circular(x)
half, whole = (circular(lab.shift(x, 0, dx, mode="wrap")) for dx in (0.5, 1))
half_error = lab.equivariance_error(half, lab.shift(f_x, 0, 0.5, mode="wrap"))
whole_move = lab.equivariance_error(half, lab.shift(f_x, 0, 1, mode="wrap"))
half_sorted, whole_sorted = (lab.sorted_distance(f_x, maps) for maps in (half, whole))

# %% [markdown]
# Against the half-pixel move, its equivariance error is {{ half_error.max():.1g }} at most. Its sorted distance is
# {{ half_sorted.mean():.2f }} on average, a clear "no"; at a whole pixel it is {{ whole_sorted.max():.1g }}.
#
# ## Sort along which axis?
#
# All positions of one channel, for each image alone: that is what the theorem speaks of. To sort each row, the whole batch, or the ten
# scores of `fc1` runs without an error message, and answers another question (exercise 3).
#
# ## What should you measure instead?
#
# Compare $f(Tx)$ with $T f(x)$, place by place, on the overlap, beside two controls: a wrong shift and another digit.
# [`lab.measure_pairs`][lab.exercise.measure_pairs] does it for every layer at once. Who was right?
#
# | Is it equivariant? | sorting | equivariance error | right |
# |---|---|---|---|
# | a convolution, the digit with room | yes | yes | both |
# | the same while ink leaves, on the overlap | **no** | yes | the error |
# | flipped or reshuffled, $T' = T$ | **yes** | no | the error |
# | pooled, odd shifts, whole moves | no | no | both |
# | a convolution under half a pixel | **no** | yes | the error |
#
# Sorting keeps one advantage: it needs no map of positions, so it also runs on a layer whose stride you do not know. Give
# the digits ample room, and read a "no" as *no permutation*, and a "yes" as *not refuted*.
#
# ## Theory and observation


# %%
#| code-fold: true
#| code-title: Kinds of claims and of controls
def least(what, values, bound):
    """A control whose mean has to come out large."""
    return lab.Control(what, values.mean().item(), ">=", bound)


def most(what, values, bound=ROUNDING):
    """A control whose largest value has to come out small."""
    return lab.Control(what, values.max().item(), "<=", bound)


def exact(name, values, *controls, tolerance=ROUNDING, kind="exact"):
    why = "float32: sums of up to 16 terms in another order, √16 · 2⁻²⁴ = 2.4e-7 of their size"
    why = why if tolerance else ""
    observed, many = values.max().item(), values.numel()
    return lab.Claim(
        name, "exact", 0.0, observed, controls, "==", tolerance, why, kind=kind, n=many
    )


def broken(name, values, bound, pilot, *controls):
    why = f"about half, or less, of what a pilot run with five samples of digits on two data sets saw: {pilot}"
    observed, many = values.mean().item(), values.numel()
    return lab.Claim(
        name,
        "broken",
        bound,
        observed,
        controls,
        ">=",
        why=why,
        kind="empirical",
        n=many,
    )


# %%
#| code-fold: true
#| code-title: The claims about passing the test
flip, reshuffled = judged["flipped"], judged["reshuffled"]
spoilt = torch.cat(
    [
        lab.sorted_distance(layers[name](first), layers[name](second))
        for name in ("flipped", "reshuffled")
    ]
)
passing = [
    exact(
        "conv1 and ReLU, margin 1 px, trained and untrained: sorted distance, largest",
        torch.cat([passed, twin_passed]),
        least("another digit, trained", unrelated, 0.5),
        least("another digit, untrained", twin_unrelated, 0.5),
    ),
    lab.Claim(
        "two nearest of all different digits: sorted distance",
        "no luck",
        1e-3,
        nearest,
        (most("translated pairs, largest", passed),),
        ">=",
        why="1,000 × the tolerance of the test; a pilot with five samples of digits, on two data sets, saw 0.067 to 0.096",
        kind="empirical",
        n=len(chance),
    ),
    exact(
        "flipped, reshuffled: sorted distance, largest",
        spoilt,
        least("flipped, not sorted: equivariance error", flip.aligned, 0.5),
        least("reshuffled, not sorted: equivariance error", reshuffled.aligned, 0.5),
        kind="by construction",
    ),
    exact(
        "flipped, T′ = T⁻¹: equivariance error on the overlap, largest",
        flip.backwards,
        least("T′ = T", flip.aligned, 0.5),
        least("reshuffled, T′ = T⁻¹", reshuffled.backwards, 0.5),
    ),
    broken(
        "flipped, T′ = T: equivariance error, over that of another digit",
        flip.aligned / flip.unrelated.mean(),
        0.5,
        "0.96 to 0.97",
        most("conv1, not flipped, largest", judged["conv1, ReLU"].aligned),
    ),
]

# %%
#| code-fold: true
#| code-title: The claims about the frame
kept_margin = torch.cat(
    [r.sorting[groups(dy)["margin kept"]] for dy, r in falls.items()]
)
aligned = torch.cat([r.aligned for r in falls.values()])
pixels = lab.sorted_distance(digits.images, lab.shift(digits.images, 4, 0))
frame = [
    exact(
        "whole images, 1 to 8 px down: equivariance error on the overlap, largest",
        aligned,
        least("8 px, on the whole map", falls[8].everywhere, 0.1),
        least("wrong shift", torch.cat([r.wrong for r in falls.values()]), 0.1),
    ),
    broken(
        "whole images, 8 px down: sorted distance, mean",
        falls[8].sorting,
        0.2,
        "0.80 to 0.86",
        most("those that keep a margin, 1 to 8 px, largest", kept_margin),
    ),
    broken(
        "4 px down, no ink lost, margin 0: sorted distance, mean",
        framed,
        0.01,
        "0.25 to 0.34",
        most("of the pixels, largest", pixels[groups(4)["at the frame"]], 0.0),
        most("margin 1 px", falls[4].sorting[groups(4)["margin kept"]]),
    ),
]

# %%
#| code-fold: true
#| code-title: The claims about a "no"
pool_aligned = lab.best_aligned_error(pooled, moved, roomy.dy, roomy.dx, 2)
refuting = [
    exact(
        "pooled, even shifts: sorted distance, largest",
        pool_sorted[even],
        least("odd shifts", pool_sorted[~even], 0.05),
    ),
    broken(
        "pooled, odd shifts: equivariance error of the best whole move, mean",
        pool_aligned[~even],
        0.05,
        "0.47 to 0.50",
        most("even shifts", pool_aligned[even]),
    ),
    broken(
        "pooled, odd shifts: share of pairs that fail",
        odd_failing,
        0.5,
        "1.0",
        most("even shifts", (pool_sorted[even] > ROUNDING).double(), 0.0),
    ),
    lab.Claim(
        "circular convolution, half a pixel: equivariance error, largest",
        "commutes with interpolation",
        0.0,
        half_error.max().item(),
        (least("moved by a whole pixel", whole_move, 0.05),),
        tolerance=1e-12,
        why="float64: twice sums of 28 terms, and of 9: √65 · 2⁻⁵³ = 9e-16 of the sizes added up, which are at most some hundred times the result",
        kind="exact",
        n=len(half_error),
    ),
    broken(
        "circular convolution, half a pixel: sorted distance, mean",
        half_sorted,
        0.05,
        "0.12 to 0.22, with five kernels",
        most("a whole pixel", whole_sorted),
    ),
]
lab.check([*passing, *frame, *refuting], data=mnist, seeds=[SEED])

# %% [markdown]
# ## Try it yourself
#
# The [live lab](../live.md) has this page's test under *The sort test, and how to cheat it*.
#
# **Exercise 1.** The margin is there because of the frame. Get rid of the frame: pad circularly, shift circularly, and take
# the test images as they are. Which part of the proof do you no longer need? And what if you pad with a constant?
#
# **Exercise 2.** How much margin is enough? Take random kernels of 2 × 2, 3 × 3 and 4 × 4 pixels without padding, and pairs with margins of at least
# 0 to 3 pixels. Which pass? And `pool1` of [`PooledCNN`][lab.models.PooledCNN], a 2 × 2 pooling behind a 3 × 3 convolution, at even shifts?
#
# **Exercise 3.** For the pairs above, sort in three other ways: each row alone (`torch.sort` takes the last axis unless
# told otherwise), each position over all images, and the ten scores of `fc1`. Predict what each gives for $x$ and $Tx$.

# %%
#| fold: Solution 1
#| text: >-
#|   On a circle no ink can leave and every window is inside, so the condition of step 1 and all of step 3 are not needed: a circular translation permutes the pixels, and the windows with
#|   them. A constant does not continue the circle. The windows at the border see it instead of what is on the
#|   other side, and the sort test notices.
weights = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(SEED))
x = lab.normalize(digits.images)
moved_x = lab.shift(x, 9, 5, mode="wrap")
padded = {}
for padding in ("circular", "constant"):
    a, b = (
        F.conv2d(F.pad(t, (1, 1, 1, 1), mode=padding), weights) for t in (x, moved_x)
    )
    padded[padding] = lab.sorted_distance(a, b)
    print(f"{padding}: sorted distance {padded[padding].mean():.2g}, mean")

# %%
#| fold: Solution 2, kernels
#| text: >-
#|   With $k - 1$ pixels none fail; with one pixel less, some do, although no ink leaves in any pair. The margin of the theorem is
#|   the exact boundary.
KERNELS, MARGINS = (2, 3, 4), (0, 1, 2, 3)
failing = {}
for k in KERNELS:
    generator = torch.Generator().manual_seed(SEED)
    weights = torch.randn(1, 1, k, k, generator=generator)
    for margin in MARGINS:
        some = lab.translated_pairs(digits, max_shift=2, seed=SEED, margin=margin)
        x, moved_x = lab.normalize(some.first), lab.normalize(some.second)
        d = lab.sorted_distance(F.conv2d(x, weights), F.conv2d(moved_x, weights))
        failing[k, margin] = (d > ROUNDING).double().mean().item()
    shares = (f"{failing[k, margin]:.0%} with {margin} px" for margin in MARGINS)
    print(f"{k} × {k}: fail", ", ".join(shares))

# %%
#| fold: Solution 2, pool1
#| text: >-
#|   The receptive field is 1 + 2 + 1 = 4 pixels, so the theorem asks for 3 pixels of margin. Here 2 will do, because
#|   windows start at every second pixel: the last one cut off at the top sees pixels −2 to 1, and the first one cut off at
#|   the bottom sees pixels 26 to 29, of which 26 and 27 exist. Both reach 2 pixels into the image, not 3.
pooled_cnn = lab.build_model("pooled", seed=SEED)
fails = {}
for margin in (0, 1, 2, 3):
    few = digits.sample(500, seed=SEED)
    some = lab.translated_pairs(few, max_shift=2, seed=SEED, margin=margin)
    images = lab.normalize(some.first), lab.normalize(some.second)
    a, b = (lab.activations(pooled_cnn, t, ["pool1"])["pool1"] for t in images)
    wrong = lab.sorted_distance(a, b) > ROUNDING
    fails[margin] = wrong[lab.on_stride(some, 2)].double()
    print(f"margin ≥ {margin} px: {fails[margin].mean():.0%} of the pairs fail")

# %%
#| fold: Solution 3, rows and images
#| text: >-
#|   **Each row alone.** Sideways moves only permute each row, and pass. Every other move puts values into other rows, and fails; the
#|   convolution is innocent. **Over the images.** Each position is sorted over all images, which forgets which image was
#|   which. When every digit meets another one, the distance is the same: a test that cannot tell a pair from a non-pair
#|   tests nothing.
rows = first.sort().values, second.sort().values
by_row = lab.invariance_error(*rows)
sideways = pairs.dy == 0
batch = first.sort(0).values
by_batch = (batch - second.sort(0).values).norm().item()
by_batch_shuffled = (batch - second[other].sort(0).values).norm().item()
print(f"each row: sideways {by_row[sideways].max():.1g}", end=", ")
print(f"other moves {by_row[~sideways].mean():.2f}")
print(f"over the images: {by_batch:.5g}, shuffled {by_batch_shuffled:.5g}")


# %%
#| fold: Solution 3, scores
#| text: >-
#|   Sorted scores of $x$ and $Tx$ are nearer than unsorted ones, as if `fc1` were almost invariant. But scores of
#|   *different* digits come nearer as well: the smallest distance over all rearrangements is never larger than the
#|   distance itself. Beside its own control, little is gained. And nothing in the theory says that a translation permutes scores: the score of class 3 has to
#|   stay the score of class 3. For scores, take the invariance error, unsorted.
def distance(a, b):
    return (a - b).norm(dim=1)


z, moved_z = (
    lab.activations(trained, lab.normalize(images), ["fc1"])["fc1"]
    for images in (pairs.first, pairs.second)
)
unit = distance(z, moved_z[other]).mean()  # different digits, not sorted
s, moved_s = z.sort(1).values, moved_z.sort(1).values
plain = distance(z, moved_z) / unit
sorted_plain, sorted_other = (distance(s, t) / unit for t in (moved_s, moved_s[other]))
print(f"as they are: {plain.mean():.2f}, another digit 1")
print(f"sorted: {sorted_plain.mean():.2f}, another digit {sorted_other.mean():.2f}")

# %%
#| code-fold: true
#| code-title: The claims about the solutions
enough = [failing[k, m] for k in KERNELS for m in MARGINS if m >= k - 1]
short = min(failing[k, k - 2] for k in KERNELS)
again = abs(by_batch_shuffled / by_batch - 1)
apart = (first - second).norm().item(), (first - second[other]).norm().item()
lab.check(
    [
        exact(
            "circular padding and shift: sorted distance, largest",
            padded["circular"],
            least("constant padding", padded["constant"], 0.01),
        ),
        exact(
            "k = 2, 3, 4, margin ≥ k − 1: share of pairs that fail, largest",
            torch.tensor(enough),
            lab.Control("margin ≥ k − 2", short, ">=", 0.05),
            tolerance=0.0,
        ),
        exact(
            "pool1, even shifts, margin ≥ 2 px: share of pairs that fail",
            torch.cat([fails[2], fails[3]]),
            least("margin ≥ 1 px", fails[1], 0.01),
            tolerance=0.0,
        ),
        broken(
            "each row sorted alone, dy ≠ 0: distance, mean",
            by_row[~sideways],
            0.05,
            "0.91 to 0.94",
            most("dy = 0", by_row[sideways]),
        ),
        lab.Claim(
            "sorted over the images: shuffled pairs over right ones, less 1",
            "pairs do not matter",
            0.0,
            again,
            (lab.Control("not sorted", apart[1] / apart[0] - 1, ">=", 0.01),),
            kind="by construction",
        ),
        broken(
            "sorted scores of fc1: distance over that of another digit, mean",
            sorted_plain / sorted_other.mean(),
            0.3,
            "0.74 to 0.79",
            most("conv1, sorted", passed),
        ),
    ],
    data=mnist,
    seeds=[SEED],
)

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: A layer's sorted distance is 0 for all your pairs. What do you know?
#   choices:
#     - {text: "It is equivariant.", why: "A map that is flipped or reshuffled passes too: sorting throws the places away."}
#     - {text: "It is invariant.", why: "The sorted values did not change; the unsorted ones may have."}
#     - {text: "These pairs do not refute that it is equivariant.", right: true, why: "The test is necessary, not sufficient."}
# - question: A convolution with a 5 × 5 window, no padding. How much ink margin does the sort test need?
#   choices:
#     - {text: "0 px: it is enough that no ink is lost", why: "Windows that touch ink would start outside the frame, and appear when the digit moves in."}
#     - {text: "2 px, half the window", why: "A window that touches an ink pixel with its corner reaches 4 pixels beyond it."}
#     - {text: "4 px", right: true, why: "$k - 1$."}
# - question: With enough margin, a layer fails the sort test. What is proved?
#   choices:
#     - {text: "No move of its output makes the square commute.", why: "A move by half a position mixes values; it is not a permutation, and may still make the square commute."}
#     - {text: "No move that only permutes its positions makes the square commute.", right: true, why: "After such a move the sorted lists would be equal."}
#     - {text: "Nothing: the test is necessary only.", why: "A necessary condition that fails does refute, here every permutation."}
# - question: The flip has an equivariance error of 0 under $T' = T^{-1}$. Does it pass the exercise's definition?
#   choices:
#     - {text: "Yes: some T′ makes the square commute.", why: "The exercise asks for $f(Tx) = T f(x)$, with the same $T$ on both sides."}
#     - {text: "No: the exercise asks for $T' = T$.", right: true, why: "There its error is as large as for another digit."}
#     - {text: "Yes: its sorted distance is 0.", why: "That holds for every rearrangement, and is not the definition."}
# ```
