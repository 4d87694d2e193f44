# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: The exercise with its own network on MNIST, all three tasks, and what it really shows.
# ---
# # 3. The lab
#
# A university exercise asks you to train a small network on MNIST, to show it pairs of mutually translated digits, and
# to check that convolutional layers are equivariant and fully connected layers invariant. Here you do it, exactly as
# given. One half of its theory comes out true to the last bit, the other half false, and neither because of training.
#
# !!! abstract "After this page you can"
#     - do all three tasks of the exercise with the network it gives;
#     - measure equivariance of a convolution, with two controls beside it;
#     - measure invariance of a linear layer, and say how far it is from invariant;
#     - explain why training makes no convolution equivariant, and no linear layer invariant.

# %%
import copy

import matplotlib.pyplot as plt
import torch

import lab
from lab.plotting import COLORS, CONTROL_LOOK, MARKERS, image_row, training_curve

SEED = 0
mnist = lab.load_mnist()

# %% [markdown]
# ## The exercise
#
# In substance, this is what it says. A function $f$ is *invariant* to a family of transformations $P_\alpha$ if
# $f(P_\alpha x) = f(x)$ for all $\alpha$, and *equivariant* if $f(P_\alpha x) = P_\alpha f(x)$ for all $\alpha$. In a
# trained CNN with pooling, convolutional layers are equivariant to translation and fully connected layers are
# invariant. Equivariance shows as permuted activations when the input is translated.
#
# The network it gives:
#
# ```python
# class Net(nn.Module):
#     def __init__(self):
#         super().__init__()
#         self.conv1 = nn.Conv2d(1, 1, kernel_size=2)
#         self.fc1 = nn.Linear(729, 10)
#
#     def forward(self, x):
#         x = self.conv1(x)
#         x_conv = x.clone().detach()
#         x = torch.flatten(F.relu(x), 1)
#         x = self.fc1(x)
#         x_fc = x.clone().detach()
#         return F.log_softmax(x, dim=1), x_conv, x_fc
# ```
#
# And the tasks:
#
# 1. train it on MNIST, without augmentation;
# 2. prepare a test set of pairs of mutually translated images;
# 3. extract the activations, and check whether they respect the property. *Hint: sorting is invariant to permutations.*
#
# !!! question "Predict before you run"
#     1. Which part of the theory can this network not test at all?
#     2. Will the convolution be more equivariant after training than before?
#     3. `fc1` sees the 27 × 27 = 729 activations one by one. When the digit moves by one pixel, does its output stay?
#
# Write your answers down. The rest of the page checks them one after another.

# %% [markdown]
# ## Task 1: train it
#
# [`lab.LabModel`][lab.models.LabModel] is that network, and [`lab.fit`][lab.training.fit] trains it on the digits as they
# are. Keep a copy of the untrained network: without it you cannot tell what the architecture gives from what training
# gives.

# %%
untrained = lab.build_model("given", seed=SEED)
trained = copy.deepcopy(untrained)
run = lab.fit(trained, mnist.train, cache=lab.data_root() / "checkpoints")
before, after = lab.evaluate(untrained, mnist.test), lab.evaluate(trained, mnist.test)

# %%
#| alt: >-
#|   Cross-entropy of each training batch against the epoch. It stays near its start at first, then falls steeply, and
#|   flattens out well before the end.
#| caption: >-
#|   The loss of each batch while training, and its mean over 25 batches. Guessing all ten digits alike gives
#|   ln 10 = 2.30 nats, which is where it starts.
training_curve(run.loss, epochs=3)

# %% [markdown]
# On {{ len(mnist.test):, }} test digits the untrained network is right in {{ before.accuracy:.1% }} of all cases, the
# trained one in {{ after.accuracy:.1% }}. That is little for MNIST: one channel and one linear layer are hardly more
# than a linear classifier. It is enough for the question.
#
# ## Task 2: pairs of mutually translated images
#
# Each pair is one digit at two places, all of its ink inside the frame at both.
# [`lab.translated_pairs`][lab.shifting.translated_pairs] draws the displacements evenly from the square of ±4 pixels without (0, 0), and
# the first place at random among those with room ([page 2](02_shifting.py) says why it takes this trouble). The margin
# of one pixel around the ink is for the 2 × 2 kernel: every window that touches ink then lies inside both images.

# %%
pairs = lab.translated_pairs(
    mnist.test.sample(2000, seed=SEED), max_shift=4, margin=1, seed=SEED
)
(
    tuple(pairs.first.shape),
    tuple(pairs.second.shape),
    pairs.dy[:5].tolist(),
    pairs.dx[:5].tolist(),
)

# %% [markdown]
# ## Task 3, first half: the convolution
#
# [`lab.activations`][lab.observing.activations] runs a network and keeps what each layer returns. Shift first and
# normalise afterwards; the other way round is one of the [seven mistakes](06_debug.py).

