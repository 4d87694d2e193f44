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
# The exercise ends with a hint: *sorting is invariant to permutations*. If a translated image only permutes the
# activations of a layer, sort both sets and compare: no alignment, no direction, no stride to know.
# This page takes the hint seriously. When does the test work, what does it miss, and when does it raise a false alarm?
#
# !!! abstract "After this page you can"
#     - state what the sort test needs, and prove that it then gives 0;
#     - name layers that pass it and are not equivariant;
#     - tell a broken layer from a digit that touches the frame;
#     - choose the axis to sort along, and the measurement to use instead.

# %%
from types import SimpleNamespace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import lab
from lab.plotting import COLORS, CONTROL_LOOK, FIRST, SECOND, image_row

SEED = 0
# float32: sums of 5 terms differ by about √5 · 2⁻²⁴ = 1.3e-7 of their size
ROUNDING = 1e-6
mnist = lab.load_mnist()

# %% [markdown]
# You need the given network trained, and its untrained twin with the same initial weights. The data are 1,000 test
# digits, drawn at random.

# %%
untrained = lab.build_model("given", seed=SEED)
trained = lab.build_model("given", seed=SEED)
lab.fit(trained, mnist.train, cache=lab.data_root() / "checkpoints")
digits = mnist.test.sample(1000, seed=SEED)


def feature_map(model, images):
    """Activations after conv1 and ReLU, n × 1 × 27 × 27, of images in [0, 1]."""
    return torch.relu(lab.activations(model, lab.normalize(images), ["conv1"])["conv1"])


feature_map(trained, digits.images).shape

# %% [markdown]
# ## Why can sorting work at all?
#
# Take one [channel](../glossary.md#channel) of a layer $f$: a grid of [activations](../glossary.md#activation), here
# 27 × 27 = 729 of them. Write $T$ for a [translation](../glossary.md#translation) of the image.
#
# **Theorem.** If $f(Tx)$ holds the values of $f(x)$ in another order, channel by channel, then sorting each channel of
# both gives the same list.
#
# **Proof.** A sorted list depends only on how often each value occurs. A permutation does not change that. ∎
#
# The proof is one line. The work is in the *if*: when does a translation only permute the activations of a convolution?
#
# 1. **Image.** Let the ink stay inside the frame. What leaves the frame is then background, and so is what enters: the
#    same constant. $Tx$ equals the image shifted *circularly*, which is a permutation of the 784 pixels. If ink leaves,
#    this is false.
# 2. **Windows.** Each output of a $k \times k$ convolution reads one window of $k \times k$ pixels. Continue the image
#    with background on all sides, and look at every window of that plane. Windows without ink all give the same number,
#    $b$. $T$ moves the windows with ink: same values, new places.
# 3. **Frame.** Without padding, the feature map keeps only the windows inside the frame. If *every* window that touches
#    ink is one of them, before and after, then both maps hold the same ink values, and $b$ in all other places: the same
#    values in another order. A window that touches an ink pixel reaches at most $k - 1$ pixels beyond it. So an
#    [ink margin](../glossary.md#ink-margin) of $k - 1$ pixels on all sides, in both images, is enough.
#
# ReLU acts on each value alone and moves none. Through several layers without padding, $k$ becomes the
# [receptive field](../glossary.md#receptive-field) $R$, and the margin $R - 1$. With a stride the shift has
# to be a multiple of it, too; that comes below.
#
# !!! question "Predict before you run"
#     `conv1` has $k = 2$, so a margin of 1 pixel will do. What is the largest
#     [sorted distance](../glossary.md#sorted-activation-distance) of 1,000 pairs, in the trained network and in the
#     untrained one? In the unit used here, 1 is the mean distance between the sorted activations of unrelated digits.

# %%
pairs = lab.translated_pairs(digits, max_shift=4, seed=SEED, margin=1)
circular = lab.shift(pairs.first, pairs.dy, pairs.dx, mode="wrap")
permuted = (circular == pairs.second).flatten(1).all(1).sum().item()  # step 1

first, second = (feature_map(trained, x) for x in (pairs.first, pairs.second))
twins = [feature_map(untrained, x) for x in (pairs.first, pairs.second)]
other = lab.derangement(len(pairs), seed=1)  # pairs each image with an unrelated one

passed = lab.largest_error(lab.sorted_distance(first, second))
control = lab.mean_error(lab.sorted_distance(first, second[other]))
twin_passed = lab.largest_error(lab.sorted_distance(*twins))
twin_control = lab.mean_error(lab.sorted_distance(twins[0], twins[1][other]))

# %% [markdown]
# | after `conv1` and ReLU | largest of {{ len(pairs):,d }} pairs | control: unrelated digits, mean |
# |---|---|---|
# | trained | {{ passed:.2g }} | {{ control:.2f }} |
# | untrained | {{ twin_passed:.2g }} | {{ twin_control:.2f }} |
#
# ??? success "Answer"
#     {{ passed:.2g }} and {{ twin_passed:.2g }}: the theorem holds, trained or not. In {{ permuted:,d }} of
#     {{ len(pairs):,d }} pairs the translated image equals the circularly shifted one, bit for bit. Training changes
#     the values of the activations, not that translation permutes them.
#
# Could a digit pass by luck? Compare every digit with every other one. This gives the distribution of the
# [control](../glossary.md#control): the results of the test where only chance can make them small.

