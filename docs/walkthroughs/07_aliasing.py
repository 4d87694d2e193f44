# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# ---
# description: What a stride does to fine detail, how to tell it from a move by half an output, and what a blur can mend.
# ---
# # 7. Aliasing
#
# Move an image by one pixel, and a map behind a stride of 2 should move by half an output. No whole move does that. So every
# error that you have seen at odd shifts mixes two things. One is harmless: the map did move, but by a half. The
# other is a loss: the stride made something else of fine detail. Only the loss is called *aliasing*. This page tells the two apart.

# %%
#| code-fold: true
#| code-title: "Load the digits, and choose the networks"
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import lab
from lab.plotting import COLORS, CONTROL_COLOR, FIRST, MARKERS, SECOND, draw_panels

SEED = 0
SEEDS = range(6)  # of the networks
N = 30  # pixels along each axis
torch.manual_seed(SEED)
torch.set_grad_enabled(False)
mnist = lab.load_mnist()
images = F.pad(mnist.test.sample(100, seed=SEED).images, (1, 1, 1, 1)).double()
unrelated = lab.derangement(len(images), seed=SEED)

# %%
#| alt: >-
#|   Two waves over the same pixels, a slow one and a fast one. At the even pixels both have the same values. The dashed
#|   curve through these values is the slow wave. At the odd pixels the slow wave lies on that curve, and the fast wave
#|   lies on the other side of zero.
#| caption: >-
#|   Keep every second pixel (dots): a slow wave and a fast one leave the same samples, and the dashed curve goes through them.
#|   Now move by one pixel, so that the stride keeps the pixels in between (squares). Above, they lie on the curve:
#|   the samples have moved by a half. Below, they lie on no curve that the dots could have told.
#| code-fold: true
#| code-title: "Draw two waves and their samples"
at, pixels = torch.linspace(0, 20, 601), torch.arange(21)
figure, rows = plt.subplots(2, 1, figsize=(5.2, 4.8), sharex=True)
for axes, cycles, name in zip(rows, (3, 12), ("slow", "fast"), strict=True):
    wave = (2 * torch.pi * cycles / N * pixels).cos()
    axes.plot(at, (2 * torch.pi * cycles / N * at).cos(), color=CONTROL_COLOR, lw=0.8)
    axes.plot(at, (6 * torch.pi / N * at).cos(), "--", color=FIRST, lw=1.2)
    axes.plot(pixels[::2], wave[::2], "o", color=FIRST, label="kept")
    look = {"color": SECOND, "markerfacecolor": "none", "markeredgewidth": 1.5}
    axes.plot(pixels[1::2], wave[1::2], "s", **look, label="kept after a move by 1 px")
    axes.set_title(f"A {name} wave", loc="left")
    axes.set(yticks=[-1, 0, 1], ylim=(-1.2, 1.2))
axes.set(xlabel="pixel", xticks=range(0, 21, 4))
_ = rows[0].legend(loc="lower left", bbox_to_anchor=(0.28, 1), ncols=2, borderpad=0)

# %% [markdown]
# !!! abstract "After this page you can"
#
#     - move a map by half an output, and say what an error means that remains;
#     - predict that error from the map's spectrum alone;
#     - say which layers make fine detail, and where to put a blur;
#     - read the meter's column *interpolated*.
#
# ## A move by half an output
#
# Only one curve through the kept samples is made of slow waves alone: the dashed one. It has a value at every place, so
# it can be moved by any distance and sampled again. That is how `lab.shift` moves a circular image, or a map, by a fraction.
#
# Here are two layers with the same weights: a circular convolution and ReLU, untrained, then a stride of 2. The second has an ideal
# *low-pass filter* before the stride. It removes every wave that is too fast for the samples that are kept, and changes no other.
# A blank rim makes the digits {{ N }} × {{ N }} px, and the maps {{ N // 2 }} × {{ N // 2 }}. Numbers are float64.


# %%
def low(y):
    """Along x, only the waves with fewer cycles than a quarter of the pixels."""
    slow = torch.fft.fftfreq(N).abs() < 1 / 4  # cycles per pixel
    return torch.fft.ifft(torch.fft.fft(y) * slow).real


def strided(conv, x):
    return conv(x).relu()[..., ::2, ::2]


def alias_free(conv, x):
    y = low(conv(x).relu())  # along x
    return low(y.mT).mT[..., ::2, ::2]  # along y, then the stride


# %% [markdown]
# *Whole* compares $f(Tx)$ with the better of two whole moves of $f(x)$, by 0 or by 1 output, as on the
# pages before. *Half* compares it with $f(x)$ moved by $1/2$. The control is the same with the map of an unrelated digit.


# %%
def move(x, dx):
    """T: circular, to the right, by whole pixels or fractions."""
    return lab.shift(x, 0, dx, mode="wrap")


def half(fx, ftx):
    return lab.equivariance_error(ftx, move(fx, 0.5))


