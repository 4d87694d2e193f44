"""A convolution of one channel with kernels almost as large as the image, several times faster than `conv2d`.

Along y it is done by frequencies, where a convolution is a product; along x it stays a sum. Written as three matrix
products, which is what processors do best. For small kernels `conv2d` is faster.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor


class WideConvolution:
    """Computes `torch.nn.functional.conv2d(x, weight, bias)` for one input channel, as often as it is called.

    Rows and columns around the images that all hold one value, as on a canvas with a background, cost almost nothing:
    that value is convolved by itself, and what is left is 0 there.

    Args:
        weight: one kernel for each output channel.
        bias: of each output channel.

    Examples:
        >>> import torch
        >>> weight, x = torch.rand(10, 1, 27, 27), torch.rand(2, 1, 55, 55)
        >>> found = WideConvolution(weight, torch.zeros(10))(x)
        >>> torch.allclose(found, torch.nn.functional.conv2d(x, weight), atol=1e-3)
        True
    """

    def __init__(self, weight: Float[Tensor, "o 1 h w"], bias: Float[Tensor, " o"] | None) -> None:
        self.weight, self.sums = weight, weight.sum((1, 2, 3))
        self.bias = torch.zeros_like(self.sums) if bias is None else bias
        self.matrices: dict[tuple[int, int, int], tuple[Tensor, Tensor, Tensor]] = {}  # by height, width and margin

    def __call__(self, x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n o y x"]:
        """As `conv2d`; in memory, the images are innermost."""
        (n, _, h, w), margin = x.shape, constant_margin(x)
        if (h, w, margin) not in self.matrices:
            self.matrices[h, w, margin] = _matrices(self.weight, h, w, margin)
        analysis, kernels, synthesis = self.matrices[h, w, margin]
        around = x[0, 0, 0, 0] if margin else x.new_zeros(())
        inner = x[:, 0, margin : h - margin, margin : w - margin] - around
        rows, columns = inner.shape[1:]
        waves = (analysis @ inner.permute(1, 2, 0).reshape(rows, columns * n)).view(-1, 2 * columns, n)
        constant = self.bias + around * self.sums
        out = x.new_empty(len(kernels), len(synthesis), kernels.shape[2] // 2 * n)
        for o, kernel in enumerate(kernels):  # one by one, so that the products stay in the cache
            out[o] = constant[o]
            out[o].addmm_(synthesis, torch.bmm(kernel, waves).view(synthesis.shape[1], -1))
        return out.view(*out.shape[:2], -1, n).permute(3, 0, 1, 2)


def constant_margin(x: Float[Tensor, "n 1 h w"]) -> int:
    """How many of the outermost rows and columns on every side hold the value of the first image's corner alone."""
    corner, (h, w) = x[0, 0, 0, 0], x.shape[2:]
    differs = ((x.amax(0) != corner) | (x.amin(0) != corner))[0]
    rows, columns = differs.any(1).nonzero(), differs.any(0).nonzero()
    if not len(rows):
        return (min(h, w) - 1) // 2
    return min(int(end) for end in (rows[0], columns[0], h - 1 - rows[-1], w - 1 - columns[-1]))


def _matrices(weight: Float[Tensor, "o 1 h w"], height: int, width: int, margin: int) -> tuple[Tensor, Tensor, Tensor]:
    """From rows to frequencies k; from input to output columns, for each kernel and k; from frequencies to rows.

    A complex number is two real ones. Frequencies are in falling order: the largest are added last, which halves the
    rounding.
    """
    h, w = weight.shape[2:]
    rows, columns, out_columns = height - 2 * margin, width - 2 * margin, width - w + 1
    length = rows + margin  # the shortest circle on which nothing that counts meets itself
    k = torch.arange(length // 2, -1, -1, device=weight.device)

    def waves(first: int, count: int) -> Complex[Tensor, "k place"]:
        place = torch.arange(first, first + count, device=weight.device)
        return torch.exp(-2j * math.pi / length * (k[:, None] * place).double())

    spectrum = waves(0, h).conj() @ (weight[:, 0].double() + 0j)  # o k w
    column = torch.arange(columns, device=k.device) + margin - torch.arange(out_columns, device=k.device)[:, None]
    kernels = spectrum[:, :, column.clamp(0, w - 1)] * ((column >= 0) & (column < w))  # o k out_columns columns
    re, im = kernels.real.to(weight.dtype), kernels.imag.to(weight.dtype)
    share = (2 - ((k == 0) | (2 * k == length)).double())[:, None] / length  # others stand for their conjugates too
    analysis, synthesis = waves(0, rows), waves(-margin, height - h + 1) * share
    return (
        torch.stack([analysis.real, analysis.imag], 1).flatten(0, 1).to(weight.dtype),
        torch.cat([torch.cat([re, -im], 3), torch.cat([im, re], 3)], 2),
        torch.stack([synthesis.real, synthesis.imag], 1).flatten(0, 1).T.to(weight.dtype).contiguous(),
    )
