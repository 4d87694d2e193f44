"""The training: did the network learn what it can, from digits that stay where they are, and who says how much?"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from lab.checkpoints import restored
from lab.data import MEAN, STD, Split
from lab.errors import InputError
from lab.models import scores
from lab.observing import original
from lab.review.feedback import Feedback, Notes, knowledge
from lab.review.networks import close, given_layers, given_weights, no_network
from lab.review.reading import call, embedded, fitting, quiet
from lab.shifting import shift

USUAL = ((1.0, 0.0), (1 / STD, -MEAN / STD), (2.0, -1.0), (255.0, 0.0))  # factor and offset of images in [0, 1]
DISTANCE = 3  # pixels: far enough that a network that saw no moved digit loses most of its accuracy
SAMPLE = 500
EXACT = 2**-22  # of a share: four roundings of float32
FEW = 64  # images, as the first batch often has
BATCHES = (8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 200, 250, 256, 500, 512, 1000, 1024)  # usual sizes
Scale = tuple[float, float]
Splits = Sequence[Split]


def training(
    model: Any, accuracy: Any = None, *, tests: Splits = (), trains: Splits = (), scale: Scale | None = None
) -> Feedback:
    """Review what the network has learnt, and how its accuracy was measured.

    Args:
        model: the trained network.
        accuracy: what the student reports, as a share or in per cent; not looked at without it.
        tests: the test images (in [0, 1]) that the accuracy may be of; the embedded ones are always among them.
        trains: likewise the training images.
        scale: factor and offset that make of pixels in [0, 1] what the network was trained on; beside it the
            usual ones are tried, and the one that gives the best accuracy is taken.

    Examples:
        >>> import lab
        >>> from lab import review
        >>> review.training(lab.build_model("given", seed=0)).mistakes
        ('untrained',)
    """
    notes, digits = Notes("training"), embedded().test
    if not isinstance(model, nn.Module):
        return Feedback("training", unseen=(no_network(model),))
    model = original(model)
    notes.unseen.append("how it was trained: what the network does was looked at, neither loop nor optimiser")
    with restored(model), quiet(), torch.no_grad():
        try:
            _mode(model, digits.images[:16], notes)
            model.eval()
            scales = [*filter(None, [scale]), *USUAL]
            best, at = max((hits(model, digits, one), one) for one in scales)
            if _learnt(model, digits, best, scale or at, accuracy, notes):
                _moved(model, digits, best, at, notes)
                _reported(
                    accuracy, (digits, *tests), trains, lambda split: [hits(model, split, one) for one in scales], notes
                )
        except InputError as error:
            notes.unseen.append(str(error))
    return notes.feedback()


def hits(model: nn.Module, split: Split, scale: Scale = USUAL[1]) -> float:
    """Share of the images, in [0, 1] and scaled here, that the network classifies right."""
    images = fitting(model, split.images * scale[0] + scale[1])
    found = [scores(call(model, part, on="test images")).argmax(1).cpu() for part in images.split(1000)]
    return (torch.cat(found) == split.labels).double().mean().item()


def moved_hits(model: nn.Module, split: Split, scale: Scale = USUAL[1]) -> float:
    """The same, when the digits are moved by `DISTANCE` pixels: mean over the eight directions."""
    steps = [(dy, dx) for dy in (-DISTANCE, 0, DISTANCE) for dx in (-DISTANCE, 0, DISTANCE) if dy or dx]
    each = [hits(model, Split(shift(split.images, dy, dx), split.labels), scale) for dy, dx in steps]
    return sum(each) / len(each)


def _mode(model: nn.Module, images: Tensor, notes: Notes) -> None:
    """Notice a network that was left in training mode, and answers otherwise there."""
    images, was = fitting(model, images), model.training
    now = [scores(call(model, images, on="a few digits")) for _ in range(2)]
    if was and not all(close(one, scores(call(model.eval(), images, on="a few digits"))) for one in now):
        did = "Your network is in training mode, and answers otherwise than in evaluation mode."
        notes.find("training-mode", did)


def _learnt(model: nn.Module, digits: Split, best: float, at: Scale, accuracy: Any, notes: Notes) -> bool:
    weights, bound = given_weights(model), knowledge()["bounds"]["untrained"]
    # at the scale of the program's images; a network that is reported to know digits was trained at another
    dead = weights and bool((given_layers(weights, fitting(model, digits.images * at[0] + at[1])).conv <= 0).all())
    if best >= bound and (not dead or (_share(accuracy) or 0) >= bound):
        notes.seen.append(f"it has learnt: {best:.1%} of {len(digits):,} test digits right")
        return True
    if dead:
        did = f"For all {len(digits):,} digits, ReLU makes 0 of everything that your convolution returns."
        notes.find("dead", did)
    else:
        did = f"Your network has {best:.1%} of {len(digits):,} test digits right; trained ones have over {bound:.0%}."
        notes.find("untrained", did)
    return False


def _moved(model: nn.Module, digits: Split, best: float, at: Scale, notes: Notes) -> None:
    if given_weights(model) is None:
        return
    left, bound = moved_hits(model, digits.sample(SAMPLE, seed=0), at), knowledge()["bounds"]["augmented"]
    said = f"{best:.0%} of the digits right where they are, and {left:.0%} of them when moved by {DISTANCE} pixels"
    if left > bound * best:
        did = f"Your network has {said}; one that saw no moved digit keeps at most {bound:.0%} of its accuracy."
        notes.find("augmented", did)
    else:
        notes.seen.append(f"trained on digits that stay where they are: {said}")


def _reported(accuracy: Any, tests: Splits, trains: Splits, true: Callable[[Split], list[float]], notes: Notes) -> None:
    """Compare what is reported with the accuracy on all images of each set."""
    share, within = _share(accuracy), knowledge()["bounds"]["reported"]
    if share is None:
        why = "there is no number called `test_accuracy` or `accuracy`"
        notes.unseen.append(f"on which images you measured the accuracy: {why}")
        return

    def is_of(splits: Splits, within: float) -> bool:
        return any(abs(share - one) <= within for split in splits for one in true(split))

    few = _of_few(share, tests, trains, true)
    # near that of the test images; and no share of so many, but exactly that of the training images?
    if is_of(tests, within) and not few and (_can_be_of(share, tests) or not is_of(trains, EXACT)):
        notes.seen.append(f"the accuracy that you report, {share:.1%}, is that on all test images")
        return
    did = f"You report {share:.2%}; on all {len(tests[-1]):,} test images it is {max(true(tests[-1])):.2%}."
    if is_of(trains, within) and not few:
        notes.find("accuracy-on-training-digits", did)
    elif len(tests) > 1 or few:
        notes.find("not-all-test-images", did)
    else:
        notes.unseen.append(f"whether {share:.1%} is the accuracy on all test images: which ones you used is unknown")


def _can_be_of(share: float, splits: Splits) -> bool:
    """Whether so many images can have it."""
    return any(abs(share * len(split) - round(share * len(split))) <= EXACT * len(split) for split in splits)


def _of_few(share: float, tests: Splits, trains: Splits, true: Callable[[Split], list[float]]) -> bool:
    """Whether it is 6 / 7, say: no share of a whole set, and no mean over batches; whatever it is near to by chance."""
    if _can_be_of(share, (*tests, *trains)) or abs(Fraction(share).limit_denominator(FEW) - share) > EXACT:
        return False
    return not any(_over_batches(share, one, len(split)) for split in tests for one in true(split))


def _over_batches(share: float, right: float, n: int) -> bool:
    """Whether it can be the mean over batches of a usual size, the last of them smaller, where a share is right."""
    for size in BATCHES:
        batches, last = -(-n // size), n % size
        if last:
            weight = 1 / last - 1 / size  # of each of the last batch's images, beside that of the others
            in_last = (share * batches - right * n / size) / weight  # how many of them have to be right
            if -0.5 < in_last < last + 0.5 and abs(in_last - round(in_last)) <= EXACT * batches / weight:
                return True
    return False


def _share(value: Any) -> float | None:
    """A number between 0 and 1, or in per cent."""
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
        return None
    return float(value) / 100 if value > 1 else float(value)
