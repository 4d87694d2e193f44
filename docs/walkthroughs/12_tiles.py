# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: Cut a large image into tiles without seams, by the halo and the multiple that equivariance prescribes.
# ---
# # 12. Cut large images without seams
#
# A picture from a microscope or a satellite is often too large for the memory. So people cut it into tiles, run the network on each tile, and put
# the outputs together. How far should the tiles overlap? Most people guess, and then there are seams. Equivariance gives the
# exact answer, and it also says when no overlap helps.

# %%
#| code-fold: true
#| code-title: "Load the digits, and make large images of them"
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from torch import nn

import lab
from lab.plotting import FIRST, SECOND, image_row

SEED = 0
mnist = lab.load_mnist()
random = torch.Generator().manual_seed(SEED)


def canvas(digits: torch.Tensor, columns: int) -> torch.Tensor:
    """Digits side by side, each somewhere in a cell of 32 × 32 px: 1 × 1 × h × w."""
    places = torch.randint(0, 5, (len(digits), 2), generator=random).tolist()
    pads = [(x, 4 - x, y, 4 - y) for y, x in places]
    cells = [F.pad(digit, pad) for digit, pad in zip(digits, pads, strict=True)]
    rows = torch.stack(cells).unflatten(0, (-1, columns))
    return torch.cat([torch.cat([*row], -1) for row in rows], -2)[None]


def noisy(clean: torch.Tensor) -> torch.Tensor:
    return clean + 0.5 * torch.randn(clean.shape, generator=random)


clean = canvas(mnist.train.images[:900], 30)  # 960 × 960 px
truth = canvas(mnist.test.images[:100], 10)
image = noisy(truth)  # 320 × 320 px

# %%
#| alt: >-
#|   An image of a hundred digits, divided into 4 by 4 squares. Around one of the squares is a wider dashed square.
#| caption: >-
#|   An image of 320 × 320 px in 16 tiles. Of each tile, only the output for its core (orange) is kept. The network sees more:
#|   the core and a halo around it (blue, dashed). How wide must the halo be?
#| code-fold: true
#| code-title: "Draw a core and its halo"
figure, axes = plt.subplots(figsize=(4.2, 4.2))
gray = (truth[0, 0] * 7).round() / 7  # few levels, for a light page
axes.imshow(gray, cmap="gray_r", vmin=0, vmax=1, interpolation="none")
for at in (80, 160, 240):
    axes.axhline(at - 0.5, color=SECOND, linewidth=0.6)
    axes.axvline(at - 0.5, color=SECOND, linewidth=0.6)
for margin, color, line in ((0, SECOND, "-"), (20, FIRST, "--")):
    look = {"fill": False, "edgecolor": color, "linestyle": line, "linewidth": 2.5}
    corner, side = 79.5 - margin, 80 + 2 * margin
    axes.add_patch(Rectangle((corner, corner), side, side, **look))
_ = axes.set(xticks=[], yticks=[])

# %% [markdown]
# !!! abstract "After this page you can"
#
#     - say what a tile needs besides its own pixels, and where it may begin;
#     - find the halo and the multiple of any network, and prove them by running it;
#     - name the layers that forbid tiles, and say why.

# %% [markdown]
# ## A network with a way down and a way up
#
# The network is a small *U-Net* ([Ronneberger et al. 2015](../references.md#ronneberger2015)). It pools twice, 2 × 2 each time, and then grows to full
# size again. On the way up it also takes the maps from before each pooling. It learns to remove noise, in 120 steps.


# %%
class Block(nn.Module):
    """A convolution, of a map and perhaps a coarser one, which grows to its size."""

    def __init__(self, inputs: int, outputs: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1), norm(outputs)

    def forward(self, x: torch.Tensor, coarse: torch.Tensor | None = None):
        if coarse is not None:
            x = torch.cat([F.interpolate(coarse, size=x.shape[2:]), x], 1)
        return F.relu(self.norm(self.conv(x)))


