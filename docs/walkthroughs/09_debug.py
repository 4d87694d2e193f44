# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: Seven ways to measure translation wrongly, what each makes you believe, and the check that catches it.
# ---
# # 9. Debug the lab
#
# Each number on the other pages took a dozen lines of code, and each of those lines can be wrong without an error
# message. Below are seven wrong measurements. All of them run, all of them give a plausible number, and each number tells a
# false story about the network. Can you find the mistake before you open the answer?

# %%
#| code-fold: true
#| code-title: "Import the lab, and train the given network three times"
from dataclasses import replace

import matplotlib.pyplot as plt
import torch

import lab
from lab.plotting import COLORS, CONTROL_LOOK, FIRST, SECOND, image_row

plt.rcParams.update({"font.size": 12, "axes.titlesize": 12})
SEED, SEEDS = 0, [0, 1, 2]
mnist = lab.load_mnist()
cache = lab.data_root() / "checkpoints"


def trained(seed):
    """The given network after training."""
    network = lab.build_model("given", seed=seed)
    recipe = replace(lab.RECIPES["given"], seed=seed)
    lab.fit(network, mnist.train, recipe, cache=cache)
    return network


models = [trained(seed) for seed in SEEDS]
model = models[0]
sample = mnist.test.sample(2000, seed=SEED)
wide = lab.translated_pairs(sample, max_shift=4, margin=2, seed=SEED)

# %%
#| code-fold: true
#| code-title: "Draw a pair of images, and what conv1 makes of it"
#| alt: >-
#|   A digit and its translation, then the maps that conv1 returns for the two. The second map shows the same pattern as
#|   the first, moved as far as the digit.
#| caption: >-
#|   A digit x, its translation T x, and what `conv1` of the given network returns for the two. Each number on this page
#|   compares such a pair.
far = int((wide.dy + wide.dx).argmax())
pair = torch.cat([wide.first[far : far + 1], wide.second[far : far + 1]])
maps = lab.activations(model, lab.normalize(pair), ["conv1"])["conv1"]
image_row(
    [
        ("x", pair[0, 0], "image"),
        ("T x", pair[1, 0], "image"),
        ("conv1(x)", maps[0, 0], "feature"),
        ("conv1(T x)", maps[1, 0], "feature"),
    ],
    width=1.2,
)

# %% [markdown]
# !!! abstract "After this page you can"
#
#     - find seven common mistakes in code that measures equivariance or invariance;
#     - say what each of them makes you believe;
#     - catch five of them with three checks that need no knowledge of the mistake, the **identity**, the **translation
#       undone** and the **control**, and the other two by **repeating** the measurement.
#
# ## The right numbers first
#
# You need something to compare with. What you measure is the given network, trained: `conv1` is
# [equivariant](../glossary.md#equivariance), `fc1` is not [invariant](../glossary.md#invariance).
# [`translated_pairs`][lab.shifting.translated_pairs] makes 2,000 pairs, moved by at most 1 px (`near`) and by at most
# 4 px (`wide`). [`measure_pairs`][lab.exercise.measure_pairs] gives every error beside its
# [control](../glossary.md#control), the same number between unrelated images.


# %%
def act(images, layer, network=model):
    """The activations of one layer: images in [0, 1] -> n ..."""
    return lab.activations(network, lab.normalize(images), [layer])[layer]


near = lab.translated_pairs(sample, max_shift=1, margin=2, seed=SEED)
right_near, right_wide = lab.measure_pairs(model, near), lab.measure_pairs(model, wide)
fc1_near = right_near["fc1"].invariance.overall
fc1_wide = right_wide["fc1"].invariance.overall
fc1_control = right_near["fc1"].invariance_unrelated.overall
sort_right = right_wide["conv1"].sorting.largest
sort_control = right_wide["conv1"].sorting_unrelated.overall

# %% [markdown]
# | Measured | at most 1 px | at most 4 px | control: unrelated images |
# |---|---|---|---|
# | `conv1`, [sorted distance](../glossary.md#sorted-activation-distance), largest | {{ right_near["conv1"].sorting.largest:.2g }} | {{ sort_right:.2g }} | {{ sort_control:.2f }} |
# | `fc1`, invariance error, mean | {{ fc1_near:.2f }} | {{ fc1_wide:.2f }} | {{ fc1_control:.2f }} |
#
# Both numbers are relative: 0 means that translation changes nothing, 1 that it changes as much as another digit would.
# Keep this table in sight.
#
# ## Mistake 1: partners that do not belong together
#
# Somebody compares 2,000 digits with their translations by at most one pixel, batch by batch. They find that translation
# makes every layer as different as another digit does. Before that, they had tried the code on a single batch, as a careful
# author does, and found nothing wrong.


# %%
# WRONG
def unmatched(pairs, layer, size=100):
    """Sorted distance of each image from its translation (fc1: invariance error)."""
    moved = act(next(iter(pairs.second.split(size))), layer)
    distances = []
    for images in pairs.first.split(size):
        distances.append(lab.sorted_distance(act(images, layer), moved))
    return torch.cat(distances)