# %%
pair = int((pairs.dy == 3).long().argmax())  # to look at
ordered = lab.sort_positions(first)[:, 0].double()  # digits × 729
chance = torch.pdist(ordered)  # every pair of different digits
chance = chance / chance.mean()
nearest = chance.min().item()
percentile = chance.kthvalue(len(chance) // 100).values.item()
lucky = (chance <= ROUNDING).sum().item()

disjoint = len(pairs) // 2  # pairs without a digit in common
at_most = 1 - 0.05 ** (1 / disjoint)  # more, and one would pass in 95 % of samples
counts, edges = torch.histogram(chance.float(), 60, range=(0.0, 3.0))

# %%
#| code-fold: true
#| alt: >-
#|   Left, sorted activations against rank: the curves of a digit and of its translation coincide, that of another digit
#|   does not. Right, a histogram of distances between unrelated digits, away from zero, and a line at zero.
#| caption: >-
#|   Left: the largest 250 of 729 activations, in order. A digit and its translation give one and the same curve.
#|   Right: distances of all pairs of unrelated digits. The translated pairs all lie on the line at 0.
figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.9), layout="constrained")
curves = ordered[pair], lab.sort_positions(second)[pair, 0], ordered[other[pair]]
looks = {"c": FIRST, "lw": 4, "alpha": 0.6}, {"c": SECOND, "ls": "--"}, CONTROL_LOOK
names = "f(x), sorted", "f(T x), sorted", "unrelated digit"
for y, look, name in zip(curves, looks, names, strict=True):
    left.plot(range(480, 730), y[479:], **look, markevery=25, label=name)
left.set(xlabel="rank of the activation", ylabel="activation")
grey = {"color": CONTROL_LOOK["color"], "fill": True, "label": "unrelated digits"}
right.stairs(counts / len(chance), edges, **grey)
right.axvline(passed, color=SECOND, linewidth=2, label="translated pairs")
right.set(xlabel="sorted distance (1 = mean of unrelated)", ylabel="share of pairs")
legends = left.legend(), right.legend()

# %% [markdown]
# Of {{ len(chance):,d }} unrelated pairs, {{ lucky }} pass. The nearest two digits are {{ nearest:.2g }} apart, and 99 %
# of the pairs are further apart than {{ percentile:.2g }}; to pass means to be closer than {{ ROUNDING:.0e }}. These pairs
# share digits, so they are not independent. But {{ disjoint:,d }} of them can be chosen without a digit in common, and
# none of these passes: an unrelated digit passes with a probability below {{ at_most:.1% }}, at 95 % confidence.
#
# Against *unrelated images*, then, the test has nearly full power: it notices them almost surely. That is not the
# mistake you are after. You look for a *layer* that puts its activations in the wrong places.

# %% [markdown]
# ## What does it miss?
#
# The theorem goes from permuted values to equal lists. The test reads it backwards: equal lists, so equivariant. That is
# a mistake, for the lists are equal after *every* permutation, translation or not. In fact, the distance between
# sorted lists is the smallest distance that any rearrangement can reach:
#
# $$\lVert \operatorname{sort} a - \operatorname{sort} b \rVert = \min_{\pi} \lVert a - b \circ \pi \rVert .$$
#
# ??? note "Why"
#     $\lVert a - b \circ \pi \rVert^2 = \lVert a \rVert^2 + \lVert b \rVert^2 - 2 \sum_p a_p b_{\pi(p)}$, and the sum is
#     largest when large meets large: if $a_p < a_q$ meet $u > v$, swapping $u$ and $v$ adds
#     $(a_q - a_p)(u - v) > 0$ to it.
#
# So sorting compares two *histograms* of activations and forgives everything else. Five layers put that to the test. Three rearrange the network's feature map, two throw it away.

# %%
generator = torch.Generator().manual_seed(SEED)
order = torch.randperm(27 * 27, generator=generator)  # one order, for all images


def reshuffle(a):
    """A new random order of the positions for every image."""
    new = torch.rand(a.flatten(2).shape, generator=generator).argsort(-1)
    return a.flatten(2).gather(-1, new).view_as(a)


layers = {"conv1, ReLU": lambda a: a, "flipped": lambda a: a.flip(-2, -1)}
layers["scrambled"] = lambda a: a.flatten(2)[..., order].view_as(a)
layers["reshuffled"] = reshuffle
layers["fixed picture"] = lambda a: first[:1].expand_as(a)  # always that of one digit
layers["constant"] = torch.ones_like

# %%
#| code-fold: true
#| alt: >-
#|   Five feature maps: the network's, showing a digit; the same turned by 180 degrees; the same as noise, twice; and
#|   the map of another digit.
#| caption: >-
#|   What the layers give for one digit. The first four maps hold exactly the same 729 values: sorting cannot
#|   tell them apart. The fifth is the same whatever the digit.
shown = [(name, layer(second)[pair, 0], "feature") for name, layer in layers.items()]
image_row(shown[:5])

# %% [markdown]
# !!! question "Predict before you run"
#     Which of the six pass the sort test? Which pass the *aligned* test, the
#     [equivariance error](../glossary.md#equivariance) on the [overlap](../glossary.md#overlap), where $f(Tx)$ is
#     compared with $T f(x)$ position by position? One passes both, and yet you learn nothing from it.
#
# The aligned error has two controls: the feature map moved by a wrong shift (one step off), and that of an
# unrelated digit.