def whole(fx, ftx):
    errors = [lab.equivariance_error(ftx, move(fx, m)) for m in (0, 1)]
    return torch.stack(errors).amin(0)  # the better one, for each image


# %%
def convolution(seed):
    """Circular, 1 to 8 channels, 3 × 3, without bias; untrained."""
    torch.manual_seed(seed)
    look = {"padding": 1, "padding_mode": "circular", "bias": False}
    return nn.Conv2d(1, 8, 3, **look).double()


def compare(layer, error):
    """Error and control for a move by 1 px: 2 × networks × images."""
    pairs = [(layer(conv, images), layer(conv, move(images, 1))) for conv in convs]
    found = [(error(fx, ftx), error(fx[unrelated], ftx)) for fx, ftx in pairs]
    return torch.stack([torch.stack(one) for one in found], 1)


# %% [markdown]
# ```predict
# id: whole-move-of-an-ideal-map
# question: "How large is the alias-free layer's error against the better *whole* move, compared with the strided layer's?"
# choices:
#   - exactly 0, up to rounding
#   - about a tenth of it
#   - nearly as large
# ```


# %%
convs = [convolution(seed) for seed in SEEDS]


def stated(found):
    """Mean ± standard deviation over networks, and the control, in words."""
    means, control = found[0].mean(1), found[1].mean()
    return f"{means.mean():.2f} ± {means.std():.2f} ({control:.2f})"


layers = {"strided": strided, "alias-free": alias_free}
by_whole = {name: compare(f, whole) for name, f in layers.items()}
by_half = {name: compare(f, half) for name, f in layers.items()}
whole_ratio = by_whole["alias-free"][0].mean() / by_whole["strided"][0].mean()
half_largest = by_half["alias-free"][0].max()

# %% [markdown]
# Errors at a move by 1 px: mean of {{ len(images) }} digits, ± standard deviation over {{ len(convs) }} networks; in brackets the unrelated digit's.
#
# | layer | best whole move | half a move |
# |---|---|---|
# | strided | {{ stated(by_whole["strided"]) }} | {{ stated(by_half["strided"]) }} |
# | alias-free | {{ stated(by_whole["alias-free"]) }} | at most {{ half_largest:.0e}} |

# %%
#| alt: >-
#|   Two rows of three pictures: the map of the moved digit, the map of the digit moved by half an output, and the
#|   difference. For the strided layer the difference is full of red and blue; for the alias-free layer it is blank.
#| caption: >-
#|   One channel, one digit. Above, the strided layer: moved by half an output, f(x) is not f(Tx). Below, the
#|   alias-free layer: it is, up to rounding.
#| code-fold: true
#| code-title: "Draw both maps and their difference"
figure, grid = plt.subplots(2, 3, figsize=(4.8, 3.7))
for axes, layer in zip(grid, (strided, alias_free), strict=True):
    fx, ftx = layer(convs[0], images[:1]), layer(convs[0], move(images[:1], 1))
    channel = int(fx.square().sum((0, 2, 3)).argmax())
    there, expected = ftx[0, channel], move(fx, 0.5)[0, channel]
    panels = [("f(Tx)", there), ("f(x), half a move", expected)]
    panels = [(name, values, "feature") for name, values in panels]
    draw_panels(axes, [*panels, ("difference", there - expected, "difference")])
    axes[0].set_ylabel(layer.__name__.replace("_", "-"))

# %% [markdown]
# ```observed
# id: whole-move-of-an-ideal-map
# right: 3
# value: "{{ whole_ratio:.0%}} of it"
# reason: |
#   The alias-free map moves by half an output, *exactly*: {{ half_largest:.0e}} is rounding. But no whole move is a half, so
#   the better of two wrong moves is far off for it, too. A comparison with whole moves cannot tell a map that lost something
#   from one that moved by a fraction.
# ```

# %% [markdown]
# **Your turn:** here the layer keeps every second column and row of a digit on a ring, and its map may move by half a position. Is anything left? And with a low pass before it?
#
# <div><live-lab src="../assets/live/" preset="half"><p>With JavaScript, you can drag a digit here.</p></live-lab></div>

# %% [markdown]
# So ask two questions. *Does the map move by whole outputs?* Not at a shift that the stride does not divide. *Does the map follow the
# image at all, if it may move by a fraction?* That depends on the detail in it, and *aliasing* is the word for a no.
# [Simoncelli et al. 1992](../references.md#simoncelli1992) call a map *shiftable* if it does.
#
# ## Which waves fold where
#
# A row of $N$ pixels is a sum of waves, with 0, 1, 2, … cycles in the row. $N$ samples can show at most $N/2$ cycles: the *Nyquist frequency*,
# one cycle in two samples. A stride of 2 keeps $N/2$ samples, so its Nyquist frequency is $N/4$, here {{ N / 4:.1f}} cycles.

# %% [markdown]
# ```predict
# id: eleven-cycles
# question: "A wave has 11 cycles in 30 pixels. How many cycles do the 15 samples show that a stride of 2 keeps?"
# number: {unit: cycles, places: 0}
# ```