# %% [markdown]
# ```predict
# id: unmatched
# question: Which line is wrong?
# choices:
#   - "`moved = act(next(iter(…)), layer)`"
#   - "`for images in pairs.first.split(size):`"
#   - "`lab.sorted_distance(act(images, layer), moved)`: it sorts `fc1` too"
#   - "`return torch.cat(distances)`"
# ```

# %%
conv1_unmatched, fc1_unmatched = unmatched(near, "conv1"), unmatched(near, "fc1")

# %% [markdown]
# | measured | wrong | right | control |
# |---|---|---|---|
# | `conv1`, sorted distance | {{ lab.mean_error(conv1_unmatched):.2f }} | {{ right_near["conv1"].sorting.overall:.2g }} | {{ right_near["conv1"].sorting_unrelated.overall:.2f }} |
# | `fc1`, invariance error | {{ lab.mean_error(fc1_unmatched):.2f }} | {{ fc1_near:.2f }} | {{ fc1_control:.2f }} |
# | `conv1`, the first batch alone | {{ lab.mean_error(conv1_unmatched[:100]):.2g }} | | |

# %% [markdown]
# ```observed
# id: unmatched
# right: 1
# reason: |
#   `moved` is taken once, before the loop. Every batch is compared with the *first* translated batch, so all but the first
#   are compared with unrelated digits. The code measures its own control. On a single batch it is right, which is why the
#   author trusted it. (Sorting a vector with one value in each channel changes nothing, so `fc1` is in order.)
# ```

# %% [markdown]
# It makes you believe that nothing is equivariant and nothing is invariant, not even a little. **The check: undo the
# translation.** Move the second image back. Now both are the same image, and any layer of any network must give the
# same.

# %%
back = lab.shift(near.second, -near.dy, -near.dx)
undone_wrong = lab.mean_error(unmatched(replace(near, second=back), "fc1"))
undone_right = right_near["fc1"].undone.each.max().item()

# %% [markdown]
# The right way gives {{ undone_right:.1g}}, the wrong way {{ undone_wrong:.2f}}. **The fix**: keep both images of a pair, and
# their displacement, in one record, as [`TranslatedPairs`][lab.shifting.TranslatedPairs] does, and index all of it at
# once.
#
# ## Mistake 2: a grey band
#
# Somebody normalises the images when they are loaded, as most tutorials do, and translates them later.

# %%
# WRONG
normalised = lab.normalize(wide.first)
banded = lab.shift(normalised, wide.dy, wide.dx)

# %% [markdown]
# ```predict
# id: band
# question: Which of the two numbers will be wrong by more than a tenth?
# choices:
#   - the sorted distance of `conv1`
#   - the invariance error of `fc1`
#   - both
#   - neither
# ```

# %%
conv1_band, fc1_band = lab.activations(model, banded, ["conv1", "fc1"]).values()
sort_banded = lab.mean_error(lab.sorted_distance(act(wide.first, "conv1"), conv1_band))
fc1_banded = lab.mean_error(lab.invariance_error(act(wide.first, "fc1"), fc1_band))
off = sort_banded - sort_right > 0.1, abs(fc1_banded - fc1_wide) > 0.1
band_right = {(True, False): 1, (False, True): 2, (True, True): 3}.get(off, 4)

# %%
#| code-fold: true
#| code-title: "Draw the band"
#| alt: A digit; the same digit moved with a band of grey along two edges; the same digit moved without a band.
#| caption: >-
#|   Left, a digit. Middle, moved after normalisation: the pixels that enter are 0, which is not the background any
#|   more, and a grey band follows the digit. Right, moved before normalisation: only the digit has moved.
# back to [0, 1]: the scale of the others
band_shown = banded[far, 0] * lab.data.STD + lab.data.MEAN
image_row(
    [
        ("x", wide.first[far, 0], "image"),
        ("T after normalising", band_shown, "image"),
        ("T before normalising", wide.second[far, 0], "image"),
    ],
    width=1.6,
)

# %% [markdown]
# | measured | wrong | right | control |
# |---|---|---|---|
# | `conv1`, sorted distance | {{ sort_banded:.2f }} | {{ right_wide["conv1"].sorting.overall:.2g }} | {{ sort_control:.2f }} |
# | `fc1`, invariance error | {{ fc1_banded:.3f }} | {{ fc1_wide:.3f }} | {{ right_wide["fc1"].invariance_unrelated.overall:.3f }} |

# %% [markdown]
# ```observed
# id: band
# right: "{{ band_right }}"
# reason: |
#   New pixels are 0. Before normalising, 0 is the background. After it, the background is {{ lab.data.BACKGROUND:.3f }}, and 0
#   is the mean pixel of MNIST, a light grey of {{ lab.data.MEAN:.0%}} ink. The band is new content, so the sorted activations of
#   `conv1` change. For the `fc1` of this network the band hardly counts beside the digit: a mistake that leaves one number
#   alone can ruin the next.
# ```

# %% [markdown]
# It makes you believe that a convolution is only roughly equivariant. **The check: the identity.** Let $f(x) = x$.
# Translation of a digit that stays inside the frame only permutes pixels, so the sorted distance of the *pixels* must be
# 0. No network is involved.

# %%
pixels_banded = lab.mean_error(lab.sorted_distance(normalised, banded))
pixels_right = lab.sorted_distance(normalised, lab.normalize(wide.second)).max().item()