# %%
one_off = pairs.dy + torch.where(pairs.dy > 0, -1, 1)


def judge(layer):
    a, b = layer(first), layer(second)
    return SimpleNamespace(
        sorting=(lab.sort_positions(a) - lab.sort_positions(b)).abs().max().item(),
        aligned=lab.mean_error(lab.aligned_error(a, b, pairs.dy, pairs.dx)),
        wrong=lab.mean_error(lab.aligned_error(a, b, one_off, pairs.dx)),
        unrelated=lab.mean_error(lab.aligned_error(a[other], b, pairs.dy, pairs.dx)),
    )


plain, flip, scramble, shuffle, picture, constant = map(judge, layers.values())

# %% [markdown]
# | layer | sorted: largest difference | aligned error | control: wrong shift | control: unrelated digit |
# |---|---|---|---|---|
# | `conv1`, ReLU | {{ plain.sorting:.2g }} | {{ plain.aligned:.2g }} | {{ plain.wrong:.2f }} | {{ plain.unrelated:.2f }} |
# | flipped, both axes | {{ flip.sorting:.2g }} | {{ flip.aligned:.2f }} | {{ flip.wrong:.2f }} | {{ flip.unrelated:.2f }} |
# | scrambled, one order | {{ scramble.sorting:.2g }} | {{ scramble.aligned:.2f }} | {{ scramble.wrong:.2f }} | {{ scramble.unrelated:.2f }} |
# | reshuffled, each image anew | {{ shuffle.sorting:.2g }} | {{ shuffle.aligned:.2f }} | {{ shuffle.wrong:.2f }} | {{ shuffle.unrelated:.2f }} |
# | fixed picture | {{ picture.sorting:.2g }} | {{ picture.aligned:.2f }} | {{ picture.wrong:.2f }} | {{ picture.unrelated:.2f }} |
# | constant | {{ constant.sorting:.2g }} | {{ constant.aligned:.2g }} | {{ constant.wrong:.2g }} | {{ constant.unrelated:.2g }} |
#
# ??? success "Answer"
#     All six pass the sort test. The aligned error convicts four: flip, scramble and reshuffle are about as wrong as the
#     map of an unrelated digit, and for the fixed picture the two are the same thing. The constant passes both
#     tests. It *is* equivariant, and [invariant](../glossary.md#invariance) too, but only because it has nothing
#     to say. Its controls give it away: they are 0 as well.
#
#     [`lab.sorted_distance`][lab.metrics.sorted_distance] returns `nan` for the fixed picture and the constant: their
#     unrelated digits have distance 0, so there is no unit to measure in.
#
# The test does not separate equivariant from invariant either. An invariant layer changes no value when the image moves, so
# its sorted values do not change. A layer that sorts its own output would pass.
#
# !!! note "Is a flip not equivariant too?"
#     In a wider sense it is. The flipped map moves *up* when the digit moves *down*, by a rule that is the same for all
#     images: $f(Tx) = T' f(x)$, with $T' = T^{-1}$ wherever both maps are defined. General theory allows such a $T'$
#     ([Cohen & Welling 2016](../references.md#cohen2016)), and it covers the scramble, whose one order serves all images.
#     The exercise asks for $T' = T$. Reshuffled maps follow no such rule at all, and pass all the same.

# %% [markdown]
# ## When does it cry wolf?
#
# For a convolution the theorem's *if* needed two things: no ink leaves the frame (step 1), and a margin of at least
# $k - 1$ (step 3). It is tempting to shift the
# test images as they are, and to meet neither. Do that now.
#
# !!! question "Predict before you run"
#     Shift all digits down, pixel by pixel, until most are cut off. The convolution does the same computation
#     everywhere. How does the sorted distance grow? And the aligned error?

# %%
room, still = lab.ink_margins(digits.images), feature_map(trained, digits.images)
strangers = lab.derangement(len(digits), seed=1)


def whole(dy, dx):
    """All digits shifted, whatever leaves the frame: images, feature maps, and who fits."""
    images = lab.shift(digits.images, dy, dx)
    # as the theorem asks
    roomy = room.fits(0, 0, margin=1) & room.fits(dy, dx, margin=1)
    fits = room.fits(dy, dx)
    groups = {"margin kept": roomy, "at the frame": fits & ~roomy, "ink lost": ~fits}
    return images, feature_map(trained, images), groups


# %%
def report(dy, dx):
    images, maps, groups = whole(dy, dx)
    my, mx = torch.full((len(maps),), dy), torch.full((len(maps),), dx)
    one_off = my - my.sign(), mx - mx.sign()
    return SimpleNamespace(
        groups=groups,
        cut=lab.mean_error(groups["ink lost"].double()),
        ink_lost=1 - ((images > 0).sum() / (digits.images > 0).sum()).item(),
        sorting=lab.sorted_distance(still, maps),
        control=lab.mean_error(lab.sorted_distance(still, maps[strangers])),
        aligned=lab.largest_error(lab.aligned_error(still, maps, my, mx)),
        wrong=lab.mean_error(lab.aligned_error(still, maps, *one_off)),
    )