# %%
first = lab.activations(trained, lab.normalize(pairs.first))
second = lab.activations(trained, lab.normalize(pairs.second))
{name: tuple(values.shape) for name, values in first.items()}

# %%
#| code-fold: true
#| alt: >-
#|   Five panels: a digit, the feature map of the digit, that feature map translated, the feature map of the translated
#|   digit, and the difference of the last two, which is blank. A hatched strip has nothing to compare.
#| caption: >-
#|   One pair through the trained convolution. Third panel: the feature map of the digit, translated. Fourth: the
#|   feature map of the translated digit. Their difference is blank. Hatched: what would have to come from outside the map.
i = int(((pairs.dy.abs() >= 2) & (pairs.dx.abs() >= 3)).long().argmax())
dy, dx = int(pairs.dy[i]), int(pairs.dx[i])
f_x, f_Tx = first["conv1"][i, 0], second["conv1"][i, 0]
T_f_x = lab.shift(f_x, dy, dx, background=torch.nan)
image_row(
    [
        ("x", pairs.first[i, 0], "image"),
        ("f(x)", f_x, "feature"),
        (f"T f(x): {dy}, {dx} px", T_f_x, "feature"),
        ("f(T x)", f_Tx, "feature"),
        ("difference", f_Tx - T_f_x, "difference"),
    ],
    width=1.5,
)

# %% [markdown]
# One picture proves little. So measure all pairs, with the [equivariance error](../glossary.md#equivariance)
#
# $$
# E = \frac{\norm{M \, (f(T x) - T f(x))}}{\norm{M \, T f(x)}},
# $$
#
# where $M$ keeps the [overlap](../glossary.md#overlap): the positions at which both are defined. And measure twice what
# must *not* agree, the [controls](../glossary.md#control): the feature map of another digit, translated correctly; and
# that of the same digit, one pixel off.


# %%
def conv_errors(network):
    """Equivariance error of conv1 for each pair, and its two controls."""
    a, b = (
        lab.activations(network, lab.normalize(x), ["conv1"])["conv1"]
        for x in (pairs.first, pairs.second)
    )
    exact = lab.aligned_error(a, b, pairs.dy, pairs.dx)
    unrelated = lab.aligned_error(a[lab.derangement(len(a))], b, pairs.dy, pairs.dx)
    wrong = lab.aligned_error(
        a, b, pairs.dy + torch.where(pairs.dy > 0, -1, 1), pairs.dx
    )
    return exact, unrelated, wrong


conv = {"untrained": conv_errors(untrained), "trained": conv_errors(trained)}

# %% [markdown]
# | conv1 | largest error of all pairs | mean, unrelated digit | mean, one pixel off |
# |---|---|---|---|
# | untrained | {{ conv["untrained"][0].max():.2g }} | {{ conv["untrained"][1].mean():.2f }} | {{ conv["untrained"][2].mean():.2f }} |
# | trained | {{ conv["trained"][0].max():.2g }} | {{ conv["trained"][1].mean():.2f }} | {{ conv["trained"][2].mean():.2f }} |
#
# ??? success "Answer to question 2"
#     No. The convolution is equivariant before any training, to the last bit or nearly so, and training cannot improve
#     on that. The controls show that the measurement could have failed.
#
# ### Why training has nothing to do with it
#
# Write $w$ for the kernel, $b$ for the bias, $k$ for a position in the kernel and $t$ for the shift. At an output
# position $j$ of the overlap,
#
# $$
# f(T_t x)[j] = b + \sum_k w[k] \, (T_t x)[j + k] = b + \sum_k w[k] \, x[j - t + k] = f(x)[j - t] = (T_t f(x))[j].
# $$
#
# The values of $w$ play no part. What counts is that the same $w$ is used at every $j$: *weight sharing* makes the
# layer equivariant, and it is there from the first moment. Even the rounding is the same: each output is the
# same few numbers, multiplied and added in the same order (a library may choose another order for another
# position, which is why the claim below allows for rounding).
#
# ### The hint: sort
#
# If the feature map moves along with the digit, the same values stand at other places, and sorting them undoes the
# difference. [`lab.sorted_distance`][lab.metrics.sorted_distance] is that test, on the scale of unrelated images.

# %%
other = lab.derangement(len(pairs), seed=1)  # seed 0 makes the scale of the errors
sorted_same = lab.sorted_distance(first["conv1"], second["conv1"])
sorted_other = lab.sorted_distance(first["conv1"], second["conv1"][other])