# %% [markdown]
# It is {{ pixels_banded:.2f}} for the banded images and {{ pixels_right:.1g}} for the right ones. **The fix**: translate first,
# normalise last; or say `background=lab.data.BACKGROUND`. The same mistake in torchvision is `RandomAffine` placed after
# `Normalize`: its `fill` is 0 unless you say otherwise.
#
# ## Mistake 3: digits that lose their feet
#
# Somebody moves the test images down, pixel by pixel, and draws the sorted distance of `conv1`: "the convolution is
# equivariant for small translations only". Remember that an MNIST digit was scaled into a box of 20 × 20 px, and its
# centre of mass put into the middle of 28 × 28.

# %%
# WRONG
still = act(sample.images, "conv1")
steps = list(range(9))
clipped = []
for dy in steps:
    moved = act(lab.shift(sample.images, dy, 0), "conv1")
    clipped.append(lab.sorted_distance(still, moved))

# %% [markdown]
# ```predict
# id: clipped
# question: From which displacement on is the mean sorted distance not 0, up to rounding?
# number: {unit: "px", places: 0}
# ```

# %%
room = lab.ink_margins(sample.images)  # how far each digit can move
lost = [1 - room.fits(dy, 0).double().mean().item() for dy in steps]
starts = room.fits(0, 0, margin=1)  # the margin is the receptive field of conv1, less 1
whole = [starts & room.fits(dy, 0, margin=1) for dy in steps]
sort_clipped = [lab.mean_error(d) for d in clipped]
sort_whole = [lab.mean_error(clipped[dy][whole[dy]]) for dy in steps]  # nan: none left
from_lost = {  # share of the distance that is due to digits that have lost ink
    dy: (clipped[dy][~room.fits(dy, 0)].sum() / clipped[dy].sum()).item()
    for dy in (1, 4)
}
rises = next((dy for dy in steps if sort_clipped[dy] > 1e-6), 9)

# %%
#| code-fold: true
#| code-title: "Draw the sorted distance against the displacement"
#| alt: >-
#|   Sorted distance of conv1 against the displacement down, from 0 to 8 pixels. The curve for all digits rises
#|   together with the share of digits that lost ink; the curve for digits that stay inside is zero.
#| caption: >-
#|   All digits (squares): the sorted distance rises, and so does the share of digits that have lost ink (dashed). Digits that
#|   stay inside the frame with a pixel to spare (circles): 0, as far as any are left.
figure, axes = plt.subplots(figsize=(6.4, 4.2))
blue = {"color": FIRST, "marker": "o", "clip_on": False}
axes.plot(steps, sort_clipped, color=SECOND, marker="s", label="all digits")
axes.plot(steps, sort_whole, label="digits that stay inside", **blue)
axes.plot(steps, lost, "--", color=COLORS[2], label="share that lost ink")
axes.plot(steps, [sort_control] * 9, label="unrelated images", **CONTROL_LOOK)
axes.set(xlabel="displacement down (px)", ylabel="sorted distance", ylim=(0, None))
figure.legend(loc="outside lower center", ncols=2)

# %% [markdown]
# ```observed
# id: clipped
# value: "{{ rises }}"
# within: 0
# reason: |
#   At 1 px it is {{ sort_clipped[1]:.2g }}. Only {{ lost[1]:.1%}} of the digits have lost ink by then, and {{ from_lost[1]:.0% }}
#   of the distance is theirs. The rest comes from digits whose ink has reached the edge: windows that contained a part of a stroke
#   no longer fit inside ([page 4](04_sorting.py)). At 4 px, {{ lost[4]:.0% }} of the digits have lost ink, because the centre of
#   mass stands in the middle, not the box. They make up {{ from_lost[4]:.0% }} of the distance.
# ```

# %% [markdown]
# **The check** is the identity again: the sorted distance of the pixels themselves. And compare with the
# [equivariance error](../glossary.md#relative-error) on the [overlap](../glossary.md#overlap), clipped digits included.

# %%
down4, four = lab.shift(sample.images, 4, 0), torch.full((2000,), 4)
pixels_clipped = lab.mean_error(lab.sorted_distance(sample.images, down4))
moved, other = act(down4, "conv1"), lab.derangement(2000, seed=1)
aligned_clipped = lab.aligned_error(still, moved, four, 0 * four).max().item()
aligned_control = lab.mean_error(lab.aligned_error(still[other], moved, four, 0 * four))

# %% [markdown]
# The pixels give {{ pixels_clipped:.3f }}, where they must give 0: small, but no network was involved. The largest
# equivariance error on the overlap is {{ aligned_clipped:.2g }} (unrelated images: {{ aligned_control:.2f }}): where both
# maps are defined, they agree. The frame did it, not the convolution. **The fix**: draw the displacement, then let
# the digit start at a place from which its ink stays inside the frame. `translated_pairs` does so, and `margin` adds the
# pixels that a convolution reaches beyond the ink.
#
# ## Mistake 4: a number without a scale
#
# Somebody measures how far one pixel of translation moves the output of `fc1`, before training and after. You add a third
# network for comparison, a dead one: its `conv1` never lets anything through the ReLU, so that `fc1` always gives the
# same.