# %%
right1, right2, diagonal = report(0, 1), report(0, 2), report(3, 3)
falls = [report(dy, 0) for dy in range(1, 9)]
down4, down8 = falls[3], falls[7]
framed = lab.mean_error(down4.sorting[down4.groups["at the frame"]])
worst = max(result.aligned for result in (right1, right2, diagonal, *falls))

# %%
#| code-fold: true
#| alt: >-
#|   Sorted distance against the shift down, 1 to 8 pixels. It rises for all digits; it is zero for digits that keep a
#|   margin, above zero for digits at the frame and for digits that lost ink. The aligned error stays at zero.
#| caption: >-
#|   Sorted distance of whole test images shifted down: it rises for all digits taken together, and stays at 0 for those
#|   that keep a margin of 1 pixel. The aligned error is 0 for all. A group is drawn where it has 20 digits or more.
figure, axes = plt.subplots(figsize=(6.8, 3.5), layout="constrained")
down = list(range(1, 9))
for i, (name, marker) in enumerate(zip(down4.groups, "D^s", strict=True), start=2):
    found = [r.sorting[r.groups[name]] for r in falls]
    means = [lab.mean_error(d) if len(d) >= 20 else float("nan") for d in found]
    look = {"color": COLORS[i], "marker": marker, "linestyle": ":"}
    axes.plot(down, means, **look, label=f"sorted: {name}")
means = [lab.mean_error(r.sorting) for r in falls]
axes.plot(down, means, color=SECOND, marker="o", label="sorted: all digits")
controls = [r.control for r in falls]
axes.plot(down, controls, **CONTROL_LOOK, label="control: unrelated, sorted")
aligned = [r.aligned for r in falls]
axes.plot(down, aligned, color=FIRST, lw=3, alpha=0.6, label="aligned: largest of all")
axes.set(xlabel="shift down (px)", ylabel="sorted distance, aligned error")
legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

# %% [markdown]
# | shift `dy, dx` (px) | digits that lose ink | ink pixels lost | sorted distance | control: unrelated | aligned error, largest | control: wrong shift |
# |---|---|---|---|---|---|---|
# | 0, 1 | {{ right1.cut:.1% }} | {{ right1.ink_lost:.2% }} | {{ lab.mean_error(right1.sorting):.2g }} | {{ right1.control:.2f }} | {{ right1.aligned:.2g }} | {{ right1.wrong:.2f }} |
# | 0, 2 | {{ right2.cut:.1% }} | {{ right2.ink_lost:.2% }} | {{ lab.mean_error(right2.sorting):.2g }} | {{ right2.control:.2f }} | {{ right2.aligned:.2g }} | {{ right2.wrong:.2f }} |
# | 3, 3 | {{ diagonal.cut:.1% }} | {{ diagonal.ink_lost:.2% }} | {{ lab.mean_error(diagonal.sorting):.2g }} | {{ diagonal.control:.2f }} | {{ diagonal.aligned:.2g }} | {{ diagonal.wrong:.2f }} |
# | 8, 0 | {{ down8.cut:.1% }} | {{ down8.ink_lost:.2% }} | {{ lab.mean_error(down8.sorting):.2g }} | {{ down8.control:.2f }} | {{ down8.aligned:.2g }} | {{ down8.wrong:.2f }} |
#
# ??? success "Answer"
#     The sorted distance grows from {{ lab.mean_error(right1.sorting):.2g }}, one pixel right, to {{ lab.mean_error(down8.sorting):.2g }}, eight
#     down. The aligned error is at most {{ worst:.2g }}, over all digits and shifts: wherever both maps are defined, they
#     agree. Nothing is wrong with the layer. What grows is the part that the frame cuts off.
#
# A steadily growing curve looks like a finding: "equivariance holds for small translations only". It is the frame that you
# measured. Even the control moves, to {{ down8.control:.2f }} at eight pixels: it now compares whole digits with cut ones.
#
# Now look at the digits *at the frame*. They have lost no ink: their pixels are permuted, nothing more. Yet their
# activations are not. At `dy, dx` = 4, 0 their sorted distance is
# {{ framed:.2g }} on average. Why?
#
# !!! question "Predict before you run"
#     One row of four pixels, ink in the first; a kernel of two ones, which adds neighbours. Work out the activations by
#     hand, before and after moving the ink one pixel to the right.

# %%
row = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
kernel = torch.ones(1, 1, 1, 2)
before, after = F.conv2d(row, kernel), F.conv2d(lab.shift(row, 0, 1), kernel)
before.flatten().tolist(), after.flatten().tolist()

# %% [markdown]
# ??? success "Answer"
#     A lone ink pixel lies in two windows. At the edge of the frame, one of them starts outside and is not computed. When
#     the pixel moves in, that window enters the feature map and brings a new 1; on the other side a background
#     response, 0, leaves. Sorted: 0, 0, 1 against 0, 1, 1. On the overlap all is well: `before` moved one step right is
#     `?, 1, 0`, and `after` is `1, 1, 0`.
#
# On a digit, it is a whole row of activations. Here is `conv1` before ReLU:

# %%
#| alt: >-
#|   A digit 2 with ink in the bottom row of pixels, the same moved up by 3 pixels, and their feature maps: equal on the
#|   overlap, but the upper copy has a row of activations in the part that is hatched for the lower one.
#| caption: >-
#|   No ink is lost, and the difference is 0 wherever both maps are defined. But the last row of ink activations of
#|   f(T x) lies in the hatched part: while the digit was at the edge, the frame cut off these windows.
two = int((digits.labels == 2).long().argmax())
x = lab.shift(digits.images[two][None], int(room.down[two]), 0)  # down to the edge
moved_x = lab.shift(x, -3, 0)
f_x, f_Tx = (lab.activations(trained, lab.normalize(t))["conv1"] for t in (x, moved_x))
Tf_x = lab.shift(f_x, -3, 0, background=torch.nan)
panels = [("x", x, "image"), ("T x", moved_x, "image")]
panels += [("T f(x)", Tf_x, "feature"), ("f(T x)", f_Tx, "feature")]
panels += [("difference", f_Tx - Tf_x, "difference")]
image_row([(title, values[0, 0], kind) for title, values, kind in panels])

# %% [markdown]
# How many pixels of margin are enough, then? Take kernels of random numbers, $k$ = 2, 3 and 4, and pairs with more and
# more margin. No ink leaves in any of them.

# %%
KERNELS, MARGINS = (2, 3, 4), (0, 1, 2, 3)
failing = {}
for margin in MARGINS:
    some = lab.translated_pairs(digits, max_shift=2, seed=SEED, margin=margin)
    x, moved_x = lab.normalize(some.first), lab.normalize(some.second)
    for k in KERNELS:
        generator = torch.Generator().manual_seed(SEED)
        weights = torch.randn(1, 1, k, k, generator=generator)
        d = lab.sorted_distance(F.conv2d(x, weights), F.conv2d(moved_x, weights))
        failing[k, margin] = lab.mean_error((d > ROUNDING).double())

# %% [markdown]
# Share of pairs that fail the sort test:
#
# | kernel | margin ≥ 0 px | ≥ 1 px | ≥ 2 px | ≥ 3 px |
# |---|---|---|---|---|
# | 2 × 2 | {{ failing[2, 0]:.0% }} | {{ failing[2, 1]:.0% }} | {{ failing[2, 2]:.0% }} | {{ failing[2, 3]:.0% }} |
# | 3 × 3 | {{ failing[3, 0]:.0% }} | {{ failing[3, 1]:.0% }} | {{ failing[3, 2]:.0% }} | {{ failing[3, 3]:.0% }} |
# | 4 × 4 | {{ failing[4, 0]:.0% }} | {{ failing[4, 1]:.0% }} | {{ failing[4, 2]:.0% }} | {{ failing[4, 3]:.0% }} |
#
# From $k - 1$ pixels on, none; with one pixel less, some. The theorem's margin is not caution, it is the boundary.
# [`lab.translated_pairs`][lab.shifting.translated_pairs] takes it as `margin`.

# %% [markdown]
# ## When is it right to complain?
#
# Give the digits all the room they need, and let the layer be at fault. Max pooling with
# [stride](../glossary.md#stride) 2 keeps the largest activation of each 2 × 2 block. The
# receptive field is now 3 pixels, so the margin is 2.
#
# !!! question "Predict before you run"
#     Pool the feature map, 27 × 27 to 13 × 13. When the digit moves by 2 pixels, are the pooled values only permuted? When
#     it moves by 1?

# %%

roomy = lab.translated_pairs(digits, max_shift=4, seed=SEED, margin=2)
maps = [feature_map(trained, images) for images in (roomy.first, roomy.second)]
a, b = (F.max_pool2d(x, 2) for x in maps)
even = lab.on_stride(roomy, 2)  # dy and dx both even
odd = ~even
pool_sorted = lab.sorted_distance(a, b)
# the best of the nearest moves
pool_aligned = lab.best_aligned_error(a, b, roomy.dy, roomy.dx, 2)
stranger = lab.derangement(len(roomy), seed=1)
pool_control = lab.mean_error(lab.sorted_distance(a, b[stranger]))
pool_aligned_control = lab.mean_error(
    lab.best_aligned_error(a[stranger], b, roomy.dy, roomy.dx, 2)
)
odd_failing = lab.mean_error((pool_sorted[odd] > ROUNDING).double())

# %% [markdown]
# | after pooling | pairs | sorted distance | aligned error |
# |---|---|---|---|
# | `dy` and `dx` even, largest | {{ even.sum().item():,d }} | {{ lab.largest_error(pool_sorted[even]):.2g }} | {{ lab.largest_error(pool_aligned[even]):.2g }} |
# | `dy` or `dx` odd, mean | {{ odd.sum().item():,d }} | {{ lab.mean_error(pool_sorted[odd]):.2f }} | {{ lab.mean_error(pool_aligned[odd]):.2f }} |
# | control: unrelated digits, mean | {{ len(roomy):,d }} | {{ pool_control:.2f }} | {{ pool_aligned_control:.2f }} |
#
# ??? success "Answer"
#     Even shifts carry whole blocks along: {{ lab.largest_error(pool_sorted[even]):.2g }}. Odd shifts divide the digit into other
#     blocks, and their largest values are other values, not the same ones elsewhere. Of the odd pairs,
#     {{ odd_failing:.0% }} fail. No rearrangement of the pooled map can repair that, so no translation can.
#
# Here sorting and alignment agree, and both are right: subsampling breaks equivariance to single pixels
# ([Azulay & Weiss 2019](../references.md#azulay2019), [Zhang 2019](../references.md#zhang2019)). Note which way the
# conclusion runs. With enough room, *failing* the sort test proves that the moved digit's map is no moved copy of the
# first. *Passing* it proves little.

