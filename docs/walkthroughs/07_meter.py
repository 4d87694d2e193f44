# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: Measure any nn.Module layer by layer, and read what is border, what is stride and what is global.
# ---
# # 7. Point the meter at your own model
#
# So far you knew every stride and every padding of the network, and wrote the comparison by hand. Of a ResNet you know
# neither by heart. [`lab.meter`][lab.metering.instrument.meter] finds out what each layer sees, translates your images, and splits
# every error into what the [border](../glossary.md#border) made, what the stride made, and what is left. Here it meets a
# small CNN that you know, four networks from a model zoo, and one that you write.
#
# !!! abstract "After this page you can"
#
#     - find stride, receptive field and interior of any layer without knowing what it computes;
#     - read the profile of a network: which of its errors are border, which are stride, and where it turns global;
#     - say, of ResNet, MobileNet, ConvNeXt and ViT, up to which layer translation equivariance is exact;
#     - assert equivariance of your own module in a test, and read the message when it fails.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import lab
from lab.plotting import image_row

SEED = 0
mnist = lab.load_mnist()
plain = mnist.test.sample(64, seed=SEED).images  # background 0
digits = lab.normalize(plain)

# %% [markdown]
# ## How do you measure what you do not know?
#
# A layer is equivariant away from the border. But which of its outputs are away from it? You could follow kernels,
# strides and paddings through the network, as on [page 5](05_pooled.py). That works for a chain of known layers, and not
# for somebody's `forward`. Another way needs no formula: put `nan` into some input pixels. Arithmetic on `nan` gives `nan`,
# and so do convolution, ReLU, pooling and normalisation. So an output that stays a number does not see those pixels, unless the
# network compares or selects: `torch.where(x > 0, …)` hides them. Where nothing is left to see, the meter says *untestable*.
#
# !!! question "Predict before you run"
#
#     The top two rows of an image are `nan`. The network is convolution 3 × 3, ReLU, pooling 2 × 2, convolution 3 × 3, with a
#     padding of 1. How many rows of the last layer are `nan`?

# %%
torch.manual_seed(SEED)
padded = lab.PooledCNN(padding=1).eval()
marked = digits[:1].clone()
marked[:, :, :2] = torch.nan
seen = lab.activations(padded, marked, ["conv1", "pool1", "conv2"])
{layer: int(a[0, 0].isnan().all(1).sum()) for layer, a in seen.items()}

# %%
#| alt: >-
#|   Four pictures. The first is a digit whose top two rows are hatched. In the others, the maps of conv1, pool1 and
#|   conv2, the hatched part at the top is three, two and three rows high.
#| caption: >-
#|   Hatched: `nan`. The top two rows of the digit reach three rows of `conv1`, two of the half as fine `pool1`, three of
#|   `conv2`.
#| code-fold: true
panels = [
    ("x, two rows nan", plain[0, 0].where(~marked[0, 0].isnan(), torch.nan), "image")
]
image_row(panels + [(layer, a[0, 0], "feature") for layer, a in seen.items()])

# %% [markdown]
# ??? success "Answer"
#
#     Three. An output of `conv2` has a window of $R = 8$ rows. The first window begins at row $-P = -3$, the next
#     ones $S = 2$ rows later each: $-1, 1, 3, \dots$ The windows that hold row 0 or 1 begin at $-3$, $-1$ and $1$.
#
# [`trace`][lab.metering.receptive_fields.trace] widens such strips from every side, pixel by pixel, and reads $S$, $R$ and $P$ off the
# outputs that stay numbers. So it holds for residual sums, functional calls, and layers that return tuples. The
# [interior](../glossary.md#interior) of a layer is what follows: the outputs whose windows lie inside the image.

# %%
found = lab.trace(padded, digits[:1])
for layer in ("conv1", "pool1", "conv2", "pool2"):
    axis = found[layer].grid.y
    first, last = axis.interior[0], axis.interior[-1]
    print(
        f"{layer}: S = {axis.stride}, R = {axis.receptive_field}, P = {-axis.offset}, interior {first} to {last} of {axis.outputs}"
    )