# %%
# WRONG
untrained = [lab.build_model("given", seed=seed) for seed in SEEDS]
dead = lab.build_model("given", seed=SEED)
with torch.no_grad():
    dead.conv1.bias.fill_(-100.0)  # no window is bright enough: every ReLU gives 0
networks = {"trained": models, "untrained": untrained, "dead": [dead]}
outputs = {
    name: [(act(near.first, "fc1", one), act(near.second, "fc1", one)) for one in group]
    for name, group in networks.items()
}
distance = {
    name: torch.stack([(b - a).norm(dim=1).mean() for a, b in pairs])
    for name, pairs in outputs.items()
}

# %% [markdown]
# ```predict
# id: scale
# question: Sort the three by this distance, the smallest first.
# choices:
#   - dead, untrained, trained
#   - dead, trained, untrained
#   - trained, untrained, dead
# ```

# %%
unrelated, error, kappa, same = {}, {}, {}, {}
for name, pairs in outputs.items():
    mate = lab.derangement(len(near))
    unrelated[name] = torch.stack([(a - a[mate]).norm(dim=1).mean() for a, _ in pairs])
    error[name] = torch.tensor(
        [lab.mean_error(lab.invariance_error(*p)) for p in pairs]
    )
    same[name], kappa[name] = lab.consistency(*pairs[0]), lab.cohen_kappa(*pairs[0])

# %%
scale_right = 1 if distance["untrained"].max() < distance["trained"].min() else 2
control = lab.Control(
    "distance of unrelated images", unrelated["dead"].item(), ">=", 0.1
)
of_dead = {"why": "rounding", "kind": "exact", "tolerance": 1e-6}
invariant = lab.Claim(
    "dead fc1", "invariant", 0.0, error["dead"].item(), (control,), **of_dead
)

# %% [markdown]
# | network | distance | of unrelated images | invariance error | [consistency](../glossary.md#consistency) | κ |
# |---|---|---|---|---|---|
# | trained (three, mean) | {{ distance["trained"].mean():.2f }} | {{ unrelated["trained"].mean():.2f }} | {{ error["trained"].mean():.2f }} | {{ same["trained"]:.2f }} | {{ kappa["trained"]:.2f }} |
# | untrained (three, mean) | {{ distance["untrained"].mean():.2f }} | {{ unrelated["untrained"].mean():.2f }} | {{ error["untrained"].mean():.2f }} | {{ same["untrained"]:.2f }} | {{ kappa["untrained"]:.2f }} |
# | dead | {{ distance["dead"].item():.2g }} | {{ unrelated["dead"].item():.2g }} | {{ error["dead"].item():.2g }} | {{ same["dead"]:.2f }} | {{ kappa["dead"]:.2f }} |
#
# Consistency is the share of pairs that get the same class twice; [κ](../glossary.md#cohens-kappa) is the same beyond what
# agrees by chance (both for the first network of each kind).

# %% [markdown]
# ```observed
# id: scale
# right: "{{ scale_right }}"
# reason: |
#   You would report that training destroys invariance, and that the dead network has it all. But the untrained networks move
#   little because *all* their outputs lie close together. Relative to unrelated images the trained ones are the more invariant.
#   For the dead one there is no scale: 0 / 0 is nan. Its decisions are always consistent, and κ, 0 / 0 again, is 0 by definition
#   in the lab.
# ```

# %% [markdown]
# **The check: the control.** Ask how far apart *unrelated* images are. **The fix**: never print an error without its control.
# In the lab a [`Claim`][lab.claims.Claim] cannot be made without one, and nan is `{{ invariant.verdict }}`, never a
# success.
#
# ## Mistake 5: a loop that runs once
#
# Somebody evaluates accuracy on test images moved 2 px to the right. Another student repeats it with a different order of
# the images, gets a different number, and they argue about seeds. Find the line.


# %%
# WRONG
def accuracy(images, labels, size=64):
    """The share of images whose class is predicted correctly."""
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        correct = (lab.predict(model, x).argmax(1) == y).double()
        return correct.mean().item()


inside = lab.ink_margins(mnist.test.images).fits(0, 2)  # the others: mistake 3
images = lab.shift(mnist.test.images[inside], 0, 2)
labels = mnist.test.labels[inside]
orders = [((labels - k) % 10).argsort(stable=True) for k in range(10)]  # class k first

# %%
as_stored = accuracy(images, labels)
by_class = torch.tensor([accuracy(images[o], labels[o]) for o in orders])
full = lab.evaluate(model, lab.Split(images, labels))
reordered = torch.tensor(
    [lab.evaluate(model, lab.Split(images[o], labels[o])).accuracy for o in orders]
)
range_of_loop = (by_class.max() - by_class.min()).item()
range_of_all = (reordered.max() - reordered.min()).item()
chance_sd = (full.accuracy * (1 - full.accuracy) / 64) ** 0.5