# %% [markdown]
# ## Sort along which axis?
#
# "Sort the activations" leaves open: sort what? `torch.sort` takes the last axis unless told otherwise. The theorem asks
# for all positions of one channel, and nothing else. Three other readings run without an error.
#
# !!! question "Predict before you run"
#     For the same pairs, whose sorted distance is at most {{ passed:.2g }}: what happens if you sort along the last axis
#     only? Over the batch? And if you sort the ten outputs of `fc1`?

# %%
# last axis: each row alone
rows, moved_rows = first.sort().values, second.sort().values
by_row = lab.invariance_error(rows, moved_rows)
row_control = lab.mean_error(lab.invariance_error(rows, moved_rows[other]))
level = pairs.dy == 0  # moved sideways only
row_level, row_rest = lab.largest_error(by_row[level]), lab.mean_error(by_row[~level])

batch = first.sort(0).values  # over the batch: each position alone
by_batch = (batch - second.sort(0).values).norm().item()
by_batch_control = (batch - second[other].sort(0).values).norm().item()

# %% [markdown]
# ??? success "Answer, the first two"
#     **Last axis.** A sideways move permutes each row: {{ row_level:.2g }}. Any other move puts the values of a row into
#     another row: {{ row_rest:.2f }} on average, where unrelated digits have {{ row_control:.2f }}. The network is innocent.
#
#     **Batch.** Each position is sorted over the images, which forgets which image was which. Matched pairs give
#     {{ by_batch:.4g }}. Shuffle the moved images, so that every digit meets an unrelated one, and you get
#     {{ by_batch_control:.4g }}. A test that cannot tell a pair from a non-pair tests nothing.
#
# Sorting `fc1` is subtler. Its ten outputs have no positions: the score of class 3 must stay the score of class 3.
# Nothing in the theory says that a translation permutes scores.


# %%
def distance(a, b):
    return (a - b).norm(dim=1).mean().item()


x, moved_x = lab.normalize(pairs.first), lab.normalize(pairs.second)
z, moved_z = (lab.activations(trained, t, ["fc1"])["fc1"] for t in (x, moved_x))
unit = distance(z, moved_z[other])  # unrelated digits, not sorted
scores = distance(z, moved_z) / unit
s, moved_s = z.sort(1).values, moved_z.sort(1).values
sorted_scores, sorted_control = (
    distance(s, moved_s) / unit,
    distance(s, moved_s[other]) / unit,
)

# %%
impostor = z.roll(1, 1)  # the score of class 0 goes to class 1, and so on
channels = z[:, None], impostor[:, None]  # one channel with ten positions
impostor_sorted = lab.largest_error(lab.sorted_distance(*channels))
impostor_agrees, pairs_agree = lab.consistency(z, impostor), lab.consistency(z, moved_z)

# %% [markdown]
# In units of the distance between unrelated digits, not sorted:
#
# | outputs of `fc1` | $x$ and $Tx$ | control: unrelated digits | ratio |
# |---|---|---|---|
# | as they are | {{ scores:.2f }} | 1 | {{ scores:.2f }} |
# | sorted | {{ sorted_scores:.2f }} | {{ sorted_control:.2f }} | {{ sorted_scores / sorted_control:.2f }} |
#
# ??? success "Answer, the third"
#     Sorting takes the distance from {{ scores:.2f }} down to {{ sorted_scores:.2f }}. It looks as if you had found
#     invariance. But unrelated digits come closer as well, to {{ sorted_control:.2f }}: the minimum over all rearrangements is
#     never larger than the distance itself. Next to its own control, the sorted distance is
#     {{ sorted_scores / sorted_control:.2f }} of an unrelated digit's.
#
#     In the extreme, hand every score to the next class. The sorted distance is {{ impostor_sorted:.2g }}, and the
#     predicted class agrees for {{ impostor_agrees:.0% }} of the digits.
#
# For scores, do not sort. Ask for the [invariance error](../glossary.md#invariance), and for the share of pairs whose
# predicted class stays the same; here that is {{ pairs_agree:.0% }}.

# %% [markdown]
# ## What should you measure instead?
#
# Compare $f(Tx)$ with $T f(x)$, position by position, on the overlap only, and put two controls beside it: a wrong
# shift and an unrelated image. [`lab.exercise.measure_pairs`][lab.exercise.measure_pairs] does this for every layer at once.
#
# !!! question "Predict before you run"
#     Does the aligned error need an ink margin? Take the pairs from above, then others that may touch the frame.

# %%

anywhere = lab.translated_pairs(digits, max_shift=4, seed=SEED, margin=0)
roomy_errors = lab.measure_pairs(trained, pairs, ["conv1"])["conv1"]
edge_errors = lab.measure_pairs(trained, anywhere, ["conv1"])["conv1"]
twin_errors = lab.measure_pairs(untrained, anywhere, ["conv1"])["conv1"]