# %% [markdown]
# Largest distance of all pairs: {{ sorted_same.max():.2g }}; mean distance of unrelated digits: {{ sorted_other.mean():.2f }}.
# The test passes. But it would pass for many a layer that is *not* equivariant, and fail for a convolution whose digit
# touches the frame: that is [page 4](04_sorting.py).
#
# ## Task 3, second half: the fully connected layer
#
# Invariance is the special case in which the output stays: $f(T x) = f(x)$. The [invariance error](../glossary.md#invariance) puts the distance
# $\norm{f(T x) - f(x)}$ in relation to the mean distance between the outputs for *unrelated* digits: 0 is
# invariant, 1 is as different as another digit.


# %%
def fc_errors(network):
    """Invariance error of fc1: pairs, unrelated digits, and the translation undone."""
    back = lab.shift(pairs.second, -pairs.dy, -pairs.dx)
    dtype = network.fc1.weight.dtype
    images = (x.to(dtype) for x in (pairs.first, pairs.second, back))
    a, b, undone = (
        lab.activations(network, lab.normalize(x), ["fc1"])["fc1"] for x in images
    )
    return (
        lab.invariance_error(a, b),
        lab.invariance_error(a, b[other]),
        lab.invariance_error(a, undone),
    )


fc = {"untrained": fc_errors(untrained), "trained": fc_errors(trained)}

# %%
#| code-fold: true
#| alt: >-
#|   Invariance error of fc1 against the distance of the shift, for the untrained and the trained network. The trained curve rises
#|   with the distance, from a value well above 0; the untrained one lies higher, close to the control, unrelated
#|   digits, which is at about 1.
#| caption: >-
#|   How far the output of fc1 changes when the digit moves. Invariant would be 0 throughout. The grey line is what an
#|   unrelated digit does.
fig, ax = plt.subplots()
groups = lab.group_by_distance(pairs)
for (name, errors), color, marker in zip(fc.items(), COLORS, MARKERS, strict=False):
    ax.plot(
        list(groups),
        [errors[0][g].mean() for g in groups.values()],
        color=color,
        marker=marker,
        label=name,
    )
ax.plot(
    list(groups),
    [fc["trained"][1][g].mean() for g in groups.values()],
    **CONTROL_LOOK,
    label="unrelated digit",
)
ax.set(
    xlabel="distance max(|dy|, |dx|) (px)",
    ylabel="invariance error of fc1",
    ylim=(0, None),
    xticks=list(groups),
)
ax.legend()

# %%
scores = [lab.predict(trained, images) for images in (pairs.first, pairs.second)]
agreement, kappa = lab.consistency(*scores), lab.cohen_kappa(*scores)

# %% [markdown]
# ??? success "Answer to question 3"
#     The output changes with the first pixel. Over all pairs the error of fc1 is {{ fc["trained"][0].mean():.2f }} after
#     training ({{ fc["untrained"][0].mean():.2f }} before). Moving the translated image back gives
#     {{ fc["trained"][2].max():.2g }}, so pairs are matched; unrelated digits give {{ fc["trained"][1].mean():.2f }}. The predicted
#     class is the same for both members of {{ agreement:.0% }} of the pairs, Cohen's κ = {{ kappa:.2f }}.
#
# Why? A linear layer gives $\sum_i W[i] \, a[i]$ with a weight of its own for every position $i$. For the output to
# stay when any pattern $a$ moves, $W[i] = W[i - t]$ must hold for all $i$ and $t$: the weights of one class have to be
# constant over all positions that a translation can reach (along its [orbit](../glossary.md#orbit)). Nothing in the layer
# makes them so, and training on centred digits gives no reason to.
#
# You can make them so. Replace the weights of each class by their mean, and nothing else. (In float64, to tell rounding
# from a real difference: a rounding error shrinks with the precision, a real one does not.)

# %%
constant = copy.deepcopy(trained)
with torch.no_grad():
    constant.fc1.weight[:] = trained.fc1.weight.mean(1, keepdim=True)
constant_accuracy = lab.evaluate(constant, mnist.test).accuracy
constant_errors = fc_errors(constant.double())[0]

# %% [markdown]
# Now `fc1` *is* invariant: largest error {{ constant_errors.max():.1g }}, which is rounding. And it is useless: its accuracy is
# {{ constant_accuracy:.1% }}, for all it can see of a digit is one number, the sum of its activations. That is
# the price of invariance in one layer, and the reason why networks keep positions for so long.
#
# ??? success "Answer to question 1"
#     Pooling, and any convolution after the first. The text speaks of a CNN with pooling; its network has no pooling and a
#     single convolution. [Page 5](05_pooled.py) does the exercise with the network that the text describes.
#
# ## What you should have seen
#
# - The convolution is equivariant, exactly, wherever both sides are defined: trained or not. Weight sharing does it.
# - The fully connected layer is not invariant, trained or not. Training lowers its error, most of all for small shifts;
#   over all pairs it is still {{ fc["trained"][0].mean():.0%}} of what another digit does.
# - A linear layer is invariant if its weights are constant along orbits; then it sees nothing but sums.
# - Each statement has a measurement beside it that had to come out differently: unrelated digits, a wrong shift, the translation
#   undone.
#
# ## Theory and observation