# %% [markdown]
# `return` stands inside the loop, so you get the first batch: {{ as_stored:.2f }} as stored, and from {{ by_class.min():.2f }} to
# {{ by_class.max():.2f }} if the images are sorted by class, whichever class comes first. All {{ full.images:, }} images give
# {{ full.accuracy:.3f }}. Even for 64 images drawn at random, chance alone gives a standard deviation of $\sqrt{p(1-p)/64}$,
# here {{ chance_sd:.3f }}. It makes you believe whatever the first batch says. **The check**: change the order of the images. An
# evaluation of all of them changes by {{ range_of_all:.1g}}. **The fix**: move `return` out of the loop, and return *how many* images
# were counted beside the number, as [`evaluate`][lab.observing.evaluate] does.
#
# ## Mistake 6: one roll of the dice
#
# Somebody draws a random translation, up to 4 px along each axis but not none at all, moves some hundreds of digits by it,
# and reports the mean invariance error of `fc1`. What they want to know is its mean over all 80 such translations.
# You can compute that: here are the errors of every digit under each of them. All digits start where MNIST put them, and
# have room for all 80.

# %%
free = room.fits(4, 4) & room.fits(-4, -4)  # 4 px on every side: no mistake 3
roomy = sample.images[free]
every = torch.arange(-4, 5)
moves = torch.cartesian_prod(every, every)
moves = moves[moves.any(1)].tolist()  # 80
fixed = act(roomy, "fc1")
errors = torch.stack(
    [lab.invariance_error(fixed, act(lab.shift(roomy, *t), "fc1")) for t in moves]
)  # translation, digit
chance, n = torch.Generator().manual_seed(SEED), len(roomy)  # so that this page repeats


# %%
# WRONG
def one_draw(digits=n):
    """Mean invariance error of fc1 under a random translation."""
    drawn = torch.randint(80, (1,), generator=chance)
    return errors[drawn, :digits].mean()


# %% [markdown]
# ```predict
# id: dice
# question: You repeat this 40 times, with {{ n }} digits each time. How large is the standard deviation of the 40 results, over their mean?
# choices:
#   - below 2 %, because so many digits average it out
#   - about 5 %
#   - more than 20 %
# ```


# %%
def balanced():
    """A displacement for each digit, every one of the 80 equally often, or once more."""
    drawn = torch.randperm(80, generator=chance)[torch.arange(n) % 80]
    return errors[drawn[torch.randperm(n, generator=chance)], torch.arange(n)].mean()