# %% [markdown]
# | `conv1`, before ReLU | aligned error, largest | control: wrong shift | control: unrelated | sorted distance, largest |
# |---|---|---|---|---|
# | trained, margin ≥ 1 px | {{ roomy_errors.equivariance.largest:.2g }} | {{ roomy_errors.wrong_shift.overall:.2f }} | {{ roomy_errors.unrelated.overall:.2f }} | {{ roomy_errors.sorting.largest:.2g }} |
# | trained, margin ≥ 0 px | {{ edge_errors.equivariance.largest:.2g }} | {{ edge_errors.wrong_shift.overall:.2f }} | {{ edge_errors.unrelated.overall:.2f }} | {{ edge_errors.sorting.largest:.2g }} |
# | untrained, margin ≥ 0 px | {{ twin_errors.equivariance.largest:.2g }} | {{ twin_errors.wrong_shift.overall:.2f }} | {{ twin_errors.unrelated.overall:.2f }} | {{ twin_errors.sorting.largest:.2g }} |
#
# ??? success "Answer"
#     No. The overlap leaves out what the frame cut off, so a layer without padding needs no margin. With
#     padding, leave out the border too: compare on the [interior](../glossary.md#interior).
#
# Who is right, then?
#
# | question | sorting | aligned error | who is right |
# |---|---|---|---|
# | Is a convolution equivariant, the digit with room? | yes: {{ passed:.2g }} | yes: {{ plain.aligned:.2g }} | both |
# | Is a flipped map, with the same $T$? | yes: {{ flip.sorting:.2g }} | no: {{ flip.aligned:.2f }} | aligned |
# | A scrambled or reshuffled map? | yes: {{ max(scramble.sorting, shuffle.sorting):.2g }} | no: {{ min(scramble.aligned, shuffle.aligned):.2f }} | aligned |
# | A fixed picture? | yes: {{ picture.sorting:.2g }} (`lab`: `nan`) | no: {{ picture.aligned:.2f }} | aligned |
# | Does a constant layer tell us anything? | yes: {{ constant.sorting:.2g }} (`lab`: `nan`) | yes: {{ constant.aligned:.2g }} | neither; the controls are |
# | Is a convolution equivariant while ink leaves? | no: {{ lab.mean_error(down8.sorting):.2f }} | yes, on the overlap: {{ down8.aligned:.2g }} | aligned |
# | While ink touches the frame and none leaves? | no: up to {{ edge_errors.sorting.largest:.2g }} | yes, on the overlap: {{ edge_errors.equivariance.largest:.2g }} | aligned |
# | Is pooling, at odd shifts? | no: {{ lab.mean_error(pool_sorted[odd]):.2f }} | no: {{ lab.mean_error(pool_aligned[odd]):.2f }} | both |
# | Are the scores of `fc1` invariant? | more than they are: distance {{ sorted_scores:.2f }} | not defined, no positions | neither; the plain distance is, {{ scores:.2f }} |
#
# Sorting keeps one advantage: it needs no map of positions, so it also runs on a layer whose stride you do
# not know. Give the digits ample room, and believe only its "no".

# %% [markdown]
# ## What you should have seen
#
# - With an ink margin of $k - 1$ pixels, a translation permutes the activations of a convolution, trained or not. Sorting
#   confirms it.
# - The test is *necessary, not sufficient*: every permutation passes it, and so does a layer that says nothing.
# - Without the margin it is not even necessary. It fails where ink leaves the frame, and where ink merely touches it,
#   although the convolution is equivariant on the overlap.
# - With the margin, its "no" counts. Odd shifts break pooling, and sorting shows it.
# - Sort the positions of one channel. Sorting rows, the batch or class scores answers another question.

# %% [markdown]
# ## Theory and observation


# %%
#| code-fold: true
def exact(name, observed, *controls, tolerance=ROUNDING):
    why = "float32: sums of up to 16 terms in another order: √16 · 2⁻²⁴ = 2.4e-7 of their size"
    return lab.Claim(name, "exact", 0.0, observed, controls, "==", tolerance, why)


def counted(name, observed, *controls):
    """The same numbers in another order, or a count: nothing to round."""
    return exact(name, observed, *controls, tolerance=0.0)


def broken(name, observed, *controls):
    why = "10,000 × what rounding can do"
    return lab.Claim(name, "broken", BROKEN, observed, controls, ">=", why=why)


# %%
#| code-fold: true
BROKEN = 10_000 * ROUNDING


def least(what, observed, bound):
    return lab.Control(what, observed, ">=", bound)


def most(what, observed, bound=ROUNDING):
    return lab.Control(what, observed, "<=", bound)


# %%
#| code-fold: true
unrelated = (
    least("unrelated, trained", control, 0.5),
    least("untrained", twin_control, 0.5),
)
test_holds = [
    exact(
        "margin 1 px: sorted distance, largest", max(passed, twin_passed), *unrelated
    ),
    lab.Claim(
        "sorted distance of the two nearest unrelated digits",
        "no luck",
        predicted=1000 * ROUNDING,
        observed=nearest,
        controls=(most("translated pairs, largest", passed),),
        relation=">=",
        why="1,000 × the tolerance of the test",
    ),
]

# %%
#| code-fold: true
spoiled = {"flipped": flip, "scrambled": scramble, "reshuffled": shuffle}
judged = [lab.sorted_distance(layers[n](first), layers[n](second)) for n in spoiled]
ratios = [(n, errors.aligned / errors.unrelated) for n, errors in spoiled.items()]
blind = exact(
    "flipped, scrambled, reshuffled: sorted distance, largest",
    max(map(lab.largest_error, judged)),
    *(least(f"{name}, aligned / unrelated", ratio, 0.8) for name, ratio in ratios),
)