# %%
cycles = torch.arange(N // 2 + 1)
waves = (2 * torch.pi * cycles[:, None] / N * torch.arange(N) + 1).cos()
seen = torch.fft.rfft(waves[:, ::2]).abs().argmax(1)  # the largest of the spectrum
unstrided = torch.fft.rfft(waves).abs().argmax(1)

# %%
#| alt: >-
#|   Cycles in the kept samples against cycles in the row, from 0 to 15. Up to 7 the line rises one to one. From 8 on it
#|   falls back to 0, as if the axis had been folded.
#| caption: >-
#|   Every wave from 0 to 15 cycles, before and after a stride of 2. Waves above the Nyquist frequency of the kept samples
#|   (dashed) come back as slower ones.
#| code-fold: true
#| code-title: "Draw the fold"
figure, axes = plt.subplots(figsize=(5, 3))
axes.plot(cycles[:8], seen[:8], "o-", color=FIRST, label="shown as it is")
axes.plot(cycles[8:], seen[8:], "s-", color=SECOND, label="folded")
axes.axvline(N / 4, color=CONTROL_COLOR, linestyle="--")
axes.set(xlabel="cycles in 30 pixels", ylabel="cycles in 15 samples")
axes.set(xticks=range(0, 16, 3), yticks=range(0, 8, 2))
_ = axes.legend()

# %% [markdown]
# ```observed
# id: eleven-cycles
# value: "{{ int(seen[11]) }}"
# within: 0
# reason: |
#   $15 - 11 = 4$. At the even pixels, 11 cycles and 4 cycles have the same values, as the two waves of the first
#   figure do. Not 11: fifteen samples cannot show more than 7 cycles. Not half of 11: the stride drops pixels, it does not stretch the wave.
# ```

# %% [markdown]
# Why? Let $Y$ be the spectrum of a row $y$ of $N = 2M$ pixels. To keep the even pixels is to take the mean of $y[j]$ and $(-1)^j\,y[j]$, and
# the factor $(-1)^j$ moves frequency $k$ to $k + M$. So the spectrum of the kept samples is
#
# $$Z[k] = \frac{1}{2} \left( Y[k] + Y[k + M] \right) :$$
#
# frequencies fold onto each other in pairs. Now write $y = l + h$, with the slow waves $l$, below $N/4$ cycles, and
# the fast ones $h$, above. Let $\downarrow$ keep the even pixels, and $T$ move by one pixel.
#
# - The slow waves move along: $(T\,l)\!\downarrow\; = T_{1/2}\,(l\!\downarrow)$. Both sides turn frequency $k$ by the
#   same phase, $e^{-2\pi i k / N}$.
# - The fast waves come out *opposite*: $(T\,h)\!\downarrow\; = -\,T_{1/2}\,(h\!\downarrow)$. $T$ turns a wave with $k > M/2$ cycles by
#   $e^{-2\pi i k/N}$. Its samples look like $k - M$ cycles, and half a move turns those by $e^{-2\pi i (k - M)/N}$, which is $-1$ times as much.
#   That is why the squares in the first figure's lower half lie on the other side of zero.
#
# Together, $f(Tx) - T_{1/2}\,f(x) = -2\,T_{1/2}\,(h\!\downarrow)$. So for a stride of 2 and a move by one pixel, the half-move error is
#
# $$E = 2\,\frac{\norm{h\!\downarrow}}{\norm{y\!\downarrow}} ,$$
#
# twice the *aliased share* of the map. The spectrum alone tells it; nothing needs to be moved. (With an odd $N/2$ no wave lies exactly *at* $N/4$; the
# blank rim sees to that.) Test it on every digit and network:


# %%
def aliased_share(y):
    """Of a map before the stride: what folds along x, over all that is kept."""
    h, kept = ((y - low(y))[..., ::2, ::2], y[..., ::2, ::2])
    return h.flatten(1).norm(dim=1) / kept.flatten(1).norm(dim=1)


shares = torch.stack([aliased_share(conv(images).relu()) for conv in convs])
measured = by_half["strided"][0]
gap = (measured - 2 * shares).abs().max()
gap_other = (measured - 2 * shares[:, unrelated]).abs().mean()

# %%
#| alt: >-
#|   Above, the share of a map's energy at 0 to 15 cycles: most is at few cycles, and a part lies beyond 7.5. Below, the
#|   same after folding: at every frequency from 0 to 7, a part that belongs there and a part that came from above.
#| caption: >-
#|   The spectrum of the maps along x, before the stride (above) and after (below). What lies above the
#|   Nyquist frequency (hatched) is not gone afterwards: it lies on top of what belongs there. Where two waves meet, they add up or cancel.
#| code-fold: true
#| code-title: "Draw the spectrum, and fold it"


def spectrum(y):
    """Energy along x at 0 to N / 2 cycles, in all rows, channels and images; adds up to 1."""
    energy = torch.fft.rfft(y).abs().square().flatten(0, -2).sum(0)
    energy[1 : N // 2] *= 2  # k and −k
    return energy / energy.sum()


energy = torch.stack([spectrum(conv(images).relu()) for conv in convs]).mean(0)
figure, both = plt.subplots(2, 1, figsize=(5, 4.8), sharex=True, sharey=True)
look = {"color": "none", "edgecolor": SECOND, "hatch": "////"}
for axes, title in zip(both, ("30 pixels", "every second one"), strict=True):
    axes.bar(cycles[:8], energy[:8], color=FIRST, label="belongs there")
    axes.axvline(N / 4, color=CONTROL_COLOR, linestyle="--")
    axes.set_title(title, loc="left")
    axes.set(ylabel="share of energy", xticks=range(0, 16, 3))
both[0].bar(cycles[8:], energy[8:], **look)
both[1].bar(
    15 - cycles[8:], energy[8:], bottom=energy[15 - cycles[8:]], **look, label="folded"
)
both[1].set_xlabel("k, cycles in the row")
_ = both[1].legend(loc="upper right")

# %% [markdown]
# Theory and measurement differ by {{ gap:.0e}} at most, over {{ measured.numel() }} images and networks. With the share of an unrelated digit they
# differ by {{ gap_other:.2f}} on average. Only {{ shares.square().mean():.1%}} of the energy is folded, and yet the error is {{ measured.mean():.2f}}:
# twice a square root.
#
# ## What makes fine detail?
#
# Take smooth digits: low-passed, so that nothing lies above {{ N / 4:.1f}} cycles. Apply a layer with stride 1. Does anything lie there now?

# %% [markdown]
# ```predict
# id: which-layer-makes-detail
# question: "Which of these layers make waves above the cut-off, from an image without any?"
# choices:
#   - convolution and average pooling, which mix neighbouring pixels
#   - ReLU and max pooling
#   - all four
#   - none of them, as long as the stride is 1
# ```


# %%
def beyond(y):
    """Share of a map's energy above N / 4 cycles along x."""
    return (y - low(y)).square().sum((1, 2, 3)) / y.square().sum((1, 2, 3))


def ring(y):
    """One more row and column, from the other side."""
    return F.pad(y, (0, 1, 0, 1), mode="circular")


smooth, steps = low(low(images).mT).mT, {"convolution": lambda y: y}
steps["and average"] = lambda y: F.avg_pool2d(ring(y), 2, stride=1)
steps |= {"and ReLU": torch.relu, "and maximum": lambda y: F.max_pool2d(ring(y), 2, 1)}

# %%
made, as_they_are = {}, {}
for name, g in steps.items():
    made[name] = torch.stack([beyond(g(conv(smooth))) for conv in convs])
    as_they_are[name] = torch.stack([beyond(g(conv(images))) for conv in convs])
linear = torch.stack([made["convolution"], made["and average"]]).max()

# %%
#| alt: >-
#|   Energy against cycles on a logarithmic scale. The lines of convolution and average end at 7 cycles. Those of ReLU
#|   and maximum go on to 15, a hundred to a thousand times lower.
#| caption: >-
#|   Spectra along x behind one layer, for smooth digits. Convolution and average have nothing beyond the cut-off (dashed). ReLU and maximum
#|   make waves of every frequency.
#| code-fold: true
#| code-title: "Draw the four spectra"
figure, axes = plt.subplots(figsize=(5, 3.6))
for i, (name, g) in enumerate(steps.items()):
    energy = torch.stack([spectrum(g(conv(smooth))) for conv in convs]).mean(0)
    shown = energy.where(energy > 1e-9, torch.nan)
    look = {"color": COLORS[i], "marker": MARKERS[i], "markersize": 5}
    axes.semilogy(cycles, shown, label=name, **look)
axes.axvline(N / 4, color=CONTROL_COLOR, linestyle="--")
axes.set(xlabel="cycles in 30 pixels", ylabel="share of energy", xticks=range(0, 16, 3))
_ = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

# %% [markdown]
# | energy above {{ N / 4:.1f}} cycles | smooth digits | digits as they are |
# |---|---|---|
# | convolution | {{ made["convolution"].mean():.0e}} | {{ as_they_are["convolution"].mean():.1%}} |
# | convolution, average 2 × 2 | {{ made["and average"].mean():.0e}} | {{ as_they_are["and average"].mean():.1%}} |
# | convolution, ReLU | {{ made["and ReLU"].mean():.1%}} | {{ as_they_are["and ReLU"].mean():.1%}} |
# | convolution, maximum 2 × 2 | {{ made["and maximum"].mean():.1%}} | {{ as_they_are["and maximum"].mean():.1%}} |

# %% [markdown]
# ```observed
# id: which-layer-makes-detail
# right: 2
# reason: |
#   A layer that is linear and equivariant multiplies each wave by a number. It can weaken a wave or turn it, but not make one of another
#   frequency. Convolution and average pooling are such layers: {{ linear:.0e}} is rounding. ReLU and the maximum have a kink, and a kink is made of all frequencies. Even
#   a square doubles a frequency: $\cos^2 a = (1 + \cos 2a)/2$.
# ```

# %% [markdown]
# The right column tells the other half. Digits have sharp edges, so their maps have fine detail before any ReLU. There
# ReLU hardly changes the share, and the maximum even lowers it. What a nonlinearity adds counts most *behind* a filter.
#
# Does ReLU break equivariance without a stride? At whole pixels never. But move the smooth digits by *half* a pixel.


# %%
def half_pixel(g):
    """Errors at 1 px, at half a pixel, and the control of these."""
    found = []
    for conv in convs:
        fx, one = g(conv(smooth)), g(conv(move(smooth, 1)))
        part, expected = g(conv(move(smooth, 0.5))), move(fx, 0.5)
        pairs = (one, move(fx, 1)), (part, expected), (part, expected[unrelated])
        found.append(torch.stack([lab.equivariance_error(*pair) for pair in pairs]))
    return torch.stack(found, 1)


kinds = {name: half_pixel(steps[name]) for name in ("convolution", "and ReLU")}
kinds["and square"] = half_pixel(torch.square)

# %% [markdown]
# | stride 1 | error at 1 px, at most | at half a pixel, mean | unrelated digit |
# |---|---|---|---|
# | convolution | {{ kinds["convolution"][0].max():.1g}} | {{ kinds["convolution"][1].mean():.0e}} | {{ kinds["convolution"][2].mean():.2f}} |
# | convolution, ReLU | {{ kinds["and ReLU"][0].max():.1g}} | {{ kinds["and ReLU"][1].mean():.3f}} | {{ kinds["and ReLU"][2].mean():.2f}} |
# | convolution, square | {{ kinds["and square"][0].max():.1g}} | {{ kinds["and square"][1].mean():.0e}} | {{ kinds["and square"][2].mean():.2f}} |
#
# The square is exact: it doubles what lies below the cut-off, and stays below the 15 cycles that the pixels can show. At stride 1, whole-pixel shifts show nothing of
# this. Behind a stride of 2 they do: a pixel of the image is half a pixel of the map. [Gruver et al. 2023](../references.md#gruver2023) measured what tiny
# moves do in hundreds of networks, and found large contributions of pointwise nonlinearities. [Karras et al. 2021](../references.md#karras2021) apply each nonlinearity at a higher
# resolution and low-pass afterwards. [Michaeli et al. 2023](../references.md#michaeli2023) take polynomials, so that the new frequencies have an end.
#
# ## What a blur takes away, and what it cannot
#
# An ideal low-pass filter sees the whole row. A network takes a short blur in its place:
# [Zhang 2019](../references.md#zhang2019) puts a binomial filter before each stride, and calls that *BlurPool*. With 2, 3 and 5 taps its weights along an axis are
# (1, 1), (1, 2, 1) and (1, 4, 6, 4, 1), divided by their sum.


# %%
def blur(*taps):
    """A circular filter along both axes, for 8 channels."""
    line = torch.tensor(taps, dtype=torch.float64)
    line, n = line / line.sum(), len(taps)
    kernel = torch.outer(line, line).expand(8, 1, n, n)
    around = ((n - 1) // 2, n // 2) * 2
    return lambda y: F.conv2d(F.pad(y, around, mode="circular"), kernel, groups=8)


filters = {"none": lambda y: y, "2 taps": blur(1, 1), "3 taps": blur(1, 2, 1)}
filters |= {"5 taps": blur(1, 4, 6, 4, 1), "ideal": lambda y: low(low(y).mT).mT}

# %% [markdown]
# Take convolution, ReLU, blur, stride. Without the blur the error against half a move is {{ measured.mean():.2f}}.

# %% [markdown]
# ```predict
# id: three-taps
# question: "With a blur of 3 taps before the stride: how much of this error is left, in per cent?"
# number: {unit: "%", places: 0}
# ```


# %%
def behind_relu(g):
    return compare(lambda conv, x: g(conv(x).relu())[..., ::2, ::2], half)


blurred = {name: behind_relu(g) for name, g in filters.items()}
left = {name: (one[0].mean() / measured.mean()).item() for name, one in blurred.items()}

# %%
#| alt: >-
#|   Four curves of what a filter lets through against frequency. Those of 2, 3 and 5 taps fall smoothly from 1 to 0, the
#|   longer the sooner. The ideal one is 1 up to a quarter of a cycle per pixel and 0 beyond.
#| caption: >-
#|   What each filter leaves of a wave. Right of the dashed line, everything that is left will fold. Left of it, everything that is missing is
#|   detail that the map could have shown.
#| code-fold: true
#| code-title: "Draw what the filters let through"
frequency = torch.linspace(0, 0.5, 201)
let_through = {f"{n} taps": (torch.pi * frequency).cos() ** (n - 1) for n in (2, 3, 5)}
figure, axes = plt.subplots(figsize=(5, 3))
for i, (name, values) in enumerate(let_through.items(), 1):
    look = {"color": COLORS[i], "marker": MARKERS[i], "markevery": 25}
    axes.plot(frequency, values, label=name, **look)
axes.plot([0, 0.25, 0.25, 0.5], [1, 1, 0, 0], color=COLORS[0], lw=2, label="ideal")
axes.axvline(0.25, color=CONTROL_COLOR, linestyle="--")
axes.set(
    xlabel="cycles per pixel", ylabel="factor", xticks=[0, 0.125, 0.25, 0.375, 0.5]
)
_ = axes.legend()

# %% [markdown]
# ```observed
# id: three-taps
# value: "{{ 100 * left["3 taps"]:.0f}}"
# within: 7
# reason: |
#   2 taps leave {{ left["2 taps"]:.0%}}, 3 taps {{ left["3 taps"]:.0%}} and 5 taps {{ left["5 taps"]:.0%}}; the ideal filter leaves rounding. A short filter cannot
#   end abruptly: at frequency $u$, $n$ taps leave $\cos^{n-1} \pi u$. So a part of every fast wave stays, and slow waves that would
#   have done no harm are weakened, too.
# ```

# %% [markdown]
# Does the filter belong before ReLU or behind it? (ReLU and the stride can be exchanged without any
# difference: ReLU treats each value by itself.)

# %% [markdown]
# ```predict
# id: where-the-filter-belongs
# question: "Put the *ideal* filter before ReLU: convolution, filter, ReLU, stride. What is the error against half a move?"
# choices:
#   - "0, up to rounding: nothing fast reaches ReLU"
#   - "smaller than that of 3 taps behind ReLU, but not 0"
#   - "larger than that of 3 taps behind ReLU"
# ```


# %%
def before_relu(g):
    return compare(lambda conv, x: g(conv(x)).relu()[..., ::2, ::2], half)


too_early = {name: before_relu(g) for name, g in filters.items()}
wrong_order, right_order = (
    a[0].mean(1) for a in (too_early["ideal"], blurred["3 taps"])
)
larger = int((wrong_order > right_order).sum())  # of the networks

# %%
#| alt: >-
#|   Error against half a move for no filter, 2, 3 and 5 taps and the ideal filter. Behind ReLU the error falls to 0.
#|   Before ReLU it falls more slowly, and is higher with the ideal filter than with 5 taps.
#| caption: >-
#|   Error against half a move, one mark for each network. Behind ReLU (circles), a longer filter is better and the ideal one exact. Before ReLU (squares), even the ideal filter
#|   leaves much of the error. Grey: an unrelated digit.
#| code-fold: true
#| code-title: "Draw both orders"
figure, axes = plt.subplots(figsize=(5, 3.6))
orders = {"ReLU, filter, stride": blurred, "filter, ReLU, stride": too_early}
for i, (name, found) in enumerate(orders.items()):
    values = torch.stack([one[0].mean(1) for one in found.values()])
    x = torch.arange(len(found)) + (i - 0.5) * 0.24
    dots = {"color": COLORS[i], "marker": MARKERS[i], "linestyle": "none"}
    axes.plot(x, values, markersize=5, markerfacecolor="none", **dots)
    axes.plot(x, values.mean(1), color=COLORS[i], label=name, lw=1.2)
controls = torch.stack([one[1].mean() for one in blurred.values()])
axes.plot(
    controls, color=CONTROL_COLOR, linestyle="-.", marker="x", label="unrelated digit"
)
axes.set_xticks(range(len(filters)), filters)
axes.set(ylabel="error against half a move", ylim=(0, None))
_ = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1)

# %% [markdown]
# ```observed
# id: where-the-filter-belongs
# right: "{{ 1 if wrong_order.mean() < 1e-6 else 2 if wrong_order.mean() < right_order.mean() else 3 }}"
# value: "{{ wrong_order.mean():.2f}}; 3 taps behind ReLU: {{ right_order.mean():.2f}}"
# reason: |
#   ReLU makes new fast waves of what the filter let pass, and then comes the stride. In {{ larger }} of {{ len(convs) }} networks the ideal filter in the wrong
#   place is worse than three taps in the right one. So the order is convolution, nonlinearity, blur, stride. That is Zhang's order: a strided convolution becomes a
#   convolution with stride 1, ReLU, BlurPool; a max pooling becomes a maximum with stride 1, then BlurPool.
# ```

# %% [markdown]
# There are three things that no filter can do. The map still moves by a *half*, so the best whole move stays far off, even with the ideal filter.
# The next ReLU works at the coarse resolution and makes new fast waves there. And nothing becomes *invariant*: a head may still
# weigh positions ([page 8](08_invariance.py)). [Azulay and Weiss 2019](../references.md#azulay2019) show how trained networks
# change their output under tiny moves, since their strides ignore the sampling theorem.
#
# ## What the meter says
#
# [`lab.meter`][lab.metering.instrument.meter] measures both ways at every layer. Its `error` is that of the best whole move, `interpolated` that of the move by $t/s$
# outputs, with $s$ the layer's step. Here is a max pooling behind convolution and ReLU, then the same with a blur of 3 taps, and with the ideal filter.


# %%
def depthwise(kernel, **options):
    """A fixed circular filter as a layer, for 8 channels."""
    options |= {"padding_mode": "circular", "bias": False, "groups": 8}
    layer = nn.Conv2d(8, 8, kernel.shape, **options).double()
    layer.weight.copy_(kernel.expand_as(layer.weight))
    return layer


slow = (torch.fft.fftfreq(N, dtype=torch.float64).abs() < 1 / 4).double()
sinc = torch.fft.ifft(slow).real.roll(N // 2 - 1)  # the ideal filter's weights
three = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)

# %%
dense_max = nn.Sequential(nn.CircularPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, stride=1))
ideal = [depthwise(w, padding="same") for w in (sinc[None], sinc[:, None])]
pools = {
    "max pooling": [nn.MaxPool2d(2)],
    "3 taps": [dense_max, depthwise(torch.outer(three, three), padding=1, stride=2)],
    "ideal": [dense_max, *ideal, depthwise(torch.ones_like(sinc[:1, None]), stride=2)],
}
found = {}
for name, pool in pools.items():
    network = nn.Sequential(convs[0], nn.ReLU(), *pool).eval()
    found[name] = lab.meter(network, images, [(0, 1)], mode="wrap", seed=SEED).rows[-1]

# %% [markdown]
# | last layer, 1 px | `theory` | `error` | `interpolated` | `control` |
# |---|---|---|---|---|
# | max pooling | {{ found["max pooling"].theory }} | {{ found["max pooling"].error:.2f}} | {{ found["max pooling"].interpolated:.2f}} | {{ found["max pooling"].control:.2f}} |
# | maximum, 3 taps | {{ found["3 taps"].theory }} | {{ found["3 taps"].error:.2f}} | {{ found["3 taps"].interpolated:.2f}} | {{ found["3 taps"].control:.2f}} |
# | maximum, ideal filter | {{ found["ideal"].theory }} | {{ found["ideal"].error:.2f}} | {{ found["ideal"].interpolated:.0e}} | {{ found["ideal"].control:.2f}} |
#
# Look twice at the last line. By its `error` the layer is *broken*, as theory says; by `interpolated` nothing is lost. So read
# `interpolated` as *aliasing*, and the rest of `error` as *moved by a fraction*. It exists only at shifts that
# the [period](../glossary.md#period) does not divide, and it is exact only on a circle: in a frame, the meter's sinc ends after
# three outputs and has an error of its own.
#
# ## Theory and observation

# %%
#| code-fold: true
#| code-title: "State the claims"
# fmt: off
ROUNDING = "float64: Fourier sums of 30 terms, forth and back, are exact to about 1e-15; with room"
PILOT, n = "pilot on 8 networks and 200 digits: ", measured.numel()
def exact(name, observed, *controls, n=n, tolerance=1e-12):  # 0 up to rounding
    controls = tuple(lab.Control(what, float(x), ">=", low) for what, x, low in controls)
    return lab.Claim(name, "exact", 0.0, float(observed), controls, "==", tolerance, ROUNDING, kind="exact", n=n)
def bounded(name, theory, observed, sign, bound, pilot, *control):  # a bound set after a pilot run
    controls = (lab.Control(*control),)
    return lab.Claim(name, theory, bound, float(observed), controls, sign, 0, PILOT + pilot, kind="empirical", n=n)
fold = torch.minimum(cycles, N // 2 - cycles)
by_relu, by_max = (made[f"and {kink}"].mean().item() for kink in ("ReLU", "maximum"))
lowered = as_they_are["and maximum"].mean() / as_they_are["convolution"].mean()
order, half_ratio = wrong_order.mean() / right_order.mean(), (by_half["alias-free"][0].mean() / measured.mean()).item()
claims = [
    exact("alias-free layer, 1 px: largest error against half a move", half_largest,
          ("strided layer, mean", measured.mean(), 0.1), ("unrelated digit, mean", by_half["alias-free"][1].mean(), 0.5)),
    bounded("best whole move, 1 px: mean error, alias-free over strided", "no whole move is a half", whole_ratio,
            ">=", 0.6, "0.85", "half a move, likewise", half_ratio, "<=", 1e-9),
    exact("waves of 0 to 15 cycles, stride 2: largest |cycles seen − min(k, 15 − k)|", (seen - fold).abs().max(),
          ("without the stride", (unstrided - fold).abs().max(), 1), n=len(cycles), tolerance=0.0),
    exact("strided layer: largest |error against half a move − 2 × aliased share|", gap,
          ("share of an unrelated digit, mean", gap_other, 0.02)),
    exact("smooth digits, convolution and average: largest share of energy above the cut-off", linear,
          ("ReLU, mean", by_relu, 1e-4), ("maximum, mean", by_max, 1e-4), n=2 * n, tolerance=1e-24),
    bounded("digits as they are: share above the cut-off, maximum over none", "not said", lowered,
            "<=", 0.8, "0.48", "smooth digits: the maximum's share", by_max, ">=", 1e-4),
    exact("smooth digits, convolution and square: largest error at half a pixel", kinds["and square"][1].max(),
          ("ReLU, mean", kinds["and ReLU"][1].mean(), 1e-3), ("unrelated digit, mean", kinds["and square"][2].mean(), 0.5)),
    bounded("3 taps behind ReLU over none: mean error against half a move", "smaller, not 0", left["3 taps"],
            "<=", 0.5, "0.29; 2 taps 0.48, 5 taps 0.11", "2 taps over none", left["2 taps"], ">=", 0.35),
    bounded("ideal filter before ReLU over 3 taps behind it: mean error against half a move", "ReLU makes fast waves", order,
            ">=", 1.1, "1.5", "ideal filter behind ReLU", blurred["ideal"][0].max().item(), "<=", 1e-12),
    exact("meter, maximum and ideal filter, 1 px: interpolated", found["ideal"].interpolated,
          *((name, found[name].interpolated, 0.01) for name in ("max pooling", "3 taps")), n=len(images)),
]
# fmt: on
lab.check(claims, data=mnist, seeds=[*SEEDS])

# %% [markdown]
# ## Try it yourself
#
# **Exercise 1.** Average pooling 2 × 2 with stride 2 stands in many networks. Which filter of this page is it? Predict its half-move error, then
# measure it.
#
# **Exercise 2.** Blur a max pooling as Zhang does: a maximum with stride 1, the filter, the stride. How large is its half-move error
# without a filter, and how much of it do 3 taps leave?

# %%
#| fold: Solution 1
#| text: |
#|   It is the blur of 2 taps with a stride of 2, and has its error, {{ averaged[0].mean():.2f}}. They differ by {{ averages_differ:.1g}} at most. So a network
#|   with average pooling has a blur already, if a short one.
averaged = compare(lambda conv, x: F.avg_pool2d(conv(x).relu(), 2), half)
averages_differ = (averaged[0] - blurred["2 taps"][0]).abs().max().item()


# %%
#| fold: Solution 2
#| text: |
#|   {{ pooled[0].mean():.2f}} without a filter, and {{ pooled[1].mean():.2f}} with 3 taps: {{ pool_left:.0%}} of it are left.
def max_blur(g, conv, x):
    return g(steps["and maximum"](conv(x).relu()))[..., ::2, ::2]


with_filters = [partial(max_blur, filters[name]) for name in ("none", "3 taps")]
pooled = [compare(f, half)[0] for f in with_filters]
pool_left = (pooled[1].mean() / pooled[0].mean()).item()

# %%
#| code-fold: true
#| code-title: "State the claims of the solutions"
# fmt: off
solved = [
    exact("average pooling and 2 taps: largest difference of the half-move errors", averages_differ,
          ("3 taps, mean", (averaged[0] - blurred["3 taps"][0]).abs().mean(), 0.01)),
    bounded("max pooling, 3 taps over none: mean error against half a move", "smaller, not 0", pool_left,
            "<=", 0.5, "0.26", "none, over the strided layer", (pooled[0].mean() / measured.mean()).item(), ">=", 0.35),
]
# fmt: on
lab.check(solved, data=mnist, seeds=[*SEEDS])

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: "At 1 px, a layer behind a stride of 2 has an error of 0.5 against the best whole move. What follows?"
#   choices:
#     - {text: "It has aliasing.", why: "An alias-free map has nearly the same error there: no whole move is a half."}
#     - {text: "Nothing about aliasing yet.", right: true, why: "Compare with a move by half an output. What is left then is aliasing."}
#     - {text: "It is equivariant to no shift.", why: "At shifts that the stride divides it may be exact."}
# - question: "A row of 16 pixels holds a wave with 6 cycles. A stride of 2 keeps 8 samples. How many cycles do they show?"
#   choices:
#     - {text: "6", why: "Eight samples show 4 cycles at most."}
#     - {text: "3", why: "The wave is not stretched: the 8 samples span the whole row."}
#     - {text: "2", right: true, why: "The kept samples fold 6 onto 8 − 6 = 2."}
# - question: "You have convolution, ReLU, stride 2, and may add one blur. Where?"
#   choices:
#     - {text: "between convolution and ReLU", why: "ReLU makes fast waves of what is left, and the stride folds them."}
#     - {text: "between ReLU and the stride", right: true, why: "There it weakens all that would fold."}
#     - {text: "behind the stride", why: "Folded waves look like slow ones; no filter can tell them apart any more."}
# ```