# %%
class UNet(nn.Module):
    """Two levels down, two up."""

    def __init__(self, norm: type[nn.Module] = nn.Identity) -> None:
        super().__init__()
        sizes = [(1, 8), (8, 16), (16, 16), (32, 8), (16, 8)]
        self.blocks = nn.ModuleList(Block(*size, norm) for size in sizes)
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.blocks[0](x)
        middle = self.blocks[1](F.max_pool2d(fine, 2))
        coarse = self.blocks[2](F.max_pool2d(middle, 2))
        return self.last(self.blocks[4](fine, self.blocks[3](middle, coarse)))


# %%
#| code-fold: true
#| code-title: "Train it to remove noise"
def trained(network: nn.Module) -> nn.Module:
    """Trained to remove noise, on 120 × 4 parts of 64 × 64 px."""
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(120):
        places = torch.randint(0, 960 - 64, (4, 2), generator=random).tolist()
        parts = torch.cat([clean[..., y : y + 64, x : x + 64] for y, x in places])
        loss = F.mse_loss(network(noisy(parts)), parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


# %%
#| alt: >-
#|   Two pictures of a few digits. The first is covered with noise. In the second the digits stand out on an even ground.
#| caption: >-
#|   A part of 60 × 60 px: on the left the noisy image, on the right the network's output, run on the whole image.
#| code-fold: true
#| code-title: "Train the network, run it on the whole image, and draw a part"
torch.manual_seed(SEED)
unet = trained(UNet())
whole = unet(image)
before, after = F.mse_loss(image, truth).item(), F.mse_loss(whole, truth).item()
around = 0, 0, slice(50, 110), slice(50, 110)  # the part that the figures show
shown = [("noisy", image[around], "image"), ("cleaned", whole[around], "image")]
image_row(shown, width=2.3)

# %% [markdown]
# The mean squared error falls from {{ before:.2f}} to {{ after:.3f}}. This image is small enough to be run as a whole, so
# you can see what tiles change.
#
# ## Cut by guess
#
# A tile is a *core*, here 80 × 80 px, with a [halo](../glossary.md#halo) around it. The network runs on both, and the output for the core is
# kept. At the edge of the image there is nothing to take, and no halo is needed: there the network pads, as it does for the whole image.


# %%
def tiled(network: nn.Module, image: torch.Tensor, core: int, halo: int):
    """The network's output for an image, put together from tiles."""
    out = torch.empty_like(image)
    for y in range(0, image.shape[2], core):
        for x in range(0, image.shape[3], core):
            top, left = max(y - halo, 0), max(x - halo, 0)
            bottom, right = y + core + halo, x + core + halo
            tile = network(image[..., top:bottom, left:right])[
                ..., y - top :, x - left :
            ]
            out[..., y : y + core, x : x + core] = tile[..., :core, :core]
    return out


# %%
def error(network: nn.Module, image: torch.Tensor, core: int, halo: int) -> float:
    """Largest |tiled − whole|, over the largest |whole|."""
    expected = network(image)
    difference = tiled(network, image, core, halo) - expected
    return (difference.abs().max() / expected.abs().max()).item()


# %% [markdown]
# Five convolutions 3 × 3 and two poolings 2 × 2 lie on the longest way through the network.

# %% [markdown]
# ```predict
# id: guessed-halo
# question: "Tiles without a halo, with 4, 12 and 22 px. Which come closest to the whole image's output?"
# choices:
#   - "22 px: the wider the halo, the better"
#   - "12 px"
#   - "12 and 22 px alike: from some width on, all is well"
# ```

# %%
guesses = {halo: error(unet, image, 80, halo) for halo in (0, 4, 12, 22)}

# %%
#| alt: >-
#|   Three pictures of differences. Without a halo all is dark except for broad bright bands along the seams. With 22 pixels
#|   it is bright everywhere. With 12 pixels all is dark.
#| caption: >-
#|   |tiled − whole| around the corner of four tiles, on a logarithmic scale, from rounding (dark) to the largest output
#|   (bright). No halo: bands along the seams, as wide as the window. 22 px: the tiles are wrong everywhere.
#|   12 px: only rounding is left.
#| code-fold: true
#| code-title: "Draw what tiles change"
panels = []
for name, halo in {"no halo": 0, "22 px": 22, "12 px": 12}.items():
    difference = (tiled(unet, image, 80, halo) - whole).abs() / whole.abs().max()
    panels.append((name, difference[around].clamp(min=1e-8).log10(), "feature"))
image_row(panels, width=1.6)

# %% [markdown]
# | halo (px) | 0 | 4 | 12 | 22 |
# |---|---|---|---|---|
# | largest difference / largest output | {{ guesses[0]:.2g}} | {{ guesses[4]:.2g}} | {{ guesses[12]:.1g}} | {{ guesses[22]:.2g}} |

# %% [markdown]
# ```observed
# id: guessed-halo
# right: "{{ 2 if guesses[12] < 1e-5 < guesses[22] else 3 }}"
# value: "12 px: {{ guesses[12]:.0e}}; 22 px: {{ guesses[22]:.0%}} of the largest output"
# reason: |
#   A halo of 22 px is wide enough, but its tiles begin at the wrong places. The core that begins at row 80 has a tile that begins at row 58, which is no
#   multiple of 4. So its poolings take other pairs of pixels than those of the whole image.
# ```

# %% [markdown]
# Two things have to be right, and both follow from [equivariance](../glossary.md#equivariance).
#
# - *The width.* An output depends only on the window that it sees. If that window lies inside the tile, the tile's edge does not matter. So the halo
#   must be as wide as the window reaches beyond the core, on each side.
# - *The beginning.* The tile and the whole image must be pooled in step. A network is exactly equivariant only to shifts by
#   multiples of its [period](../glossary.md#period), so a tile, *with* its halo, must begin on a multiple of it.
#
# ## Let the network say it
#
# [`lab.tiling`][lab.metering.tiles.tiling] reads both off the network. The halo is the part of a small image that is not
# [interior](../glossary.md#interior), rounded up to the period. Then it cuts tiles at the beginning, in the middle and at the end of the image, and
# compares.

# %%
plan = lab.tiling(unet, image)
print("\n".join(plan.lines()))

# %% [markdown]
# (A tile *pays* if its core has at least as many pixels as its halo.) Is this halo the narrowest one? Try every multiple, in float64, where
# rounding hides nothing.

# %% [markdown]
# ```predict
# id: one-period-less
# question: "With a halo one period narrower, how large is the largest difference, relative to the largest output?"
# choices:
#   - "rounding only: the traced halo is wider than needed"
#   - "above rounding, but below one per cent"
#   - "one per cent or more"
# ```

# %%
exact_image, exact = image.double(), UNet().double().eval().requires_grad_(False)
exact.load_state_dict(unet.state_dict())
multiple, halo = plan.multiple[0], plan.halo[0][0]
widths = {w: error(exact, exact_image, 80, w) for w in range(0, 25, multiple)}
less, enough = widths[halo - multiple], [e for w, e in widths.items() if w >= halo]

# %%
#| alt: >-
#|   Largest difference against the width of the halo, on a logarithmic scale. It falls from 0 to 8 pixels and then drops
#|   to rounding at 12, where it stays.
#| caption: >-
#|   Tiles against the whole image, in float64, at halos that are multiples of the period. From the traced halo on (dashed), only rounding is left.
#| code-fold: true
#| code-title: "Draw the error against the halo"
figure, axes = plt.subplots(figsize=(5, 3))
axes.semilogy([*widths], [max(e, 1e-17) for e in widths.values()], "o-", color=FIRST)
axes.axvline(halo, color="#777777", linestyle="--")
axes.set(xlabel="halo (px)", ylabel="largest difference", xticks=[*widths])

# %% [markdown]
# ```observed
# id: one-period-less
# right: "{{ 1 if less <= 1e-12 else 2 if less < 0.01 else 3 }}"
# value: "{{ less:.1g}}, with a halo of {{ halo - multiple }} px"
# reason: |
#   The wrong outputs lie next to the seams. Their windows reach over the tile's edge by a few pixels, where the network saw its padding and not the
#   image. At the traced {{ halo }} px the difference is {{ widths[halo]:.1g}}: the halo is as narrow as it can be.
# ```

# %% [markdown]
# ## When no halo is wide enough
#
# Now put an *instance normalisation* behind each convolution. It subtracts from each map its mean over all positions, and
# divides by its standard deviation.

# %% [markdown]
# ```predict
# id: instance-norm
# question: "How wide a halo does this network need?"
# choices:
#   - "{{ halo }} px, as before: a normalisation has no kernel"
#   - "about as wide as the core, 80 px"
#   - "none is wide enough"
# ```

# %%
normed = trained(UNet(nn.InstanceNorm2d))
forbidden = lab.tiling(normed, image)
wide = {w: error(normed, image, 80, w) for w in (12, 40, 80)}
print(*forbidden.lines())

# %%
#| alt: >-
#|   Two pictures of differences for the network with instance normalisation, with halos of 12 and 80 pixels. Neither is
#|   blank, and the differences are not confined to the seams.
#| caption: >-
#|   With instance normalisation, tiled minus whole around the corner of four tiles, at halos of 12 and 80 px. Each tile
#|   has a mean of its own, so its outputs differ everywhere, not at the seams alone.
#| code-fold: true
#| code-title: "Draw tiled minus whole, with two halos"
panels = [(f"{w} px", tiled(normed, image, 80, w) - normed(image)) for w in (12, 80)]
image_row([(name, one[around], "difference") for name, one in panels], width=2.3)

# %% [markdown]
# ```observed
# id: instance-norm
# right: "{{ 3 if wide[80] > 1e-5 else 2 if wide[12] > 1e-5 else 1 }}"
# value: "at 80 px still {{ wide[80]:.1g}} of the largest output"
# reason: |
#   The mean over a tile is not the mean over the image, and no overlap makes it so. The difference is {{ wide[12]:.1g}} at 12 px, {{ wide[40]:.1g}} at 40 px
#   and {{ wide[80]:.1g}} at 80 px, where a tile is three cores wide.
# ```

# %% [markdown]
# Group normalisation, squeeze-and-excitation and attention are [global](../glossary.md#global-operation) in the same way. A layer that
# adds a value for each position forbids tiles too, and so does interpolation with `align_corners=True`, whose weights depend on the size. Batch normalisation, as it is used after training, does
# not: its means are constants.
#
# From a terminal:
#
# ```sh
# lab tile torchvision:resnet18 --layer layer2
# lab tile model.py:UNet --weights unet.pt --size 512 512
# ```
#
# ## Theory and observation

# %%
#| code-fold: true
#| code-title: "Run four more networks, and state the claims"
ROUNDING = "float32: sums of up to 288 terms, each off by about √288 · 2⁻²⁴ = 1e-6 of their size, through six layers"
nets = [unet] + [UNet().eval().requires_grad_(False) for _ in range(4)]  # 4 untrained
errors = {
    w: torch.tensor([error(net, image, 80, w) for net in nets]) for w in (0, halo, 22)
}
n = len(nets) * image.numel()
# fmt: off
claims = [
    lab.Claim(
        "U-Net, trained, and four untrained: tiled against whole, largest difference over largest output", "the same", 0,
        errors[halo].max().item(),
        (lab.Control("no halo, least", errors[0].min().item(), ">=", 1e-2),
         lab.Control("a wider halo, off the multiple, least", errors[22].min().item(), ">=", 1e-2)),
        tolerance=1e-5, why=ROUNDING, kind="exact", n=n,
    ),
    lab.Claim(
        "trained U-Net, float64: the same at the traced halo and at all wider multiples, largest", "the same", 0,
        torch.tensor(enough).max().item(),
        (lab.Control("one period less", less, ">=", 1e-9),),
        tolerance=1e-12, why="float64: rounding as above, 2⁻⁵³ in place of 2⁻²⁴", kind="exact", n=len(enough) * image.numel(),
    ),
    lab.Claim(
        "with instance normalisation: the same difference, with a halo as wide as the core", "no halo is enough", 1e-3,
        wide[80],
        (lab.Control("without it", error(unet, image, 80, 80), "<=", 1e-5),),
        relation=">=", why="pilot: 0.06 in one trained network; 1e-3 is 100 × what rounding can do", kind="empirical", n=image.numel(),
    ),
]
# fmt: on
lab.check(claims, data=mnist, seeds=[SEED])

# %% [markdown]
# ## Try it yourself
#
# **Exercise 1.** Take batch normalisation instead. Which halo does the network need? Batch normalisation looks at all positions while
# it is trained; why does that not matter here?
#
# **Exercise 2.** Make both poolings 3 × 3 with stride 2 and a padding of 1. Guess halo and multiple before you look.


# %%
#| fold: Solution 1
#| text: |
#|   The same as without it, {{ batch.halo[0][0] }} px. It is trained with the means of each batch, but afterwards it uses averages that it has kept: the
#|   same constants for each tile.
batch = lab.tiling(UNet(nn.BatchNorm2d), image)


# %%
#| fold: Solution 2
#| text: |
#|   The multiple stays {{ wider.multiple[0] }} px, since the strides are the same. The windows grow on one side only, upwards and to the left, and the
#|   halo with them: {{ wider.halo[0][0] }} px there, {{ wider.halo[0][1] }} px below and on the right.
class Wider(UNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.blocks[0](x)
        middle = self.blocks[1](F.max_pool2d(fine, 3, 2, padding=1))
        coarse = self.blocks[2](F.max_pool2d(middle, 3, 2, padding=1))
        return self.last(self.blocks[4](fine, self.blocks[3](middle, coarse)))


wider = lab.tiling(Wider(), image)

# %%
#| code-fold: true
#| code-title: "State the claims of the solutions"
found = {"batch normalisation": batch, "poolings 3 × 3": wider}
claims = [
    lab.Claim(
        f"{name}: six tiles against the whole, largest difference over largest output",
        *("the same", 0, one.error),
        (lab.Control("without the halo", one.without_halo, ">=", 1e-3),),
        **{"tolerance": 1e-5, "why": ROUNDING, "kind": "exact", "n": one.tiles},
    )
    for name, one in found.items()
]
extra = {name: one.halo[0][0] - halo for name, one in found.items()}  # px, at the top
more = (lab.Control("poolings 3 × 3", extra["poolings 3 × 3"], ">=", 1),)
name = "batch normalisation: halo, more than without it, px"
claims.append(
    lab.Claim(name, "none", 0, extra["batch normalisation"], more, kind="exact")
)
lab.check(claims, data=mnist, seeds=[SEED])

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: "A network has a period of 8 px and needs a halo of 20 px. You cut cores of 64 px. Which halo do you take?"
#   choices:
#     - {text: "20 px", why: "Then tiles begin at rows 44, 108, …: 44 is no multiple of 8, and the poolings are out of step."}
#     - {text: "24 px", right: true, why: "It is the next multiple of 8: wide enough, and in step."}
#     - {text: "30 px, to be safe", why: "Wider is not safer: 64 − 30 = 34 is no multiple of 8."}
# - question: "Which of these layers forbids tiles, in a network that is already trained?"
#   choices:
#     - {text: "batch normalisation", why: "After training its means are constants."}
#     - {text: "a convolution with zero padding", why: "Padding acts at the edge of a tile only, and the halo keeps that away from the core."}
#     - {text: "squeeze-and-excitation", right: true, why: "Its scale depends on the mean over the whole map, and a tile has another mean."}
# - question: "The outputs of tiles look right, without visible seams. Does that show that the halo is wide enough?"
#   choices:
#     - {text: "Yes, errors at tile edges are always visible.", why: "The wrong outputs may be a thin band beside the seams, and off by little."}
#     - {text: "No; compare with the whole image, in float64.", right: true, why: "Then rounding and a halo that is too narrow can be told apart."}
# ```
