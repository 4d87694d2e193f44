"""The one hierarchy of errors and warnings, and what refuses values that break a rule. Loads no torch.

Every message states the rule, then the values that broke it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class LabError(Exception):
    """Base class of all errors that the lab raises on purpose."""


class InputError(LabError, ValueError):
    """An argument breaks a rule: a shape, a range, an unknown name."""


def require(holds: object, message: str) -> None:
    """Refuse an argument that breaks a rule.

    Raises:
        InputError: the rule does not hold; the message says which, with the values.
    """
    if not holds:
        raise InputError(message)


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """Refuse an unknown name.

    Raises:
        InputError: `value` is none of the choices; says which these are.
    """
    names = tuple(choices)
    require(value in names, f"{what} must be one of {', '.join(names)}: {value!r}")


class NotDenseError(InputError):
    """A network cannot be evaluated densely: its outputs would differ from those for each window alone."""


class DataError(LabError):
    """MNIST is missing, damaged or cannot be stored."""


class DeviceError(LabError):
    """The device that was asked for is not there."""


class TrainingError(LabError):
    """Training diverged."""


class OutputError(LabError):
    """Files, or what is printed, cannot be written."""


class ClaimError(LabError):
    """Theory and observation disagree."""


class LabWarning(UserWarning):
    """Something was not done as asked for; the result is still right."""


class EquivarianceError(LabError, AssertionError):
    """A layer is not equivariant where it was asserted to be."""


def check_seed(seed: int) -> None:
    """Refuse a seed that some generator does not take.

    Raises:
        InputError: it is not a whole number from 0 to 2 ** 63 − 1.
    """
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    require(whole and 0 <= seed < 2**63, f"seed must be at least 0 and below 2 ** 63: {seed}")


def check_finite(name: str, values: "torch.Tensor") -> None:
    """Refuse NaN and infinite values. If the sum is finite, so are all values: one pass over them is enough.

    Raises:
        InputError: how many there are, or that the tensor holds no values at all.
    """
    require(not values.is_meta, f"{name} must hold values: a tensor on the meta device has none")
    if not values.sum().isfinite() and (bad := int((~values.isfinite()).sum())):
        raise InputError(f"{name} must be finite: {bad} of {values.numel()} values are NaN or infinite")


def check_images(images: "torch.Tensor") -> None:
    """Refuse what is not a non-empty batch of finite images.

    Raises:
        InputError: fewer than two dimensions, no element, an integer type, NaN or an infinite value.
    """
    fit = images.dim() >= 2 and images.is_floating_point()
    require(fit, f"images must be floating point, ... h w: {images.dtype}, shape {tuple(images.shape)}")
    require(images.numel() > 0, f"there must be at least one image and one pixel: shape {tuple(images.shape)}")
    check_finite("images", images)


def check_labels(labels: "torch.Tensor", classes: int) -> None:
    """Refuse a label that is not one of a network's classes.

    Raises:
        InputError: below 0, or not below `classes`.
    """
    if bad := labels[(labels < 0) | (labels >= classes)].tolist():
        raise InputError(f"labels must be at least 0 and below {classes}, the number of classes: {bad[0]}")


@contextmanager
def failures(shape: Sequence[int]) -> Iterator[None]:
    """Turn whatever the model itself raises into an error of the lab that names the shape of its input.

    Raises:
        InputError: the model fails.
    """
    try:
        yield
    except LabError:
        raise
    except Exception as error:  # somebody else's forward may raise anything
        said = str(error).strip().partition("\n")[0]
        kind = type(error).__name__
        raise InputError(f"the model fails on images of shape {tuple(shape)}: {kind}: {said}") from error