# %%
#| code-fold: true
whole_images = exact(
    "whole images: aligned error on the overlap, largest",
    worst,
    least("sorted distance, 8 px down", lab.mean_error(down8.sorting), BROKEN),
    least("wrong shift", diagonal.wrong, BROKEN),
)
pixels = lab.sorted_distance(digits.images, whole(4, 0)[0])
at_frame = broken(
    "4 px down, no ink lost, margin 0: sorted distance, mean",
    framed,
    most(
        "of the pixels, largest",
        lab.largest_error(pixels[down4.groups["at the frame"]]),
        0.0,
    ),
    most(
        "margin 1 px, largest",
        lab.largest_error(down4.sorting[down4.groups["margin kept"]]),
    ),
)

# %%
#| code-fold: true
margins = counted(
    "k = 2, 3, 4, margin ≥ k − 1: share of pairs that fail",
    max(failing[k, margin] for k in KERNELS for margin in MARGINS if margin >= k - 1),
    least("margin ≥ k − 2", min(failing[k, k - 2] for k in KERNELS), 0.05),
)
pooling = exact(
    "pooled, even shifts: sorted distance, largest",
    lab.largest_error(pool_sorted[even]),
    least("odd shifts, mean", lab.mean_error(pool_sorted[odd]), BROKEN),
)

# %%
#| code-fold: true
matched, unmatched = (
    (first - second).norm().item(),
    (first - second[other]).norm().item(),
)
over_batch = counted(
    "sorted over the batch: unrelated / matched pairs, less 1",
    by_batch_control / by_batch - 1,
    least("not sorted", unmatched / matched - 1, BROKEN),
)
frame = whole_images, at_frame, margins
lab.check([*test_holds, blind, *frame, pooling, over_batch], data=mnist, seeds=[SEED])

# %% [markdown]
# ## Try it yourself
#
# The [live lab](../live.md) has this page's test under *The sort test, and how to cheat it*: flip or scramble a layer's
# output, and see what sorting says.
#
# **Exercise 1.** The margin is there because of the frame. Get rid of the frame: pad circularly, shift circularly, and take
# the test images as they are. Which part of the proof do you no longer need? And what if you pad with a constant?
#
# **Exercise 2.** `pool1` of [`PooledCNN`][lab.models.PooledCNN] is a 2 × 2 pooling behind a 3 × 3 convolution. How
# much margin does the theorem ask for, and is less enough?
#
# **Exercise 3.** A network swaps its channels whenever the image moves. Does the sort test notice?

# %%
#| fold: Solution 1
#| text: >-
#|   On a circle no ink can leave and every window is inside, so the condition of step 1 and all of step 3 fall away: a circular translation permutes the pixels, and the windows with
#|   them. A constant does not continue the circle. The windows at the border read zeros instead of what is on the
#|   other side, and sorting sees it.
generator = torch.Generator().manual_seed(SEED)
weights = torch.randn(1, 1, 3, 3, generator=generator)
x = lab.normalize(digits.images)
moved_x = lab.shift(x, 9, 5, mode="wrap")
found = {}
for padding in ("circular", "constant"):
    a, b = (
        F.conv2d(F.pad(t, (1, 1, 1, 1), mode=padding), weights) for t in (x, moved_x)
    )
    found[padding] = lab.largest_error(lab.sorted_distance(a, b))
found

# %%
#| fold: Solution 2
#| text: >-
#|   The receptive field is 1 + 2 + 1 = 4 pixels, so 3 pixels of margin are enough, for even shifts. Here 2 will do, for
#|   windows start at every second pixel: the last one cut off at the top reads pixels −2 to 1, and the first one cut off at
#|   the bottom reads pixels 26 to 29, of which 26 and 27 exist. Both reach 2 pixels into the image, not 3. Below, for
#|   each margin, the share of pairs that fail.
pooled_cnn = lab.build_model("pooled", seed=SEED)
fails = {}
for margin in (0, 1, 2, 3):
    few = digits.sample(500, seed=SEED)
    some = lab.translated_pairs(few, max_shift=2, seed=SEED, margin=margin)
    images = lab.normalize(some.first), lab.normalize(some.second)
    a, b = (lab.activations(pooled_cnn, x, ["pool1"])["pool1"] for x in images)
    wrong = lab.sorted_distance(a, b) > ROUNDING
    fails[margin] = lab.mean_error(wrong[lab.on_stride(some, 2)].double())
fails

# %%
#| fold: Solution 3
#| text: >-
#|   It depends on the axis again. Sorted within each channel, swapped channels differ: the first number below. Sorted over
#|   all channels at once, they are one more permutation, and pass: the second. A translation moves positions and leaves
#|   channels alone, so sort within channels.
a, b = (lab.activations(pooled_cnn, x, ["conv1"])["conv1"] for x in images)
swapped = b.roll(1, dims=1)
all_at_once = a.flatten(1)[:, None], swapped.flatten(1)[:, None]
(
    lab.mean_error(lab.sorted_distance(a, swapped)),
    lab.largest_error(lab.sorted_distance(*all_at_once)),
)