# %% [markdown]
# Is it right? Two tests: the closed formula for a chain of layers
# ([Araujo et al. 2019](../references.md#araujo2019)), and an experiment. Compare f(T x) and T f(x) on the interior of
# both, then with one row and column more.


# %%
def formula(chain: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    """S, R and P along one axis, from kernel, stride and padding of each layer."""
    s, r, p = 1, 1, 0
    for kernel, stride, pad in chain:
        r, p, s = r + (kernel - 1) * s, p + pad * s, s * stride
    return s, r, p


to_pool2 = [(3, 1, 1), (2, 2, 0), (3, 1, 1), (2, 2, 0)]  # conv1, pool1, conv2, pool2
axis = found["pool2"].grid.y
traced = axis.stride, axis.receptive_field, -axis.offset
differ = sum(a != b for a, b in zip(formula(to_pool2), traced, strict=True))
formula(to_pool2), traced


# %%
def error_within(low: int, high: int) -> float:
    """Largest error of conv2 over rows and columns low to high, under a shift by 2 px."""
    moved = lab.shift(digits, 2, 2, background=lab.data.BACKGROUND)
    a, b = (lab.activations(padded, x, ["conv2"])["conv2"] for x in (digits, moved))
    part = slice(low, high + 1), slice(low, high + 1)
    there = slice(low - 1, high), slice(low - 1, high)
    return lab.equivariance_error(b[:, :, *part], a[:, :, *there]).max().item()


rows = found["conv2"].grid.y.interior
tight, wider = error_within(rows[0] + 1, rows[-1]), error_within(rows[0], rows[-1])
tight, wider

# %% [markdown]
# On the interior of both images the largest error is {{ tight:.1g }}, with one row and column more it is
# {{ wider:.2g }}. At the top and on the left the traced interior is as large as it can be.
#
# ## A report that you can check
#
# Now the meter on a network that you know, `PooledCNN` without padding, untrained. All 16 remainders that a shift can
# leave when divided by 4, the largest total stride:

# %%
pooled = lab.build_model("pooled", seed=SEED).eval()
phases = [(dy, dx) for dy in range(1, 5) for dx in range(1, 5)]
report = lab.meter(pooled, digits, phases, background=lab.data.BACKGROUND)
report

# %% [markdown]
# Each line is a layer. *Interior* and *border* are errors at shifts that the stride divides. *Off stride* is the error at
# the others, where no whole move of the map is right and the best one is taken for each image. *Control* is the error of
# an unrelated image. *Theory* is what the architecture says, and in two places the weights: ρ, and parameters with a value
# for each position. The meter does not look at the errors to say it, but for one case: where a global layer happens to be
# exact, because nothing but blank background meets the border, it says *untestable*. A prediction that the measurement refutes is
# marked ✗.
#
# !!! question "Predict before you run"
#
#     Draw the error of `pool2` against the remainder of `dy` and `dx`: 4 × 4 cells. Which are 0? Which is largest?

# %%
#| alt: >-
#|   Three squares of cells: conv1 with one cell, 0; pool1 with two by two, 0 at the top left; pool2 with four by four,
#|   0 at the top left, and larger values everywhere else.
#| caption: >-
#|   Equivariance error by what the total stride leaves of the shift, rows dy, columns dx. Only the cell 0, 0 is exact.
#| code-fold: true
figure, grid = plt.subplots(1, 3, figsize=(7.2, 2.6), layout="constrained")
for axes, layer in zip(grid, ("conv1", "pool1", "pool2"), strict=True):
    values = report.off_stride(layer)
    axes.imshow(values, cmap="viridis", vmin=0, vmax=0.8)
    cells = torch.cartesian_prod(*map(torch.arange, values.shape)).tolist()
    for y, x in cells:
        ink = "black" if values[y, x] > 0.4 else "white"
        axes.text(x, y, f"{values[y, x]:.2g}", ha="center", va="center", color=ink)
    labels = {"xlabel": f"dx mod {len(values)}", "ylabel": f"dy mod {len(values)}"}
    axes.set(title=layer, xticks=[], yticks=[], **labels)
row, column = divmod(int(values.argmax()), len(values))
worst_cell = f"dy = {row}, dx = {column}"  # of pool2

# %% [markdown]
# ??? success "Answer"
#
#     One cell, 0, 0: the stride has to divide both. The largest here is {{ worst_cell }}. How large the others are depends on images
#     and weights, too. Theory says *broken*; how badly is an observation.
#
# ## Four networks from the model zoo
#
# Architecture alone decides what is exact, but for weights that are special. So take the networks untrained, and show them images whose spectrum is that
# of photographs ([Field 1987](../references.md#field1987)), made from random numbers.
#
# !!! question "Predict before you run"
#
#     A ResNet-18 ([He et al. 2016](../references.md#he2016)), images of 224 × 224 px, translated by 16 px down and to the
#     left; zeros enter. In `layer2.1.conv2`, f(T x) and T f(x) are far from equal. How much of that is border, how much
#     is stride, how much is left?

# %%
SHIFTS = [(1, -1), (16, -16), (32, -32)]
WHAT = ("equivariance", "invariance")  # sorting takes as long as the rest
clouds = lab.fractal_images(4, (224, 224), seed=SEED)


def network(name: str) -> nn.Module:
    """A network of torchvision with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return torchvision.models.get_model(name, weights=None).eval()


def profile(name: str, images: torch.Tensor) -> lab.Report:
    """What the meter finds of it, under the shifts above."""
    return lab.meter(network(name), images, SHIFTS, quantities=WHAT, seed=SEED)


resnet = profile("resnet18", clouds)
row = next(row for row in resnet.of("layer2.1.conv2") if row.dy == 16)
f"full {row.full:.2g}, interior {row.interior:.2g}, border {row.border:.2g}"

# %% [markdown]
# ??? success "Answer"
#
#     All of it is border. The stride of that layer is 8, which divides 16, so no part of it is stride. And where no
#     window reaches beyond the image, nothing is left: {{ row.interior:.1g }}. The error of the full frame,
#     {{ row.full:.2g }}, says how much of the map sees the frame, and nothing about the convolutions.

# %%
#| alt: >-
#|   Errors of the 60 layers of ResNet-18 on a logarithmic scale. Interior errors lie on the zero line and end in layer3.
#|   Border and off-stride errors lie between 0.1 and 1, below the control.
#| caption: >-
#|   ResNet-18. Blue: away from the border and on the stride, exactly 0. It ends where the receptive field leaves no two outputs to
#|   compare; soon every output sees the border. Every other error of a map is border or stride.
resnet.plot()

# %% [markdown]
# Read it from left to right. **Interior** lies on 0 as long as there is an interior. It shrinks:
# {{ len(resnet.geometry["conv1"].grid.y.interior) }} of {{ resnet.geometry["conv1"].grid.y.outputs }} rows in `conv1`,
# {{ len(resnet.geometry["layer3.1.conv1"].grid.y.interior) }} of
# {{ resnet.geometry["layer3.1.conv1"].grid.y.outputs }} in `layer3.1.conv1`. **Border** does not. **Off stride** is
# broken from the first strided convolution on, and no later layer mends it. In `layer4` the receptive field is too large for the
# image: no window fits inside, and no output is free of the border, so that theory says nothing that could be tested at this size. The two
# layers without positions, `avgpool` and `fc`, have an invariance error instead.
#
# Next a MobileNet ([Howard et al. 2019](../references.md#howard2019)). Its blocks hold *squeeze-and-excitation*: what the
# means of all channels over the whole map say, scales each channel ([Hu et al. 2018](../references.md#hu2018)).
#
# !!! question "Predict before you run"
#
#     How many layers of MobileNetV3 have an interior, at 224 px?

# %%
#| alt: >-
#|   Errors of the layers of MobileNetV3. The interior errors, on the zero line, are those of the first six layers only.
#|   All later maps have a border error and no interior.
#| caption: >-
#|   MobileNetV3-small. After the first squeeze-and-excitation every output sees the whole image, its border included. What was
#|   exact is gone for good, although every convolution after it is as local as any.
mobilenet = profile("mobilenet_v3_small", clouds)
mobilenet.plot()

# %% [markdown]
# ConvNeXt ([Liu et al. 2022](../references.md#liu2022)) has no batch normalisation and no squeeze-and-excitation. It
# normalises the channels of each position by themselves, and its kernels are 7 × 7.

# %%
#| alt: >-
#|   Errors of the layers of ConvNeXt-tiny. Interior errors lie on the zero line through the first two stages, then end.
#|   Border errors lie between 0.1 and 1, but for three pairs of layers where they are below one millionth.
#| caption: >-
#|   ConvNeXt-tiny. Interior errors are 0 until the large kernels have used up the image. Three pairs of layers have a
#|   border error of almost 0: those between the stages.
convnext = profile("convnext_tiny", clouds[:2])
convnext.plot()

# %% [markdown]
# Why almost 0, and just there? These layers take sums $x + \gamma\, g(x)$ of the blocks before them. The padding is in
# $g$, and ConvNeXt begins its training with $\gamma = 10^{-6}$. So of what the border does in an *untrained* ConvNeXt,
# a millionth enters the sums. Set every $\gamma$ to 1, and measure one of these layers, `features.2.1`, again.

# %%
scaled = network("convnext_tiny")
for parameter_name, parameter in scaled.named_parameters():
    if parameter_name.endswith("layer_scale"):
        nn.init.ones_(parameter)
one = {"layers": ["features.2.1"], "quantities": WHAT, "seed": SEED}
border_of_ones = lab.meter(scaled, clouds[:2], SHIFTS[1:2], **one).rows[0].border
border_as_is = convnext.of("features.2.1")[1].border
f"border: {border_as_is:.1g} as it is, {border_of_ones:.2g} with every γ = 1"

# %% [markdown]
# A small error is a finding only if you know why. Last, a vision transformer
# ([Dosovitskiy et al. 2021](../references.md#dosovitskiy2021)). It cuts the image into patches of 16 × 16 px, adds a learned
# value to each, the *position embedding*, and lets every patch attend to all others.

# %%
#| alt: >-
#|   Errors of the layers of ViT-B/16. Only the first layer has an interior error of zero. The two layers after it have an
#|   interior too, and an error above 0.01. All others have no interior.
#| caption: >-
#|   ViT-B/16. The first layer is a convolution with stride 16, exact at shifts by multiples of 16 px. The next adds the
#|   position embedding: broken, inside too. The attention after it is global.
vit = profile("vit_b_16", clouds[:2])
vit.plot()


# %%
def summary(report: lab.Report) -> str:
    """How many layers keep positions, how many are exact somewhere, and the last of these."""
    maps = [name for name, layer in report.geometry.items() if layer.grid]
    exact = [row.layer for row in report.rows if row.observed == row.theory == "exact"]
    return f"{len(set(exact))} of {len(maps)} maps exact, the last is {exact[-1]}"


zoo = {"ResNet-18": resnet, "MobileNetV3": mobilenet, "ConvNeXt": convnext, "ViT": vit}
print("\n".join(f"{name}: {summary(one)}" for name, one in zoo.items()))

# %% [markdown]
# ??? success "Answer"
#
#     MobileNetV3 has six: the stem and the first convolution of the first block, each with its normalisation and activation. The mean
#     in the first squeeze-and-excitation sees all pixels, the border included, and scales every output with it.
#
# Four ways to lose exactness, then, and the profile tells them apart:
#
# | what you see | what it is | example |
# |---|---|---|
# | interior 0, border not | padding, and what left the frame | every padded convolution |
# | interior 0 at some shifts, not at others | stride | every layer after the first strided one |
# | no interior, from a certain layer on | a global operation, or a receptive field too large for the image | squeeze-and-excitation; `layer4` of ResNet-18 |
# | interior not 0, although the stride divides the shift | values that depend on position, or a defect | position embedding |
#
# Is the last one really the position embedding? Set it to zero, and measure again.

# %%
placeless = network("vit_b_16")
nn.init.zeros_(placeless.encoder.pos_embedding)
tokens = {
    "layers": ["encoder.dropout"],
    "quantities": WHAT,
    "seed": SEED,
}  # enter the first block
without = lab.meter(placeless, clouds[:2], SHIFTS[1:2], **tokens).rows[0].error
with_positions = vit.of("encoder.dropout")[1].error
f"with position embedding {with_positions:.2g}, without {without:.1g}"

# %% [markdown]
# ## Write your own, and assert on it
#
# Your module has a stride, a residual sum, and perhaps a mistake: it adds to its input how far down a row is, from 0 to 1, much as CoordConv
# feeds a network its own coordinates ([Liu et al. 2018](../references.md#liu2018)). That is fine if you want positions to
# matter. If you do not, a test should say so.


# %%
class Block(nn.Module):
    """A strided convolution and a residual sum; with `coordinates`, rows know where they are."""

    def __init__(self, coordinates: bool) -> None:
        super().__init__()
        self.coordinates = coordinates
        self.down = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.coordinates:
            x = x + torch.linspace(0, 1, x.shape[2], dtype=x.dtype)[:, None]
        x = F.relu(self.down(x))
        return x + F.relu(self.conv(x))


# %%
def check_block(coordinates: bool) -> str:
    torch.manual_seed(SEED)
    block, shifts = Block(coordinates), [(2, 0), (0, 4)]
    try:
        lab.assert_equivariant(
            block, digits, layer="conv", shifts=shifts, background=lab.data.BACKGROUND
        )
    except AssertionError as error:
        return f"failed: {error}"
    return "passed"


print(check_block(coordinates=False))
print(check_block(coordinates=True))

# %% [markdown]
# In your own project that is three lines of pytest. From a terminal:
#
# ```sh
# lab meter torchvision:resnet18 --shifts "1,1 16,16" --plot profile.png
# lab meter mypackage.models:make_model --size 96 96 --json > report.json
# ```
#
# ## What you should have seen
#
# What a layer sees can be traced with `nan`, and the outputs that see no border are those for which the comparison is exact. In
# ResNet, MobileNet and ConvNeXt, every convolution, pooling, normalisation and activation that has an interior has an
# error of 0 there, wherever its stride divides the shift; in ViT the first convolution has, and what follows adds the
# position embedding. What is left is border or stride. A receptive field too large for the image, a global operation, or values that depend on position end it. Nothing here was trained.
#
# ## Theory and observation

# %%
#| code-fold: true
EXACT = {
    "tolerance": 4e-6,
    "why": "float32: sums of up to 4,608 terms in another order differ by about √4608 · 2⁻²⁴ = 4e-6 of their size",
}
BROKEN = {"relation": ">=", "why": "100 × what rounding can do"}
claims = [
    lab.Claim(
        "trace: numbers among S, R and P of pool2 that differ from the closed formula",
        "none",
        predicted=0,
        observed=differ,
        controls=(
            lab.Control("error on the traced interior", tight, "<=", 4e-6),
            lab.Control("with one row and column more", wider, ">=", 1e-3),
        ),
    )
]
for name, one in {"PooledCNN": report, **zoo}.items():
    exact = [row for row in one.rows if row.theory == "exact" and (row.dy or row.dx)]
    off = [
        row.error for row in one.rows if "does not divide" in row.why and row.dy == 1
    ]
    controls = (
        lab.Control(
            "wrong shift, least", min(r.wrong_shift for r in exact), ">=", 1e-2
        ),
        lab.Control("1 px, off stride, least", min(off), ">=", 1e-2),
    )
    worst = max(row.interior for row in exact)
    claims.append(
        lab.Claim(
            f"{name}: largest interior error where S divides the shift",
            "exact",
            0.0,
            worst,
            controls,
            **EXACT,
        )
    )
after = mobilenet.of("features.1.block.2.0")[1]
before = mobilenet.of("features.1.block.0.2")[1]
claims += [
    lab.Claim(
        "MobileNetV3: error at 16 px behind the first squeeze-and-excitation",
        "broken everywhere",
        predicted=4e-4,
        observed=after.error,
        controls=(lab.Control("before it, interior", before.interior, "<=", 4e-6),),
        **BROKEN,
    ),
    lab.Claim(
        "ViT: interior error at 16 px with the position embedding",
        "broken",
        predicted=4e-4,
        observed=with_positions,
        controls=(lab.Control("without it", without, "<=", 4e-6),),
        **BROKEN,
    ),
    lab.Claim(
        "ConvNeXt: border error of features.2.1 at 16 px with every γ = 1",
        "broken",
        predicted=4e-4,
        observed=border_of_ones,
        controls=(lab.Control("with γ = 1e-6", border_as_is, "<=", 1e-5),),
        **BROKEN,
    ),
]
lab.check(claims, data=mnist, seeds=[SEED])

# %% [markdown]
# ## Try it yourself
#
# **Exercise 1.** Make ResNet-18 exact everywhere, with circular padding in every convolution and in the pooling, and with
# circular shifts. At which shifts is its *output* invariant?
#
# **Exercise 2.** Take the squeeze-and-excitation out of MobileNetV3, by putting `nn.Identity()` in its place. Up to where is
# the network exact now, and what ends it?


# %%
#| fold: Solution 1
#| text: >-
#|   At multiples of 32 px, the total stride: every map then moves by whole positions, and the mean over all positions
#|   does not notice. Only rounding is left, as float64 shows. At 16 px the last stage is off stride.
class CircularPool(nn.MaxPool2d):
    """Maximum over 3 × 3 with stride 2, padded circularly."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.pad(x, (1, 1, 1, 1), mode="circular"), 3, 2)


# %%
#| fold: Solution 1, the convolutions
def circular(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution, padded circularly."""
    sizes = (
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
    )
    copy = nn.Conv2d(*sizes, bias=False, padding_mode="circular").eval()
    copy.weight = conv.weight
    return copy


# %%
#| fold: Solution 1, measured
circular_resnet = network("resnet18")
for name, module in list(circular_resnet.named_modules()):
    if isinstance(module, nn.Conv2d) and module.padding != (0, 0):
        owner, _, last = name.rpartition(".")
        setattr(circular_resnet.get_submodule(owner), last, circular(module))
circular_resnet.maxpool = CircularPool(3, 2)
turns, round_clouds = [(32, 64), (16, 0)], lab.fractal_images(2, (96, 96), seed=SEED)
options = {"mode": "wrap", "quantities": WHAT, "layers": ["fc"]}
around = lab.meter(circular_resnet, round_clouds, turns, **options)
for row in around.rows:
    print(row.dy, row.dx, row.theory, f"{row.error:.1g}, float64 {row.in_float64}")

# %%
#| fold: Solution 2
#| text: >-
#|   Interiors come back, until the receptive field has outgrown the image: nothing but convolutions, normalisations and activations is
#|   left. What ends it now would be mended by a larger image.
lean = network("mobilenet_v3_small")
for name, module in list(lean.named_modules()):
    if isinstance(module, torchvision.ops.SqueezeExcitation):
        owner, _, last = name.rpartition(".")
        setattr(lean.get_submodule(owner), last, nn.Identity())
summary(lab.meter(lean, clouds[:2], SHIFTS, quantities=WHAT, seed=SEED))
