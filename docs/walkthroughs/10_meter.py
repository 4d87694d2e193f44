# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: Measure any nn.Module layer by layer, and read what is border, what is stride and what is global.
# ---
# # 10. Point the meter at your own model
#
# So far you knew every stride and every padding of the network, and wrote the comparison by hand. Nobody knows those of a
# ResNet by heart. [`lab.meter`][lab.metering.instrument.meter] finds out what each layer sees, translates your images, and
# splits every error into what the [border](../glossary.md#border) made, what the stride made, and what is left.

# %%
#| code-fold: true
#| code-title: "Import the lab, and look at a CNN with padding"
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import torchvision
from matplotlib.patches import Rectangle
from torch import nn

import lab
from lab.plotting import COLORS, CONTROL_COLOR

plt.rcParams.update({"font.size": 12, "axes.titlesize": 12})
SEED, SEEDS = 0, [0, 1, 2]
mnist = lab.load_mnist()
digits = lab.normalize(mnist.test.sample(64, seed=SEED).images)
torch.manual_seed(SEED)
padded = lab.PooledCNN(padding=1).eval()
found = lab.trace(padded, digits[:1])

# %%
#| alt: >-
#|   A digit in its frame with two square windows. The blue window lies inside the frame. The orange window, at the top
#|   left, reaches beyond the frame on two sides.
#| caption: >-
#|   The windows of two outputs of one layer. The blue output is *interior*: it sees nothing but the image. The orange one
#|   is *border*: it sees what the padding put around the image.
#| code-fold: true
#| code-title: "Draw two windows"
axis = found["conv2"].grid.y
figure, axes = plt.subplots(figsize=(4.2, 4.2))
axes.imshow(digits[1, 0], extent=(0, 28, 28, 0))
axes.add_patch(Rectangle((0, 0), 28, 28, fill=False, edgecolor=CONTROL_COLOR))
for j, color, style in ((6, COLORS[0], "-"), (0, COLORS[1], "--")):
    first = float(axis.step) * j + axis.offset
    look = {"fill": False, "edgecolor": color, "linewidth": 2.5, "linestyle": style}
    axes.add_patch(Rectangle((first, first), *[axis.receptive_field] * 2, **look))
axes.set(xlim=(-5, 30), ylim=(30, -5), xlabel="column (px)", ylabel="row (px)")

# %% [markdown]
# !!! abstract "After this page you can"
#
#     - find stride, receptive field and interior of any layer without knowing what it computes;
#     - read the profile of a network: which of its errors are border, which are stride, and where it turns global;
#     - say, for ResNet, MobileNet, ConvNeXt and ViT, up to which layer translation equivariance is exact;
#     - assert equivariance of your own module in a test, and read the message when it fails.
#
# ## How do you measure what you do not know?
#
# A layer is equivariant away from the border. But which of its outputs are away from it? You could follow kernels, strides
# and paddings through the network, as on [page 6](06_borders.py). That works for a chain of known layers, and not for
# somebody's `forward`. You can also mark some input pixels and look where the mark comes out. `nan` is such a mark:
# arithmetic on `nan` gives `nan`, and so do convolution, ReLU, pooling and normalisation.
#
# The top two rows of an image are `nan`. The network is convolution 3 × 3, ReLU, pooling 2 × 2, convolution 3 × 3, with
# a padding of 1.

# %% [markdown]
# ```predict
# id: marks
# question: How many rows of the last layer are `nan`?
# number: {unit: "rows", places: 0}
# ```

# %%
marked = digits[:1].clone()
marked[:, :, :2] = torch.nan
seen = lab.activations(padded, marked, ["conv1", "pool1", "conv2"])
rows = {layer: int(a[0, 0].isnan().all(1).sum()) for layer, a in seen.items()}
marked_rows = rows["conv2"]

# %% [markdown]
# | `conv1` | `pool1` | `conv2` |
# |---|---|---|
# | {{ rows["conv1"]}} rows | {{ rows["pool1"]}} rows | {{ rows["conv2"]}} rows |

# %% [markdown]
# ```observed
# id: marks
# value: "{{ marked_rows }}"
# within: 0
# reason: |
#   An output of `conv2` has a window of $R = 8$ rows. The first window begins at row $-P = -3$, the next ones
#   $S = 2$ rows later each: $-1, 1, 3, \dots$ The windows that contain row 0 or 1 begin at $-3$, $-1$ and $1$.
# ```