wanted = errors.mean().item()
draws = torch.stack([one_draw() for _ in range(40)])
designs = torch.stack([balanced() for _ in range(40)])
sd_draws, sd_designs = draws.std().item(), designs.std().item()
spread, relative_sd = sd_draws / sd_designs, sd_draws / draws.mean().item()
chance.manual_seed(SEED)  # the same 40 translations, a quarter of the digits
sd_quarter = torch.stack([one_draw(n // 4) for _ in range(40)]).std().item()
dice_right = 1 if relative_sd < 0.02 else 3 if relative_sd > 0.2 else 2

# %%
#| code-fold: true
#| code-title: "Draw forty repetitions of each way"
#| alt: >-
#|   Two rows of marks on one axis, the invariance error of fc1. The marks of single draws are spread over the axis;
#|   those of the balanced designs lie close together, around the mean over all 80 translations.
#| caption: >-
#|   Forty repetitions of each way. One draw for all digits (upper row) gives anything from a small error to that of
#|   unrelated images (1). A displacement for each digit (lower row) gives nearly the mean over all 80 (line) each time.
figure, axes = plt.subplots(figsize=(6.4, 2.2))
axes.plot(draws, torch.ones(40), "|", color=COLORS[4], markersize=18)
axes.plot(designs, torch.zeros(40), "|", color=COLORS[2], markersize=18)
axes.axvline(wanted, color=CONTROL_LOOK["color"], linestyle="-")
axes.set(yticks=[0, 1], yticklabels=["one each", "one draw"], ylim=(-0.6, 1.6))
axes.set(xlim=(-0.05, None), xlabel="invariance error of fc1")

# %% [markdown]
# ```observed
# id: dice
# right: "{{ dice_right }}"
# value: "{{ relative_sd:.0%}}"
# reason: |
#   {{ n }} digits share *one* translation, and it decides. The 40 draws range from {{ draws.min().item():.2f }} to
#   {{ draws.max().item():.2f }} (standard deviation {{ sd_draws:.2f }}), where {{ wanted:.2f }} is right. A quarter of the digits gives
#   nearly the same spread, {{ sd_quarter:.2f }}: more digits do not help, because averaging over digits does not average over translations.
# ```

# %% [markdown]
# It makes you believe that the network is robust, or fragile, or that your last change helped. **The check**: repeat it with
# another seed. With a displacement for each digit, the standard deviation is {{ sd_designs:.3f }}, {{ spread:.0f}} times narrower.
# **The fix**: a displacement for each image, and the seed as an argument. A seed alone only repeats the one draw. In
# torchvision, `RandomAffine` applied to a whole batch is this mistake: one draw moves all of it.
#
# ## Mistake 7: metres beside inches
#
# Somebody compares the layers of `PooledCNN`, *untrained*, by how far translation moves their activations. The deeper, the
# smaller: "the fully connected layers are invariant, as the exercise says". (`conv1` has 10,816 outputs here, `fc2`
# has ten.)


# %%
# WRONG
def distances(network):
    """Mean distance between f(x) and f(T x), layer by layer."""
    a, b = outputs_of(network)
    gaps = {name: (b[name] - a[name]).flatten(1).norm(dim=1) for name in LAYERS}
    return {name: gap.mean().item() for name, gap in gaps.items()}


# %%
#| code-fold: true
#| code-title: "Five untrained networks, and their activations"
LAYERS = ["conv1", "pool1", "conv2", "pool2", "fc1", "fc2"]
five = [lab.build_model("pooled", seed=seed) for seed in range(5)]
few = lab.translated_pairs(
    sample.sample(500, seed=SEED), max_shift=4, margin=2, seed=SEED
)
mates = lab.derangement(500, seed=1)


def outputs_of(network):
    """What each layer makes of both images of the pairs."""
    pair = few.first, few.second
    return [lab.activations(network, lab.normalize(x), LAYERS) for x in pair]


# %% [markdown]
# ```predict
# id: metres
# question: Divide each distance by that of unrelated images. By which factor does the number fall from `conv1` to `fc2` now?
# choices:
#   - by less than 2
#   - by about 10
#   - by more than 20
# ```


# %%
def relative(network, order=slice(None)):
    """The same over the distance of unrelated images: the invariance error."""
    a, b = outputs_of(network)
    errors = {name: lab.invariance_error(a[name], b[name][order]) for name in LAYERS}
    return {name: lab.mean_error(one) for name, one in errors.items()}


absolute = {k: torch.tensor([distances(m)[k] for m in five]) for k in ("conv1", "fc2")}
scaled = [relative(network) for network in five]
scaled = {name: torch.tensor([one[name] for one in scaled]) for name in LAYERS}
mated = relative(five[0], mates)
falls = scaled["conv1"] / scaled["fc2"], absolute["conv1"] / absolute["fc2"]
metres_right = 1 if falls[0].max() < 2 else 3 if falls[0].min() > 20 else 2

# %% [markdown]
# | five untrained networks | `conv1` | `fc2` | `conv1` over `fc2`, lowest to highest |
# |---|---|---|---|
# | wrong: absolute distance | {{ absolute["conv1"].mean():.1f}} | {{ absolute["fc2"].mean():.2f}} | {{ falls[1].min():.0f}} to {{ falls[1].max():.0f}} |
# | right: invariance error | {{ scaled["conv1"].mean():.2f}} | {{ scaled["fc2"].mean():.2f}} | {{ falls[0].min():.2f}} to {{ falls[0].max():.2f}} |
# | control: unrelated images | {{ mated["conv1"]:.2f}} | {{ mated["fc2"]:.2f}} | |

# %% [markdown]
# ```observed
# id: metres
# right: "{{ metres_right }}"
# reason: |
#   Nearly all of the fall goes away. The norm grows with the number of outputs and with their scale, whatever translation does.
#   An untrained fully connected layer is not invariant. The wrong number was believed because it agreed with the exercise's
#   sentence.
# ```

# %% [markdown]
# **The check**: multiply a layer by 100. Nothing about translation has changed, so no number should. **The fix**: divide by
# what a large error would be for *this* layer, which is what the control says. The same holds for equivariance errors:
# two layers are only ever compared through their own controls.
#
# ## The seven at a glance
#
# | Mistake | It gave | Right | The check that catches it |
# |---|---|---|---|
# | 1. unmatched pairs | {{ lab.mean_error(conv1_unmatched):.2f }} | {{ right_near["conv1"].sorting.overall:.2g }} | translation undone: {{ undone_wrong:.2f }}, not 0 |
# | 2. 0 after normalising | {{ sort_banded:.2f }} | {{ right_wide["conv1"].sorting.overall:.2g }} | identity: {{ pixels_banded:.2f }}, not 0 |
# | 3. clipped digits | {{ sort_clipped[4]:.2f }} | {{ sort_whole[4]:.2g }} | identity: {{ pixels_clipped:.3f }}, not 0 |
# | 4. no control | {{ distance["untrained"].mean():.2f }} < {{ distance["trained"].mean():.2f }} | {{ error["untrained"].mean():.2f }} > {{ error["trained"].mean():.2f }} | control: {{ unrelated["untrained"].mean():.2f }} and {{ unrelated["trained"].mean():.2f }} |
# | 5. early return | {{ by_class.min():.2f }} to {{ by_class.max():.2f }} | {{ full.accuracy:.2f }} | another order, another number |
# | 6. one draw | {{ draws.min().item():.2f }} to {{ draws.max().item():.2f }} | {{ wanted:.2f }} | another seed: ± {{ sd_draws:.2f }} |
# | 7. absolute norms | {{ absolute["conv1"].mean():.1f }}, {{ absolute["fc2"].mean():.2f }} | {{ scaled["conv1"].mean():.2f }}, {{ scaled["fc2"].mean():.2f }} | control; scale by 100 |
#
# ## The measurement with all its checks
#
# You have used the correct measurement since the top of this page: [`measure_pairs`][lab.exercise.measure_pairs] takes
# matched, unclipped, seeded and balanced pairs, normalises last, and returns each error with its controls. One check is
# left. Give it a network without weights, $f(x) = x$. An error that is not 0 is then the measurement's own.


# %%
class Pixels(torch.nn.Module):
    """f(x) = x."""

    STRIDES = {"pixels": 1}

    def __init__(self):
        super().__init__()
        self.pixels = torch.nn.Identity()

    def forward(self, x):
        return self.pixels(x)


identity = lab.measure_pairs(Pixels(), wide, ["pixels"])["pixels"]
conv1, fc1 = right_wide["conv1"], right_wide["fc1"]

# %% [markdown]
# | check | identity | `conv1` | `fc1` | must be |
# |---|---|---|---|---|
# | equivariance error, largest | {{ identity.equivariance.largest:.2g }} | {{ conv1.equivariance.largest:.2g }} | – | 0 |
# | control: wrong shift | {{ identity.wrong_shift.overall:.2f }} | {{ conv1.wrong_shift.overall:.2f }} | – | far from 0 |
# | sorted distance, largest | {{ identity.sorting.largest:.2g }} | {{ conv1.sorting.largest:.2g }} | – | 0 |
# | control: unrelated image | {{ identity.sorting_unrelated.overall:.2f }} | {{ conv1.sorting_unrelated.overall:.2f }} | – | far from 0 |
# | invariance error, mean | {{ identity.invariance.overall:.2f }} | {{ conv1.invariance.overall:.2f }} | {{ fc1.invariance.overall:.2f }} | what you ask |
# | translation undone, largest | {{ identity.undone.largest:.2g }} | {{ conv1.undone.largest:.2g }} | {{ fc1.undone.largest:.2g }} | 0 |
# | control: unrelated image | {{ identity.invariance_unrelated.overall:.2f }} | {{ conv1.invariance_unrelated.overall:.2f }} | {{ fc1.invariance_unrelated.overall:.2f }} | about 1 |
#
# Only when every line with a "must be" is right does the one without it mean anything.
#
# ## What you should have seen
#
# All seven mistakes run without an error and give plausible numbers. Two make an exact layer look broken, one hides every
# effect, two make a layer look invariant that is not, and two leave your number to chance. You do not need to know the mistake
# to catch it. The identity and the undone translation say what *must* be 0, the control says what a large number is, and
# another order or another seed says how far the number can be trusted. Be most careful with a number that agrees with
# what you expected: nobody looks for a mistake in it.
#
# ## Theory and observation

# %%
#| code-fold: true
#| code-title: "The claims"
EXACT = {
    "predicted": 0.0,
    "tolerance": 1e-6,
    "why": "float32: sums of 5 terms in another order differ by about √5 · 2⁻²⁴ = 1.3e-7 of their size",
    "kind": "exact",
}
SET = {"kind": "empirical"}
ratio = {
    "error": error["trained"] / error["untrained"],
    "distance": distance["trained"] / distance["untrained"],
}
lab.check(
    [
        lab.Claim(
            "1. fc1, translation undone, largest",
            "the same image twice",
            predicted=0.0,
            observed=undone_right,
            controls=(lab.Control("unmatched pairs", undone_wrong, ">=", 0.5),),
            kind="by construction",
            n=len(near),
        ),
        lab.Claim(
            "1. fc1, unmatched pairs less their control",
            "no effect to be seen",
            predicted=0.0,
            observed=lab.mean_error(fc1_unmatched[100:]) - fc1_control,
            controls=(
                lab.Control("matched pairs", fc1_near - fc1_control, "<=", -0.3),
            ),
            tolerance=0.1,
            why="pilot, three networks on both sets: −0.03 to 0.02, since the same 100 partners serve throughout; matched pairs −0.67 to −0.64",
            n=len(fc1_unmatched) - 100,
            **SET,
        ),
        lab.Claim(
            "2. conv1, sorted distance, largest",
            "translate, then normalise",
            observed=right_wide["conv1"].sorting.each.max().item(),
            controls=(
                lab.Control("normalise, then fill with 0", sort_banded, ">=", 0.05),
            ),
            n=len(wide),
            **EXACT,
        ),
        lab.Claim(
            "3. conv1, sorted distance, 4 px down, largest",
            "exact, ink inside",
            observed=clipped[4][whole[4]].max().item(),
            controls=(lab.Control("all digits", sort_clipped[4], ">=", 0.02),),
            n=int(whole[4].sum()),
            **EXACT,
        ),
        lab.Claim(
            "3. conv1, equivariance error, clipped digits too, largest",
            "exact on the overlap",
            observed=aligned_clipped,
            controls=(lab.Control("unrelated image", aligned_control, ">=", 0.5),),
            n=len(sample.labels),
            **EXACT,
        ),
        lab.Claim(
            "4. fc1, invariance error, trained over untrained, largest of three networks",
            "training helps",
            predicted=0.9,
            observed=ratio["error"].max().item(),
            controls=(
                lab.Control("absolute, least", ratio["distance"].min().item(), ">=", 5),
            ),
            relation="<=",
            why="pilot, three networks on both sets: at most 0.52; absolute distances at least 28 times larger",
            n=3,
            **SET,
        ),
        lab.Claim(
            "5. accuracy by the loop with early return, over ten orders: highest less lowest",
            "the order decides",
            predicted=0.2,
            observed=range_of_loop,
            controls=(lab.Control("over all images", range_of_all, "<=", 1e-3),),
            relation=">=",
            why="pilot, three networks on both sets: 0.41 to 0.81",
            n=10,
            **SET,
        ),
        lab.Claim(
            "6. spread of one draw over that of a displacement for each digit",
            "the displacement decides",
            predicted=5.0,
            observed=spread,
            controls=(
                lab.Control(
                    "a quarter of the digits", sd_quarter / sd_draws, "<=", 1.5
                ),
            ),
            relation=">=",
            why="pilot, three networks, five series of 40 draws, both sets: 18 to 29; a quarter of the digits 0.94 to 1.00",
            n=40,
            **SET,
        ),
        lab.Claim(
            "7. untrained conv1 over fc2, invariance error, largest of five networks",
            "of one order",
            predicted=2,
            observed=falls[0].max().item(),
            controls=(lab.Control("absolute, least", falls[1].min().item(), ">=", 10),),
            relation="<=",
            why="pilot, five networks on both sets: at most 1.25; absolute distances fall at least 298 times",
            n=5,
            **SET,
        ),
        lab.Claim(
            "f(x) = x: equivariance error, largest",
            "0, or the measurement is wrong",
            predicted=0.0,
            observed=identity.equivariance.each.max().item(),
            controls=(
                lab.Control("wrong shift", identity.wrong_shift.overall, ">=", 0.2),
            ),
            kind="exact",
            n=len(wide),
        ),
    ],
    data=mnist,
    seeds=[*range(5)],
)

# %% [markdown]
# ## Try it yourself
#
# **Exercise 1.** An eighth mistake: the wrong sign. Move the feature map by `-dy, -dx` instead of `dy, dx`. What does the
# equivariance error of `conv1` become, and which of the three checks finds it?
#
# **Exercise 2.** Repair mistake 6 without balance: draw one of the 80 displacements for *each* digit, by chance. How wide is
# the spread over 40 repetitions, and what does balance add?

# %%
#| fold: Solution 1
#| text: |
#|   The error becomes {{ flipped:.2f }}, of the size of the control ({{ conv1.unrelated.overall:.2f }}). The identity finds
#|   it: for f(x) = x it gives {{ flipped_identity:.2f }} where it must give 0. The translation undone does not find it: it compares two
#|   equal images and never moves a feature map. Each check sees some mistakes only; use all three.
maps = [act(x, "conv1") for x in (wide.first, wide.second)]
flipped = lab.mean_error(lab.aligned_error(*maps, -wide.dy, -wide.dx))
flipped_identity = lab.mean_error(
    lab.aligned_error(wide.first, wide.second, -wide.dy, -wide.dx)
)

# %%
#| fold: Solution 2
#| text: |
#|   The standard deviation is {{ each.std().item():.3f }}, beside {{ sd_designs:.3f }} with balance and {{ sd_draws:.2f }} for one
#|   draw. Hundreds of displacements are averaged now, and that is nearly all of the gain. What balance adds are equal counts,
#|   so that a curve of error against distance does not rest on few digits here and on many there.
each = torch.stack(
    [
        errors[torch.randint(80, (n,), generator=chance), torch.arange(n)].mean()
        for _ in range(40)
    ]
)

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: For f(x) = x your code gives a small sorted distance that is not 0. All ink stays inside the frame. What do you know?
#   choices:
#     - {text: "The identity is not quite equivariant.", why: "f(x) = x is equivariant by definition. No network and no layer is involved."}
#     - {text: "The measurement is wrong, by about that much.", right: true, why: "What is not 0 for f(x) = x comes from the code that measures."}
#     - {text: "It is rounding.", why: "Rounding in float32 is near 1e-7, and here nothing is even computed."}
# - question: You move clipped digits by 4 px. The sorted distance of `conv1` is not 0, the equivariance error on the overlap is. Which is right?
#   choices:
#     - {text: "Both: sorting misses the ink that has left; where both maps are defined they agree.", right: true, why: "Sorted distance compares which values there are in the whole map. The overlap leaves out what is not in both."}
#     - {text: "The sorted distance, because it looks at the whole map.", why: "It answers another question: it also sees the frame cut off ink."}
#     - {text: "Neither: clipped digits must never be used.", why: "On the overlap they are compared exactly. They only spoil what compares whole maps."}
# - question: A network has consistency 1 under translation, and κ = 0. What kind of network can that be?
#   choices:
#     - {text: "A perfectly invariant one that recognises all digits.", why: "Then its classes would differ between digits, and agreement would be beyond chance: κ = 1."}
#     - {text: "One that gives every image the same class.", right: true, why: "It agrees with itself always, and chance explains all of it. The lab then reports κ = 0."}
#     - {text: "An untrained one with random answers.", why: "Random answers agree seldom; their consistency is near one tenth."}
# - question: Which check would have caught a wrong sign of dy in the code that moves feature maps?
#   choices:
#     - {text: "the translation undone", why: "It compares two equal images and moves no feature map."}
#     - {text: "the identity", right: true, why: "For f(x) = x the moved picture must equal the picture of the moved image; with a wrong sign it does not."}
#     - {text: "running it again with another seed", why: "A wrong sign is wrong for every seed, and by about as much."}
# - question: Averaging over 1,000 digits that all move by the same random translation gives another number in each run. What makes it stable?
#   choices:
#     - {text: "10,000 digits", why: "They would still share one translation. A quarter of the digits had the same spread."}
#     - {text: "fixing the seed", why: "Then you get the same number each time, and it is still that of one translation."}
#     - {text: "a translation for each digit", right: true, why: "Then a thousand translations are averaged, not one."}
# ```