# %%
#| code-fold: true
def exact(name, observed, control):
    """Exact in theory; float32 may differ by the rounding of a sum of 5 terms."""
    why = "float32: 4 products and a bias, in another order, differ by about √5 · 2⁻²⁴ = 1e-7"
    worst = observed.max().item()
    return lab.Claim(name, "exact", 0.0, worst, (control,), tolerance=5e-7, why=why)


def unrelated(control):
    """The same measurement between different digits."""
    return lab.Control("unrelated digit", control.mean().item(), ">=", 0.5)


# %%
#| code-fold: true
def broken(name, errors):
    """Not invariant in theory; controlled by the translation undone."""
    undone = lab.Control("translation undone", errors[2].max().item(), "<=", 1e-6)
    why = "6,000 times the typical rounding of a sum of 729 terms, √729 · 2⁻²⁴ = 1.6e-6"
    observed = errors[0].mean().item()
    return lab.Claim(
        name, "not invariant", 0.01, observed, (undone,), relation=">=", why=why
    )


# %%
#| code-fold: true
as_trained = lab.Control(
    "weights as trained", fc["trained"][0].mean().item(), ">=", 0.01
)
on_overlap = "conv1: equivariance error on the overlap"
lab.check(
    [
        *(
            exact(f"{name} {on_overlap}", e, unrelated(control))
            for name, (e, control, _) in conv.items()
        ),
        exact("trained conv1: sorted distance", sorted_same, unrelated(sorted_other)),
        *(
            broken(f"{name} fc1: invariance error", errors)
            for name, errors in fc.items()
        ),
        lab.Claim(
            "fc1 with weights constant over positions: invariance error",
            *("exact", 0.0, constant_errors.max().item(), (as_trained,)),
            tolerance=1e-12,
            why="float64: √729 · 2⁻⁵³ = 3e-15 of a sum; enough even if that sum is 300 × the distance of two digits",
        ),
    ],
    data=mnist,
    seeds=[SEED],
)

# %% [markdown]
# ## Try it yourself
#
# In the [live lab](../live.md) you can drag a digit through this network, trained and untrained, with every layer in view.
#
# **Exercise 1.** Is the exactness of the untrained convolution luck of seed 0? Test ten other untrained networks.

# %%
#| fold: "Solution 1"
#| text: >-
#|   The proof says that the weights play no part, so no seed may differ. The largest error of ten networks:
max(
    conv_errors(lab.build_model("given", seed=seed))[0].max().item()
    for seed in range(1, 11)
)

# %% [markdown]
# **Exercise 2.** Give the convolution a padding of one pixel of zeros, so that its output is larger than the
# overlap argument assumed. Measure the error again. Is it still 0 everywhere? *Hint: what does a padded pixel hold, and
# what does a background pixel hold after normalisation?*

# %%
#| fold: "Solution 2"
#| text: >-
#|   Zero is not the background: after normalisation the background is −0.424. The padding draws a frame around the
#|   image that does not move along with the digit, so the outermost rows and columns of the map differ. Leave them out on both
#|   sides, and the error is 0 again. This border is what [page 5](05_pooled.py) follows through a whole network.
padded = copy.deepcopy(trained)
padded.conv1.padding = (1, 1)
a, b = (padded.conv1(lab.normalize(x)).detach() for x in (pairs.first, pairs.second))
inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
everywhere = lab.aligned_error(a, b, pairs.dy, pairs.dx).mean().item()
interior = lab.aligned_error(a[inside], b[inside], pairs.dy, pairs.dx).max().item()
f"mean error with the border {everywhere:.3f}, largest without it {interior:.1g}"

# %% [markdown]
# **Exercise 3.** A network that always gives the same class to both members of a pair is perfectly consistent. Find out
# what the untrained network of seed 31 does, and why you should not be impressed.

# %%
#| fold: "Solution 3"
#| text: >-
#|   Its only channel is negative for every digit, so ReLU makes all activations 0, and `fc1` gives its bias
#|   whatever it sees. Consistency is 1, κ, which takes chance agreement off, is 0. The invariance error is 0/0: not a
#|   number, for such a layer shows nothing about translation. It is invariant, as every constant is; an error of 0
#|   would have passed that off as a finding.
dead = lab.build_model("given", seed=31)
dead_scores = [lab.predict(dead, images) for images in (pairs.first, pairs.second)]
undefined = lab.invariance_error(*dead_scores).isnan().all().item()
f"consistency {lab.consistency(*dead_scores):.3f}, κ {lab.cohen_kappa(*dead_scores):.3f}, error undefined: {undefined}"
