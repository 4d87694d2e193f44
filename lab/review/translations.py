"""Pairs of images: is the second a translation of the first, by what, and if not, what else was done to it?

All is decided from the pixels, as grey levels: 255 of them between the background (the commonest value at the border of
the first images, or of each where they were scaled one by one) and the ink. Levels are whole numbers: comparisons are
exact, whatever the images were scaled to.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.errors import InputError, require
from lab.metrics import derangement
from lab.review.feedback import Feedback, Notes, knowledge
from lab.review.reading import as_tensor, columns, embedded, is_images
from lab.shifting import ink_margins, shift

LEVELS = 255
MOST = 500  # of the pairs that are no plain translations, how many are looked at more closely
SAMPLE = 24  # of these, how many are compared with rotated and resized ones
ANGLES = [float(angle) for angle in range(-45, 46, 5) if angle]
ZOOMS = [0.7, 0.8, 0.9, 1.1, 1.2, 1.3]
UNKNOWN = -99  # displacement of a pair that has none


@dataclass
class Sorted:
    """Pairs, sorted by what was done to them.

    Attributes:
        x: grey levels of the first images, `n h w`.
        y: those of the second.
        ground: value of the background, `n`.
        span: by how much `LEVELS` levels differ from it, `n`.
        moves: displacement dy, dx of each pair, `n 2`; `UNKNOWN` where there is none.
        looked: which pairs were looked at, `n`: no more than `MOST` of those that are no plain translations.
        kinds: name of a mistake -> which pairs, `n`.
    """

    x: Tensor
    y: Tensor
    ground: Tensor
    span: Tensor
    moves: Tensor
    looked: Tensor
    kinds: dict[str, Tensor] = field(default_factory=dict)

    @property
    def rest(self) -> Tensor:
        """The numbers of the pairs of which nothing is known yet."""
        known = [(self.moves != UNKNOWN).all(1), *self.kinds.values()]
        return (self.looked & ~torch.stack(known).any(0)).nonzero()[:, 0]

    @property
    def weights(self) -> Tensor:
        """How many pairs each one stands for: of those that are no plain translations, only some are looked at."""
        close = torch.stack([torch.zeros_like(self.looked), *self.kinds.values()]).any(0)
        return torch.where(close, 1 + int((~self.looked).sum()) / max(int(close.sum()), 1), 1.0)

    def put(self, kind: str, index: Tensor, moves: Tensor | None = None) -> None:
        """These pairs are of a kind; and so far were they moved."""
        if len(index):
            mask = self.kinds.setdefault(kind, torch.zeros(len(self.x), dtype=torch.bool))
            mask[index] = True
            if moves is not None:
                self.moves[index] = moves


def read_pairs(first: Any, second: Any = None) -> tuple[list[Tensor], list[Tensor]]:
    """The columns of both: images `n h w` first, then what stands beside them.

    Raises:
        InputError: there are no images, or not of one size.
    """
    ones = columns(first)
    if second is None:
        images = [one for one in ones if is_images(one)]
        require(len(images) == 2, f"without `second`, `first` must hold pairs: it holds {len(images)} sets of images")
        others = [one for one in ones if not is_images(one)]
        return [images[0], *others], [images[1]]
    two = columns(second)
    for name, found in (("first", ones), ("second", two)):
        require(is_images(found[0]), f"`{name}` must hold images, n 1 28 28: shape {tuple(found[0].shape)}")
        bad = int((~found[0].isfinite()).sum())
        require(not bad, f"`{name}` must be finite: {bad} values are NaN or infinite")
    sizes = [tuple(found[0].shape[1:]) for found in (ones, two)]
    require(sizes[0] == sizes[1], f"`first` and `second` must be of one size: {sizes[0]} and {sizes[1]}")
    return ones, two


def sort_pairs(x: Tensor, y: Tensor) -> Sorted:
    """Find out what was done to each pair of images, `n h w`."""
    ground, span = _scale(x)
    moves, all_of_them = torch.full((len(x), 2), UNKNOWN), torch.ones(len(x), dtype=torch.bool)
    found = Sorted(_levels(x, ground, span), _levels(y, ground, span), ground, span, moves, all_of_them)
    _exact(found, "", lambda images: images)
    if len(found.rest) > len(x) // 2:
        _other_scale(found, y)
    rest = found.rest
    found.looked[rest] = False
    found.looked[rest[torch.linspace(0, len(rest) - 1, min(MOST, len(rest))).long()]] = True
    for look in (_cut, _wrapped, _filled, _turned, _strangers, _elsewise):
        if len(found.rest):
            look(found)
    return found


def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """The value of the background, and by how much ink differs from it at most; `n`, of each image only if need be."""
    edge = torch.cat([x[:, (0, -1)].flatten(1), x[:, 1:-1, (0, -1)].flatten(1)], 1)
    own, commonest = edge.mode(1).values, edge.flatten().mode().values
    tops = [_top(x[None] - commonest), _top(x - own[:, None, None])]
    require(tops[0], "there is no ink in `first`: all pixels are the same")
    one_by_one = ((own - commonest).abs() > tops[0].abs() / LEVELS).double().mean() > 0.5
    return (own, tops[1]) if one_by_one else (commonest.expand(len(x)), tops[0].expand(len(x)))


def _top(ink: Tensor) -> Tensor:
    """The largest difference of each image, with its sign."""
    ink = ink.flatten(1)
    return ink.gather(1, ink.abs().argmax(1, keepdim=True))[:, 0]


def _levels(images: Tensor, ground: Tensor, span: Tensor) -> Tensor:
    return ((images - ground[:, None, None]) / span[:, None, None] * LEVELS).round().nan_to_num()


def _exact(found: Sorted, kind: str, change: Callable[[Tensor], Tensor]) -> None:
    """Pairs of which the second is a translation of the changed first, no ink lost: their ink has one shape."""
    index = found.rest
    if not len(index):
        return
    x, y = change(found.x[index]), found.y[index]
    (up, _, left, _), (down, _, right, _) = (vars(ink_margins(one[:, None])).values() for one in (x, y))
    moves = torch.stack([down - up, right - left], 1)
    same = ((_moved(x, moves) - y).abs() <= 1).flatten(1).all(1)
    same &= (_energy(x) > 0) & (_energy(x) == _energy(y))
    blank = (_energy(x) == 0) & (_energy(y) == 0)
    if kind:
        found.put(kind, index[same], None)
    else:
        found.moves[index[same]] = moves[same]
        found.moves[index[blank]] = 0


def _moved(x: Tensor, moves: Tensor) -> Tensor:
    return shift(x[:, None], *moves.unbind(1))[:, 0]


def _energy(x: Tensor) -> Tensor:
    return x.square().sum((-2, -1))


def _other_scale(found: Sorted, y: Tensor) -> None:
    """Where the second images have a background or an ink of their own, look at them on their own scale."""
    own = Sorted(found.x, _levels(y, *_scale(y)), found.ground, found.span, found.moves.clone(), found.looked)
    _exact(own, "", lambda images: images)
    if len(own.rest) < len(found.rest) // 2:
        index = ((own.moves != found.moves).any(1)).nonzero()[:, 0]
        found.put("different-scales", index, own.moves[index])
        found.y = own.y


def _cut(found: Sorted) -> None:
    """A translation of which some ink has left the frame, and the background came in."""
    index = found.rest
    errors = Errors.of(found.x[index], found.y[index])
    least, moves = errors.least(errors.frame)
    same = (least <= errors.rounding) & (_energy(found.y[index]) > 0)
    found.put("ink-lost", index[same], moves[same])


def _wrapped(found: Sorted) -> None:
    """What has left on one side has come in on the other."""
    index = found.rest
    x, y = found.x[index], found.y[index]
    together = torch.fft.irfft2(torch.fft.rfft2(x).conj() * torch.fft.rfft2(y), s=x.shape[1:])
    best = together.flatten(1).argmax(1)
    h, w = x.shape[1:]
    dy, dx = (best // w + h // 2) % h - h // 2, (best % w + w // 2) % w - w // 2
    each = zip(x, dy.tolist(), dx.tolist(), strict=True)
    rolled = torch.stack([one.roll(move, (0, 1)) for one, *move in each])
    same = ((rolled - y).abs() <= 1).flatten(1).all(1)
    found.put("wrapped", index[same], torch.stack([dy, dx], 1)[same])


def _filled(found: Sorted) -> None:
    """A translation, but something else than the background came in."""
    index = found.rest
    errors = Errors.of(found.x[index], found.y[index])
    least, moves = errors.least(errors.overlap)
    same = (least <= errors.rounding) & (moves != 0).any(1)
    inside = _moved(torch.ones_like(found.x[index]), moves) > 0
    strips = [y[~mask] for y, mask in zip(found.y[index], inside, strict=True)]
    entered = torch.stack([strip.mode().values if len(strip) else torch.tensor(math.nan) for strip in strips])
    ground, span = found.ground[index], found.span[index]
    after = ((entered / LEVELS * span + ground).abs() <= span.abs() / LEVELS) & (ground < 0)
    found.put("filled-after-normalising", index[same & after], moves[same & after])
    found.put("filled-otherwise", index[same & ~after], moves[same & ~after])


def _turned(found: Sorted) -> None:
    """Mirrored, or rotated by right angles, without a loss."""
    for quarter in (1, 2, 3):
        _exact(found, "rotated", lambda x, k=quarter: x.rot90(k, (-2, -1)))  # type: ignore[misc]  # a default
    for quarter in (0, 1, 2, 3):
        _exact(found, "mirrored", lambda x, k=quarter: x.rot90(k, (-2, -1)).flip(-1))  # type: ignore[misc]  # a default


def _strangers(found: Sorted) -> None:
    """The second has the ink of another first image."""
    owners = {key: i for i, key in reversed([*enumerate(map(_ink, found.x))])}
    index = [i for i in found.rest.tolist() if _ink(found.y[i]) in owners]
    found.put("unmatched", torch.tensor(index, dtype=torch.long))


def _ink(levels: Tensor) -> bytes:
    """The ink in its bounding box: the same wherever it is."""
    rows, columns = ((levels != 0).any(dim).nonzero()[:, 0] for dim in (1, 0))
    if not len(rows):
        return b""
    box = levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return repr(tuple(box.shape)).encode() + box.short().numpy().tobytes()


def _elsewise(found: Sorted) -> None:
    """What no exact comparison explains: interpolated, rotated, resized, another digit, or something else."""
    rest = found.rest
    for kind, mask in found.kinds.items():
        if int(mask.sum()) > 4 * len(rest):  # what the others are, cut or partly so
            found.put(kind, rest)
            return
    index = rest[torch.linspace(0, len(rest) - 1, min(SAMPLE, len(rest))).long()]
    kinds = _guesses(found.x[index], found.y[index])
    found.put(max(dict.fromkeys(kinds), key=kinds.count), rest)


def _guesses(x: Tensor, y: Tensor) -> list[str]:
    """What explains each pair best: the residual is a share of the energy of the second image."""
    plain, moves = _residual(x, y)
    strange = _residual(x[derangement(len(x))], y)[0].median() if len(x) > 1 else torch.tensor(1.0)
    rounding = x[0].numel() / _energy(y).clamp(min=1)  # one grey level in each pixel
    mixed = torch.stack([_kernel_residual(*each) for each in zip(x, y, moves, strict=True)])
    rotated, resized = _warps(x, y, ANGLES, _rotation), _warps(x, y, ZOOMS, _zoom)
    kinds = {
        "interpolated": mixed <= torch.maximum(rounding, plain / 20),
        "rotated": rotated <= torch.minimum(plain / 2, resized),
        "resized": resized <= plain / 2,
        "unmatched": plain >= 0.7 * strange,
    }
    return [next((kind for kind, mask in kinds.items() if mask[i]), "no-translation") for i in range(len(x))]


def _residual(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """What the best translation leaves of y, as a share of its energy, and which it is."""
    errors = Errors.of(x, y)
    least, moves = errors.least(errors.frame)
    return least / _energy(y).clamp(min=1), moves


def _kernel_residual(x: Tensor, y: Tensor, move: Tensor) -> Tensor:
    """What the best mixture of 25 neighbouring translations leaves: nothing, where y was interpolated."""
    steps = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    columns = _moved(x.expand(len(steps), *x.shape), (move + steps).clamp(-27, 27)).flatten(1).T
    fit = torch.linalg.lstsq(columns, y.flatten()[:, None], driver="gelsd").solution
    left: Tensor = (columns @ fit - y.flatten()[:, None]).square().sum() / y.square().sum().clamp(min=1)
    return left


def _warps(x: Tensor, y: Tensor, values: Sequence[float], matrix: Callable[[float], Tensor]) -> Tensor:
    """The least residual over some warps of x."""
    return torch.stack([_residual(_warp(x, matrix(value)), y)[0] for value in values]).amin(0)


def _warp(x: Tensor, matrix: Tensor) -> Tensor:
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), [len(x), 1, *x.shape[1:]], align_corners=False)
    return F.grid_sample(x[:, None], grid, align_corners=False)[:, 0]


def _rotation(angle: float) -> Tensor:
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return torch.tensor([[c, -s, 0], [s, c, 0]], dtype=torch.float64)


def _zoom(factor: float) -> Tensor:
    return torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]], dtype=torch.float64)


@dataclass(frozen=True)
class Errors:
    """‖T x − y‖² of each pair for every displacement, by Fourier transforms; `n 2h 2w`, displacements as in `fftfreq`.

    Attributes:
        overlap: where the moved first image is defined; infinite where less than half of its ink still is.
        frame: everywhere, with background where it is not defined.
        rounding: what an error of a grey level in every pixel would be.
    """

    overlap: Tensor
    frame: Tensor
    rounding: int

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "Errors":
        """Of grey levels, `n h w`."""
        size = [2 * side for side in x.shape[1:]]
        X, XX, Y, YY, one = (torch.fft.rfft2(a, s=size) for a in (x, x.square(), y, y.square(), torch.ones_like(x)))

        def along(a: Tensor, b: Tensor) -> Tensor:
            both: Tensor = torch.fft.irfft2(a.conj() * b, s=size)
            return both.round()

        kept, common, outside = along(XX, one), along(X, Y), along(one, YY)
        overlap = kept - 2 * common + outside
        frame = kept - 2 * common + _energy(y)[:, None, None]
        allowed = (2 * kept >= _energy(x)[:, None, None]) & (kept > 0)
        return cls(overlap.where(allowed, math.inf), frame, x[0].numel())

    @staticmethod
    def least(errors: Tensor) -> tuple[Tensor, Tensor]:
        """The least error of each pair, and at which displacement dy, dx."""
        h, w = errors.shape[1:]
        least, place = errors.flatten(1).min(1)
        moves = torch.stack([place // w, place % w], 1)
        return least, (moves + torch.tensor([h, w]) // 2) % torch.tensor([h, w]) - torch.tensor([h, w]) // 2


def pairs(
    first: Any, second: Any = None, dy: Any = None, dx: Any = None, labels: Any = None, second_labels: Any = None,
    shifts: Any = None,
) -> Feedback:  # fmt: skip
    """Review pairs of mutually translated images.

    Args:
        first: the images, in any form: tensor, array, list, Dataset, DataLoader; or pairs, without `second`.
        second: the translated images, in the same order.
        dy: pixels down from the first to the second, one number or one a pair, if there are any.
        dx: pixels right.
        labels: the digits.
        second_labels: those of the second images.
        shifts: dy and dx together, `n 2`, in either order.

    Examples:
        >>> import lab
        >>> from lab import review
        >>> digits = lab.load_mnist("embedded").test.images[:64]
        >>> review.pairs(digits, digits.flip(-1)).mistakes
        ('mirrored',)
    """
    notes = Notes("pairs")
    said = ((dy, dx) if dy is not None and dx is not None else ()) if shifts is None else (shifts,)
    try:
        held = read_pairs(first, second)
        found = _together(held[0][0], held[1][0], notes)
        _kinds(found, notes)
        _spread(found, notes)
        _declared(found, said, notes)
        held = ([*held[0]], held[1][: 1 if "unmatched" in found.kinds else None])  # whose labels differ all the same
        given = zip((labels, second_labels), held, strict=True)
        _labelled(found, [_digits(_beside(columns) if one is None else one) for one, columns in given], notes)
    except InputError as error:
        notes.unseen.append(f"the pairs: {error}")
    lost = [one for one in notes.findings if one.mistake == "ink-lost"]  # which the others may explain
    notes.findings[:] = [one for one in notes.findings if one not in lost] + lost
    return notes.feedback()


def _together(x: Tensor, y: Tensor, notes: Notes) -> Sorted:
    """Sort as many pairs as both have images for."""
    n = min(len(x), len(y))
    if len(x) != len(y):
        notes.find("unmatched", f"`first` holds {len(x):,} images, and `second` {len(y):,}.")
    return sort_pairs(x[:n], y[:n])


def _which(found: Sorted, mask: Tensor) -> str:
    """How many of those looked at, and which first."""
    index = mask.nonzero()[:, 0].tolist()
    more = ", …" if len(index) > 3 else ""
    of = f"{int(found.looked.sum()):,} pairs{'' if found.looked.all() else ' looked at'}"
    return f"{len(index):,} of {of} (numbers {', '.join(map(str, index[:3]))}{more})"


def _kinds(found: Sorted, notes: Notes) -> None:
    """What was done to pairs that should not be, the commonest first."""
    for kind, mask in sorted(found.kinds.items(), key=lambda item: -int(item[1].sum())):
        said = f"In {_which(found, mask)} {knowledge()['pairs'][kind].format(ground=found.ground.median())}"
        if kind not in ("ink-lost", "wrapped"):
            notes.find(kind, f"{said}.")
        elif (lost := _lost(found, mask)) > knowledge()["bounds"]["ink_lost"]:
            notes.find(kind, f"{said}: {lost:.1%} of all ink.")
        else:
            notes.seen.append(f"in {_which(found, mask)} a little ink has left the frame: leave those out")
    exact = found.looked & ~torch.stack([*found.kinds.values(), ~found.looked]).any(0)
    if exact.any():
        notes.seen.append(f"in {_which(found, exact)} the second image is an exact translation of the first")


def _lost(found: Sorted, mask: Tensor) -> float:
    """The share of all ink that has left the frame."""
    x = found.x[mask]
    before, after = (one.abs().sum().item() for one in (x, _moved(x, found.moves[mask])))
    return (before - after) / found.x[found.looked].abs().sum().clamp(min=1).item()


def _spread(found: Sorted, notes: Notes) -> None:
    """Whether the displacements are different enough to say something."""
    known, none = found.moves[(found.moves != UNKNOWN).all(1)], (found.moves == 0).all(1)
    if len(known) < 2 or 2 * len(known) < int(found.looked.sum()):
        notes.unseen.append(f"how the displacements are spread: {len(known):,} of {len(found.x):,} pairs have one")
        return
    different, which = known[known.any(1)].unique(dim=0, return_inverse=True)
    counts = torch.bincount(which, found.weights[found.moves.any(1) & (found.moves != UNKNOWN).all(1)])
    if int(none.sum()) > 2 * max(counts.tolist(), default=0):  # more often than any other by far: not by chance
        notes.find("zero-displacements", f"In {_which(found, none)} nothing has moved.")
    elif none.any():
        notes.seen.append(f"in {_which(found, none)} nothing has moved: they say nothing, leave them out")
    if not len(different):
        return
    dy, dx = different.any(0).tolist()
    if len(different) == 1:
        down, right = different[0].tolist()
        notes.find("one-displacement", f"All {len(known):,} pairs are moved by dy={down}, dx={right}.")
    elif torch.linalg.matrix_rank(different.double()).item() == 1:
        where = "along one diagonal" if dy and dx else "up and down" if dy else "left and right"
        notes.find("one-direction", f"All {len(known):,} pairs are moved {where} only.")
    else:
        (y, x), (down, right) = different.amin(0).tolist(), different.amax(0).tolist()
        notes.seen.append(f"{len(different)} displacements, dy from {y} to {down} and dx from {x} to {right}")


def _declared(found: Sorted, said: Sequence[Any], notes: Notes) -> None:
    """Whether the displacements are what the pixels say: `dy, dx`, or `n 2` of them in either order."""
    known = (found.moves != UNKNOWN).all(1)
    if not said or not known.any():
        notes.unseen.append("`dy` and `dx`: " + ("there are none" if known.any() else "no pair has a displacement"))
        return
    try:
        parts = as_tensor(said[0]).reshape(-1, 2).unbind(1) if len(said) == 1 else [as_tensor(one) for one in said]
        given = torch.stack([one.double().reshape(-1).expand(len(known)) for one in parts], 1)[known]
    except (InputError, RuntimeError):
        notes.find("displacements-differ", "`dy` and `dx` are not one number, nor one for each pair.")
        return
    true = found.moves[known].double()
    if (given == true).all() or (len(said) == 1 and (given == true.flip(1)).all()):
        notes.seen.append("the displacements that you say agree with the pixels")
        return
    wrong = known.clone()
    wrong[known] = (given != true).any(1)
    (a, b), (c, d) = (one[(given != true).any(1)][0].tolist() for one in (given, true))
    first, which = int(wrong.nonzero()[0, 0]), _which(found, wrong)
    did = f"You say dy={a:g}, dx={b:g} of pair {first}; its pixels say dy={c:g}, dx={d:g}. So in {which}."
    notes.find(_disagreement(given, true), did)


def _disagreement(given: Tensor, true: Tensor) -> str:
    """Which mistake makes the displacements that were given of the true ones, in nine pairs of ten."""
    down, right = torch.tensor([1.0, -1.0]).to(true), torch.tensor([-1.0, 1.0]).to(true)
    ways = {"sign-turned": (-true, true * down, true * right), "axes-swapped": (true.flip(1), -true.flip(1))}
    for name, each in ways.items():
        if max((given == way).all(1).double().mean().item() for way in each) > 0.9:
            return name
    return "displacements-differ"


def _digits(labels: Any) -> Tensor | None:
    """One label an image, also where classes are columns; None where there are none."""
    if labels is None:
        return None
    found = as_tensor(labels)
    return found.argmax(1) if found.dim() == 2 and found.shape[1] == 10 else found.reshape(-1)


def _beside(held: list[Tensor]) -> Tensor | None:
    """The whole numbers that stand beside images, if there is one for each: their labels."""
    whole = [one for one in held[1:] if not one.is_floating_point()]
    return whole[0] if len(whole) == 1 else None


def _labelled(found: Sorted, labels: list[Tensor | None], notes: Notes) -> None:
    """Whether the labels are those of the digits, and the same for both."""
    ones, two = labels
    if ones is None or len(found.x) < SAMPLE:
        notes.unseen.append("the labels: " + ("there are none" if ones is None else "there are too few"))
        return
    if len(ones) != len(found.x) or (two is not None and len(two) != len(ones)):
        notes.find("labels-differ", f"There are {len(ones):,} labels for {len(found.x):,} pairs.")
        return
    agree = (_nearest(found.x) == ones).double().mean().item()
    if two is not None and (bad := ones != two).any():
        notes.find("labels-differ", f"In {_which(found, bad)} both images have different labels.")
    elif agree < knowledge()["bounds"]["labels"]:
        did = f"A simple classifier agrees with {agree:.0%} of your labels; with right ones, with most."
        notes.find("labels-differ", did)
    else:
        notes.seen.append("the labels are those of the digits")


def _nearest(levels: Tensor) -> Tensor:
    """The digit whose mean image is nearest, each moved to the middle of its frame."""
    train = embedded().train
    means = torch.stack([_centred(train.images[train.labels == digit, 0].double()).mean(0) for digit in range(10)])
    ours = _centred(levels.clamp(0, LEVELS) / LEVELS)
    return torch.cdist(ours.flatten(1), means.flatten(1)).argmin(1)


def _centred(images: Tensor) -> Tensor:
    margins = ink_margins(images[:, None])
    return shift(images[:, None], (margins.down - margins.up) // 2, (margins.right - margins.left) // 2)[:, 0]