# %% [markdown]
# `nan` is a poor mark, though. `torch.where(x > 0, …)` hides it, a running average keeps it for ever, and it tells only
# *that* a pixel is seen. [`trace`][lab.metering.receptive_fields.trace] takes a true image instead and runs the network once.
# Every value carries along where it comes from: the first and the last pixel that it was computed from, and whether padding
# entered. Each operation passes that on, whether forward calls a module or a function or writes `x[..., ::2]`. The
# [interior](../glossary.md#interior) of a layer follows: the outputs whose windows lie inside the image. (A weight of 0
# counts as seen, as it does for `nan`: 0 · nan is nan. So $R$ is an upper bound.)
#
# Is the trace right? Here are two tests: the closed formula for a chain of layers
# ([Araujo et al. 2019](../references.md#araujo2019)), and an experiment. Compare f(T x) and T f(x) on the interior of
# both, then with one row and column more.


# %%
def formula(chain: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    """S, R and P along one axis, from kernel, stride and padding of each layer."""
    s, r, p = 1, 1, 0
    for kernel, stride, pad in chain:
        r, p, s = r + (kernel - 1) * s, p + pad * s, s * stride
    return s, r, p


chain = {"conv1": (3, 1, 1), "pool1": (2, 2, 0), "conv2": (3, 1, 1), "pool2": (2, 2, 0)}
by_formula = {k: formula([*chain.values()][: i + 1]) for i, k in enumerate(chain)}
axes_of = {layer: found[layer].grid.y for layer in chain}
traced = {k: (a.period, a.receptive_field, -a.offset) for k, a in axes_of.items()}
differ = sum(
    a != b for k in chain for a, b in zip(by_formula[k], traced[k], strict=True)
)


# %%
def error_within(
    network: nn.Module, layer: str, images: torch.Tensor, outputs: range, t: int, m: int
) -> float:
    """Largest error over some rows and columns, under a shift by t, t px that moves the map by m, m."""
    entering = lab.data.BACKGROUND if images is digits else 0.0
    moved = lab.shift(images, t, t, background=entering)
    a, b = (lab.activations(network, x, [layer])[layer] for x in (images, moved))
    low, high = outputs.start, outputs.stop
    there, here = slice(low, high - m), slice(low + m, high)
    errors = lab.equivariance_error(b[:, :, here, here], a[:, :, there, there])
    return errors.max().item()


# %%
inside = axes_of["conv2"].interior
one_more = range(inside.start - 1, inside.stop)
tight, wider = (
    error_within(padded, "conv2", digits, r, 2, 1) for r in (inside, one_more)
)

# %% [markdown]
# Of S, R and P in four layers, {{ differ}} differ from the formula. `conv2` has its interior at the outputs {{ inside.start}} to
# {{ inside.stop - 1}} of {{ axes_of["conv2"].outputs}}. There the largest error is {{ tight:.1g}}; with one row and column more it is
# {{ wider:.2g}}. So at the top and on the left the traced interior is as large as it can be.
#
# ## A report that you can check
#
# Now the meter on the same network, untrained, at all 16 remainders that a shift can leave when divided by 4, the
# largest [period](../glossary.md#period). `lab.meter` returns a report with a line for each layer.

# %%
phases = [(dy, dx) for dy in range(1, 5) for dx in range(1, 5)]
report = lab.meter(padded, digits, phases, background=lab.data.BACKGROUND)


def line(layer: str) -> str:
    """Some columns of the report, as a row of a table."""
    grid, means = report.geometry[layer].grid, report.means(layer)
    place = [grid.y.period, f"{len(grid.y.interior)} of {grid.y.outputs}"]
    names = ("interior", "border", "off_period", "aliasing", "control")
    errors = [getattr(means, name) for name in names]
    shown = ["–" if e != e else "0" if e == 0 else f"{e:.2g}" for e in errors]
    return " | ".join([f"`{layer}`", *map(str, place), *shown])


conv2 = report.means("conv2")

# %% [markdown]
# | layer | S | interior rows | interior | border | off S | aliasing | control |
# |---|---|---|---|---|---|---|---|
# | {{ line("conv1")}} |
# | {{ line("pool1")}} |
# | {{ line("conv2")}} |
# | {{ line("pool2")}} |
#
# Read one row, that of `conv2`:
#
# - its period $S$ is 2: where 2 divides the shift, the layer can be exact;
# - **interior** {{ conv2.interior:.1g}}, **border** {{ conv2.border:.2g}}: the errors at such shifts, split by the place of the output;
# - **off S** {{ conv2.off_period:.2g}}: the error at all other shifts, interior outputs only, against the best whole move of the map;
# - **aliasing** {{ conv2.aliasing:.2g}}: what is left if the map may be moved by fractions of an output ([page 7](07_aliasing.py)). Away from a
#   circle, the interpolation has an error of its own, of a few per cent; a dash means that there was nothing to measure;
# - **control** {{ conv2.control:.2g}}: the error of an unrelated image. Compare a layer's errors with its own control, never with another layer's error.
#
# The report also says what theory expects, and marks a prediction that the measurement refutes with ✗. Theory reads the
# operations; it looks at the errors in two cases only, and then says *untestable*.

# %% [markdown]
# ```predict
# id: phases
# question: Draw the error of `pool2` against the remainders of `dy` and `dx`, 4 × 4 cells. How many cells are 0?
# number: {unit: "of 16 cells", places: 0}
# ```

# %%
#| alt: >-
#|   Two squares of cells: pool1 with two by two, 0 at the top left; pool2 with four by four, 0 at the top left, and larger
#|   values everywhere else.
#| caption: >-
#|   Equivariance error by what the period leaves of the shift, rows dy, columns dx. Only the cell 0, 0 is exact.
#| code-fold: true
#| code-title: "Draw the error for each remainder"
figure, grid = plt.subplots(1, 2, figsize=(6.0, 3.6), width_ratios=(1, 2))
for axes, layer in zip(grid, ("pool1", "pool2"), strict=True):
    values = report.off_period(layer)
    axes.imshow(values, cmap="viridis", vmin=0, vmax=0.8)
    for y, x in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
        ink = "black" if values[y, x] > 0.4 else "white"
        axes.text(x, y, f"{values[y, x]:.2g}", ha="center", va="center", color=ink)
    labels = {"xlabel": f"dx mod {len(values)}", "ylabel": f"dy mod {len(values)}"}
    axes.set(title=layer, xticks=[], yticks=[], **labels)
exact_cells = int((values < 1e-5).sum())

# %% [markdown]
# ```observed
# id: phases
# value: "{{ exact_cells }}"
# within: 0
# reason: |
#   The cell 0, 0: the period has to divide both dy and dx. How large the others are depends on images and weights; theory says
#   only that nothing guarantees a 0 there.
# ```

# %% [markdown]
# ## Four networks from the model zoo
#
# What is exact is decided by the architecture, special weights aside. So take the networks untrained, with three draws of
# random weights, and show them images whose spectrum is that of photographs
# ([Field 1987](../references.md#field1987)), made from random numbers.

# %%
SHIFTS = [(1, -1), (16, -16), (32, -32)]
WHAT = ("equivariance", "invariance")  # sorting takes as long as the rest
clouds = lab.fractal_images(4, (224, 224), seed=SEED)


def network(name: str, seed: int = SEED) -> nn.Module:
    """A network of torchvision with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torchvision.models.get_model(name, weights=None).eval()


resnet = lab.meter(network("resnet18"), clouds, SHIFTS, quantities=WHAT)
row = next(row for row in resnet.of("layer2.1.conv2") if row.dy == 16)

# %% [markdown]
# In `layer2.1.conv2` of a ResNet-18 ([He et al. 2016](../references.md#he2016)), with images of 224 × 224 px moved by 16 px
# down and to the left while zeros enter, f(T x) and T f(x) differ: the error of the full frame is {{ row.full:.2g}}.

# %% [markdown]
# ```predict
# id: resnet
# question: What makes this error?
# choices:
#   - mostly the stride, 8 px
#   - the border alone
#   - border and stride, about half and half
#   - the convolutions themselves, which are only roughly equivariant
# ```

# %%
#| code-fold: true
#| code-title: "Draw a profile"
LOOKS = {
    "border": ("s", COLORS[1]),
    "off_period": ("^", COLORS[2]),
    "control": ("x", CONTROL_COLOR),
    "interior": ("o", COLORS[0]),
}


def profile(axes: plt.Axes, report: lab.Report, stages: list[str]) -> None:
    """Errors of the layers that keep positions, in running order; a tick where a stage begins."""
    layers = [name for name, one in report.geometry.items() if one.grid]
    means = [report.means(name) for name in layers]
    for kind, (marker, color) in LOOKS.items():
        values = [getattr(one, kind) for one in means]
        look = {"color": color, "linestyle": "none", "markersize": 4, "clip_on": False}
        axes.plot(values, marker, label=kind.replace("_", " "), **look)
    at = [next(i for i, n in enumerate(layers) if n.startswith(s)) for s in stages]
    short = [s.split(".")[-1] if "." in s else s for s in stages]
    axes.set_xticks(at, short)
    axes.set(ylim=(0, None), xlim=(-1, len(layers)), ylabel="relative error")


# %%
#| alt: >-
#|   Errors of the layers of ResNet-18. Interior errors lie on the zero line and end in layer3. Border and off-period errors
#|   lie above it, below the control.
#| caption: >-
#|   ResNet-18, a mark for each layer. Interior errors (circles) are exactly 0 as long as there is an interior; they end in layer3.
#|   Border errors, and errors off the period, never come back to 0.
#| code-fold: true
#| code-title: "Draw the profile of ResNet-18"
figure, axes = plt.subplots(figsize=(6.4, 4.2))
profile(axes, resnet, ["layer1", "layer2", "layer3", "layer4"])
figure.legend(loc="outside lower center", ncols=4, handletextpad=0.1, columnspacing=1)

# %% [markdown]
# ```observed
# id: resnet
# right: "{{ 2 if row.interior < 4e-6 < row.border else 4 }}"
# value: "interior {{ row.interior:.1g}}, border {{ row.border:.2g}}"
# reason: |
#   The stride of that layer is 8, which divides 16, so no part of the error is stride. And where no window reaches beyond the image,
#   nothing is left: {{ row.interior:.1g}}. The error of the full frame says how much of the map sees the frame, and nothing about
#   the convolutions.
# ```

# %% [markdown]
# The interior shrinks from layer to layer: {{ len(resnet.geometry["conv1"].grid.y.interior) }} of
# {{ resnet.geometry["conv1"].grid.y.outputs }} rows in `conv1`, {{ len(resnet.geometry["layer3.1.conv1"].grid.y.interior) }} of
# {{ resnet.geometry["layer3.1.conv1"].grid.y.outputs }} in `layer3.1.conv1`. (In `conv1`, two rows at the top see padding and one
# at the bottom: a stride applies padding unevenly. [Alsallakh et al. 2021](../references.md#alsallakh2021) show what that
# does to detectors.) In `layer4` the receptive field is larger than the image, so that no output is free of the border, and
# theory says nothing that could be tested at this size.
#
# Next a MobileNet, in its small version ([Howard et al. 2019](../references.md#howard2019)). From the first block on, it has
# *squeeze-and-excitation*: each channel is scaled by what the means of all channels over the whole map say
# ([Hu et al. 2018](../references.md#hu2018)).

# %%
few = clouds[:2]
mobilenet = lab.meter(network("mobilenet_v3_small"), few, SHIFTS, quantities=WHAT)
keep_positions = sum(bool(one.grid) for one in mobilenet.geometry.values())

# %% [markdown]
# ```predict
# id: mobilenet
# question: "{{ keep_positions }} layers of MobileNetV3-small keep positions. How many of them have an interior, at 224 px?"
# number: {unit: "layers", places: 0}
# ```

# %%
convnext = lab.meter(network("convnext_tiny"), few, SHIFTS[:2], quantities=WHAT)
vit = lab.meter(network("vit_b_16"), few, SHIFTS[:2], quantities=WHAT)
zoo = {"ResNet-18": resnet, "MobileNetV3": mobilenet, "ConvNeXt": convnext, "ViT": vit}


# %%
def on_period(report: lab.Report) -> list:
    """The rows whose shift the period divides, and that have outputs to be compared exactly."""
    kept = []
    for row in report.rows:
        grid = report.geometry[row.layer].grid
        if grid and grid.exact_at((row.dy, row.dx)):
            axes = (grid.y, row.dy), (grid.x, row.dx)
            free = [bool(a.step) and len(a.interior) > abs(t / a.step) for a, t in axes]
            kept += [row] if all(free) else []
    return kept


# %%
with_room = {name: on_period(one) for name, one in zoo.items()}
maps = {n: sum(bool(g.grid) for g in one.geometry.values()) for n, one in zoo.items()}
count = {name: len({row.layer for row in rows}) for name, rows in with_room.items()}
exact = {
    name: [row for row in rows if row.theory == "exact"]
    for name, rows in with_room.items()
}
last = {name: rows[-1].layer if rows else "none" for name, rows in exact.items()}
with_interior = count["MobileNetV3"]

# %%
#| alt: >-
#|   Three profiles. MobileNetV3: interior errors on the zero line for the first six layers only. ConvNeXt: interior errors on
#|   the zero line through the first two stages; border errors between 0.1 and 1, except at the ends of blocks, where they
#|   are almost 0. ViT: the first layer has an interior error of 0, the two after it have one above 0.
#| caption: >-
#|   From top to bottom MobileNetV3-small, ConvNeXt-tiny and ViT-B/16; circles are interior errors. MobileNetV3 has none after its
#|   first squeeze-and-excitation. ConvNeXt has them until large kernels have used up the image. In ViT the first layer is
#|   exact, and the position embedding breaks what comes next.
#| code-fold: true
#| code-title: "Draw three profiles"
figure, grid = plt.subplots(3, 1, figsize=(6.4, 9.0))
stages = {
    "MobileNetV3": [f"features.{i}." for i in range(0, 13, 2)],
    "ConvNeXt": [f"features.{i}." for i in (1, 3, 5, 7)],
    "ViT": [f"encoder.layers.encoder_layer_{i}" for i in (0, 3, 6, 9)],
}
for axes, (name, begins) in zip(grid, stages.items(), strict=True):
    profile(axes, zoo[name], begins)
    ticks = [stage.strip(".").replace("_", ".").split(".")[-1] for stage in begins]
    axes.set_xticks(axes.get_xticks(), ticks)
    axes.set(title=name, xlabel="block" if name == "ViT" else "features")
figure.legend(
    *axes.get_legend_handles_labels(),
    loc="outside lower center",
    ncols=4,
    columnspacing=1,
)

# %% [markdown]
# | network | layers that keep positions | with an interior, where S divides the shift | exact there | the last exact one |
# |---|---|---|---|---|
# | ResNet-18 | {{ maps["ResNet-18"]}} | {{ count["ResNet-18"]}} | {{ len({row.layer for row in exact["ResNet-18"]})}} | `{{ last["ResNet-18"]}}` |
# | MobileNetV3 | {{ maps["MobileNetV3"]}} | {{ count["MobileNetV3"]}} | {{ len({row.layer for row in exact["MobileNetV3"]})}} | `{{ last["MobileNetV3"]}}` |
# | ConvNeXt | {{ maps["ConvNeXt"]}} | {{ count["ConvNeXt"]}} | {{ len({row.layer for row in exact["ConvNeXt"]})}} | `{{ last["ConvNeXt"]}}` |
# | ViT | {{ maps["ViT"]}} | {{ count["ViT"]}} | {{ len({row.layer for row in exact["ViT"]})}} | `{{ last["ViT"]}}` |

# %% [markdown]
# ```observed
# id: mobilenet
# value: "{{ with_interior }}"
# within: 3
# reason: |
#   The stem and the first convolution of the first block, each with its normalisation and activation. The means in the first
#   squeeze-and-excitation see all pixels, the border included, and scale every output with them. Every convolution after it is as
#   local as any, and still no output is free of the border.
# ```

# %% [markdown]
# Is squeeze-and-excitation really to blame? Take it out, and compare *the same outputs*: those that see no border without it.


# %%
def without_excitation(model: nn.Module) -> nn.Module:
    """The network with nothing in place of each squeeze-and-excitation."""
    for name, module in list(model.named_modules()):
        if isinstance(module, torchvision.ops.SqueezeExcitation):
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, nn.Identity())
    return model


layer, with_se, without_se = "features.1.block.2.0", [], []
for seed in SEEDS:
    lean = without_excitation(network("mobilenet_v3_small", seed))
    axis = lab.trace(lean, few[:1])[layer].grid.y
    where = few, axis.interior, 16, int(16 / axis.step)
    with_se.append(error_within(network("mobilenet_v3_small", seed), layer, *where))
    without_se.append(error_within(lean, layer, *where))
with_se, without_se = torch.tensor(with_se), torch.tensor(without_se)

# %% [markdown]
# On the same {{ len(axis.interior)}} rows and columns, the largest error is {{ with_se.min():.1g}} to {{ with_se.max():.1g}} with it, in three draws
# of the weights, and {{ without_se.max():.1g}} without: a small effect at this place, and no rounding.
#
# The profile of ConvNeXt ([Liu et al. 2022](../references.md#liu2022)) has border errors of almost 0 at the ends of its
# blocks. Why just there? The blocks return sums $x + \gamma\, g(x)$. The padding is in $g$, and ConvNeXt begins its training
# with $\gamma = 10^{-6}$. So a millionth of what the border does enters the sums of an *untrained* ConvNeXt. Set every $\gamma$ to 1,
# and measure `features.2.1` again. Then ViT ([Dosovitskiy et al. 2021](../references.md#dosovitskiy2021)). It cuts the image into
# patches of 16 × 16 px, adds a learned value to each, the *position embedding*, and lets every patch attend to all others. Set
# the embedding to 0, and measure the layer behind it again.


# %%
def front(name: str, seed: int) -> tuple[nn.Module, dict]:
    """A network of which only the first stages run, and how the meter has to run it."""
    net = network(name, seed)
    if name == "vit_b_16":
        net.encoder.layers = nn.Sequential()  # nothing behind the sum matters here
        return net, {}
    stages = {"mobilenet_v3_small": 3, "convnext_tiny": 6}.get(name)
    return net, {"forward": net.features[:stages]} if stages else {}


def error_at_16(net: nn.Module, layer: str, part: str, options: dict) -> float:
    """Border or interior error of one layer, at 16 px."""
    row = lab.meter(net, few, SHIFTS[1:2], layers=[layer], quantities=WHAT, **options)
    return getattr(row.rows[0], part)


# %%
gammas, places = [], []
for seed in SEEDS:
    scaled = network("convnext_tiny", seed)
    options = {"forward": scaled.features[:3]}  # the layer is its last
    before = error_at_16(scaled, "features.2.1", "border", options)
    for name, parameter in scaled.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.ones_(parameter)
    gammas.append((error_at_16(scaled, "features.2.1", "border", options), before))
    tokens, options = front("vit_b_16", seed)
    before = error_at_16(tokens, "encoder.dropout", "interior", options)
    nn.init.zeros_(tokens.encoder.pos_embedding)
    places.append((before, error_at_16(tokens, "encoder.dropout", "interior", options)))
(ones, tiny), (placed, unplaced) = (torch.tensor(x).T for x in (gammas, places))

# %% [markdown]
# | lowest to highest of three draws | as it is | changed |
# |---|---|---|
# | ConvNeXt, border error; every γ = 1 | {{ tiny.min():.1g}} to {{ tiny.max():.1g}} | {{ ones.min():.2g}} to {{ ones.max():.2g}} |
# | ViT, interior error; no position embedding | {{ placed.min():.3g}} to {{ placed.max():.3g}} | {{ unplaced.min():.1g}} to {{ unplaced.max():.1g}} |
#
# A small error is a finding only if you know why. So there are four ways to lose exactness, and a profile narrows them down:
#
# | what you see | what it can be |
# |---|---|
# | interior 0, border not | padding, or what left the frame |
# | interior 0 at some shifts, not at others | stride |
# | no interior, from a certain layer on | a global operation, or a receptive field too large for the image |
# | interior not 0, although the period divides the shift | values that depend on position, or a defect |
#
# The last two rows hold two causes each, and the profile does not tell them apart. Change one thing and measure again, as you
# just did.
#
# ## Down, and up again
#
# A U-Net ([Ronneberger et al. 2015](../references.md#ronneberger2015)) halves its maps, doubles them again, and puts beside
# them what it had before. Its last map has as many positions as the image: its [step](../glossary.md#step) is 1 px.


# %%
class SmallUNet(nn.Module):
    """One stage down and up; the map before it is put beside the map behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.down = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.last = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = F.relu(self.first(x))
        return self.last(torch.cat([fine, self.up(self.down(fine))], 1))


# %% [markdown]
# ```predict
# id: unet
# question: At which shifts is its output equivariant, away from the border?
# choices:
#   - at all of them, because its step is 1 px
#   - at even ones
#   - at none
# ```

# %%
odd_even = {"shifts": [(1, 0), (2, 0)], "background": lab.data.BACKGROUND}
last_map, first_map = [], []
for seed in range(5):
    torch.manual_seed(seed)
    unet = lab.meter(SmallUNet(), digits, **odd_even)
    last_map.append([row.interior for row in unet.of("last")])
    first_map.append(unet.of("first")[0].interior)
odd, even = torch.tensor(last_map).T
before = torch.tensor(first_map)
unet_right = 1 if odd.max() < 1e-5 else 2 if even.max() < 1e-5 else 3

# %% [markdown]
# ```observed
# id: unet
# right: "{{ unet_right }}"
# value: "1 px: {{ odd.min():.2g}} to {{ odd.max():.2g}}, 2 px: {{ even.max():.1g}}"
# reason: |
#   Interior errors of five draws of the weights. Behind `up`, every second output begins a new window of the pooled map, so the
#   pattern of windows repeats after 2 outputs: step $s = 1$, period $S = 2$. A shift by 1 px moves the map by a whole
#   output, and still other pixels are pooled together. With $d$ stages the period is $2^d$. [Page 12](12_tiles.py) shows what
#   that means for cutting large images into tiles.
# ```

# %% [markdown]
# ## Write your own, and assert on it
#
# Your module has a stride, a residual sum, and perhaps a mistake: it adds to its input how far down a row is, from 0 to 1,
# much as CoordConv feeds a network its own coordinates ([Liu et al. 2018](../references.md#liu2018)). That is fine if you
# want positions to matter. If you do not, a test should say so.


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
    options = {"shifts": [(2, 0), (0, 4)], "background": lab.data.BACKGROUND}
    try:
        lab.assert_equivariant(Block(coordinates), digits, layer="conv", **options)
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
# What a layer sees can be followed through every operation, and the outputs that see no border are those for which the
# comparison is exact. In ResNet, MobileNet and ConvNeXt, every layer that has an interior has an error of 0 there,
# wherever its period divides the shift; in ViT the first convolution has, and then the position embedding enters. A receptive
# field too large for the image, a global operation, or values that depend on position end it. Nothing here was trained.
#
# ## Theory and observation

# %%
#| code-fold: true
#| code-title: "Two more draws of each network, and the claims"
names = "resnet18", "mobilenet_v3_small", "convnext_tiny", "vit_b_16"
drawn_again = {"PooledCNN": []}
for name, model in zip(zoo, names, strict=True):
    drawn_again[name] = []
    for seed in SEEDS[1:]:
        net, options = front(model, seed)
        again = lab.meter(net, few, SHIFTS[1:2], quantities=WHAT[:1], **options)
        drawn_again[name] += [r for r in on_period(again) if r.theory == "exact"]
ROUNDING = "float32: sums of up to 4,608 terms in another order differ by about √4608 · 2⁻²⁴ = 4e-6 of their size"
TESTED = {
    "PooledCNN": (report, on_period(report)),
    **{n: (zoo[n], with_room[n]) for n in zoo},
}
claims = [
    lab.Claim(
        "trace: numbers among S, R and P of four layers that differ from the closed formula",
        "none",
        predicted=0,
        observed=differ,
        controls=(
            lab.Control("error on the traced interior", tight, "<=", 4e-6),
            lab.Control("with one row and column more", wider, ">=", 1e-3),
        ),
        kind="exact",
        n=12,
    )
]
for name, (one, rows) in TESTED.items():
    kept = [row for row in rows if row.theory == "exact"]
    off = [
        row.error
        for row in one.rows
        if row.dy == 1
        and (grid := one.geometry[row.layer].grid)
        and not grid.exact_at((row.dy, row.dx))
        and len(grid.y.interior) > 2 < len(grid.x.interior)
    ]
    rest = len(rows) - len(kept)
    known = 2 if name == "ViT" else 0  # two layers behind the position embedding
    errors = torch.tensor(
        [row.interior for row in kept + drawn_again[name]] or [torch.nan]
    )
    wrong = torch.tensor([row.wrong_shift for row in kept] or [torch.nan])
    claims.append(
        lab.Claim(
            f"{name}: largest interior error where S divides the shift, layers × shifts × draws",
            "exact",
            0.0,
            errors.max().item(),
            (
                lab.Control("wrong shift, least", wrong.min().item(), ">=", 1e-2),
                lab.Control(
                    "1 px, off the period, least",
                    torch.tensor(off or [torch.nan]).min().item(),
                    ">=",
                    1e-2,
                ),
                lab.Control(
                    "such rows that theory does not call exact", rest, "<=", known
                ),
            ),
            tolerance=4e-6,
            why=ROUNDING,
            kind="exact",
            n=max(len(errors), 1),
        )
    )
BROKEN = {"relation": ">=", "kind": "empirical"}
claims += [
    lab.Claim(
        "MobileNetV3: error at 16 px behind the first squeeze-and-excitation, on outputs that see no border without it, least of three draws",
        "not exact",
        predicted=4e-4,
        observed=with_se.min().item(),
        controls=(
            lab.Control("same outputs without it", without_se.max().item(), "<=", 4e-6),
        ),
        why="100 × rounding; pilot, three draws: 8e-4 to 3e-3",
        n=3,
        **BROKEN,
    ),
    lab.Claim(
        "ViT: interior error at 16 px with the position embedding, least of three draws",
        "broken",
        predicted=4e-4,
        observed=placed.min().item(),
        controls=(lab.Control("without it", unplaced.max().item(), "<=", 4e-6),),
        why="100 × rounding; pilot, three draws: at least 0.028",
        n=3,
        **BROKEN,
    ),
    lab.Claim(
        "U-Net: interior error of the last map at 1 px, least of five draws",
        "not guaranteed: its period is 2",
        predicted=4e-4,
        observed=odd.min().item(),
        controls=(
            lab.Control("at 2 px", even.max().item(), "<=", 4e-6),
            lab.Control("at 1 px, before pooling", before.max().item(), "<=", 4e-6),
        ),
        why="100 × rounding; pilot, five draws: at least 0.34",
        n=5,
        **BROKEN,
    ),
    lab.Claim(
        "ConvNeXt: border error of features.2.1 at 16 px with every γ = 1, least of three draws",
        "broken",
        predicted=4e-4,
        observed=ones.min().item(),
        controls=(lab.Control("with γ = 1e-6", tiny.max().item(), "<=", 1e-5),),
        why="100 × rounding; pilot, three draws: at least 0.017",
        n=3,
        **BROKEN,
    ),
]
lab.check(claims, data=mnist, seeds=[*range(5)])

# %% [markdown]
# ## Try it yourself
#
# **Exercise 1.** Make ResNet-18 exact everywhere, with circular padding in every convolution and in the pooling, and with
# circular shifts. At which shifts is its *output* invariant?
#
# **Exercise 2.** From which image size on does `layer4.1.conv2` of ResNet-18 have an interior? Use `lab.trace`.


# %%
#| fold: Solution 1
#| text: >-
#|   At multiples of 32 px, the total stride: every map then moves by whole positions, and the mean over all positions
#|   does not notice. Only rounding is left, as float64 shows. At 16 px the period of the last stage does not divide the shift.
class CircularPool(nn.MaxPool2d):
    """Maximum over 3 × 3 with stride 2, padded circularly."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.pad(x, (1, 1, 1, 1), mode="circular"), 3, 2)


# %%
#| fold: Solution 1, measured
circular_resnet = network("resnet18")
for module in circular_resnet.modules():
    if isinstance(module, nn.Conv2d) and module.padding != (0, 0):
        module.padding_mode = "circular"
        module._reversed_padding_repeated_twice = [
            p for p in module.padding for _ in "ab"
        ]
circular_resnet.maxpool = CircularPool(3, 2)
turns, round_clouds = [(32, 64), (16, 0)], lab.fractal_images(2, (96, 96), seed=SEED)
options = {"mode": "wrap", "quantities": WHAT, "layers": ["fc"]}
around = lab.meter(circular_resnet, round_clouds, turns, **options)
for row in around.rows:
    again = "" if row.in_float64 is None else f"; in float64 {row.in_float64:.1g}"
    print(f"({row.dy}, {row.dx}) px: {row.theory}, error {row.error:.1g}{again}")

# %%
#| fold: Solution 2
#| text: >-
#|   At {{ large_enough }} px and not at {{ large_enough - 32 }} px, among multiples of 32. Its receptive field is
#|   {{ field }} px: a larger image brings an interior back, as nothing in ResNet-18 before the last mean is global.
sizes = range(384, 545, 32)
deep = [
    lab.trace(network("resnet18"), torch.rand(1, 3, n, n, generator=torch.Generator()))[
        "layer4.1.conv2"
    ].grid.y
    for n in sizes
]
inside = [bool(len(axis.interior)) for axis in deep]
large_enough, field = sizes[inside.index(True)], deep[-1].receptive_field

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: A layer has a large error over the full frame and 0 in the interior. What do you conclude about its convolution?
#   choices:
#     - {text: "It is only roughly equivariant.", why: "Away from the border it is exactly equivariant: the interior error is 0."}
#     - {text: "Nothing is wrong with it; the error comes from outputs that see the border.", right: true, why: "The full frame mixes two kinds of outputs. Only the interior tells about the convolution."}
#     - {text: "It needs more training.", why: "Weights do not matter here. Nothing on this page was trained."}
# - question: The error is not 0 over the full frame behind squeeze-and-excitation, and 0 in the interior before it. Does that show what squeeze-and-excitation does?
#   choices:
#     - {text: "Yes, that error is its effect.", why: "The full frame has border errors, with or without it. The two numbers are about different outputs."}
#     - {text: "No. Compare the same outputs, with it and without it.", right: true, why: "A control has to measure the same quantity on the same outputs."}
#     - {text: "No, because a trained network would have another error.", why: "It would, but that is not the flaw of this comparison."}
# - question: The profile shows no interior from a certain layer on. How do you find out whether the layer is global or the image too small?
#   choices:
#     - {text: "Measure at a larger image size.", right: true, why: "A receptive field fits into a larger image; a global operation sees all of any image."}
#     - {text: "Look at the border error.", why: "It is not 0 in either case."}
#     - {text: "Use more images.", why: "What an output sees does not depend on the number of images."}
# - question: The last map of a U-Net with three stages has as many rows as the image. By how many pixels must you move the image for an exact comparison?
#   choices:
#     - {text: "any number", why: "The step is 1 px, but the period is not: after 1 px other pixels are pooled together."}
#     - {text: "multiples of 3", why: "Each stage doubles the period; stages do not add up."}
#     - {text: "multiples of 8", right: true, why: "The period is 2³ = 8 px, although the step is 1 px."}
# - question: In an untrained network, a layer has a border error of 1e-7. Is its border harmless?
#   choices:
#     - {text: "Yes, 1e-7 is rounding.", why: "Perhaps a branch is only scaled down by its initial weights, as in ConvNeXt."}
#     - {text: "Not known until you know why it is small.", right: true, why: "With every γ = 1 the same layer had a large border error."}
#     - {text: "Yes, border errors only shrink in training.", why: "Training changes γ, and may let the border in."}
# ```
