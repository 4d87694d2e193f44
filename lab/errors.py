"""The one hierarchy of errors and warnings. Every message states the rule, then the values that broke it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


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
    """A network cannot be evaluated densely: it would not answer as it does window by window."""


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
    """Something went another way than asked for; the result is still right."""


class EquivarianceError(LabError, AssertionError):
    """A layer is not equivariant where it was asserted to be."""


def check_seed(seed: int) -> None:
    """Refuse a seed that not every generator takes.

    Raises:
        InputError: no whole number, below 0, or from 2 ** 63 on.
    """
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    require(whole and 0 <= seed < 2**63, f"seed must be at least 0 and below 2 ** 63: {seed}")


@contextmanager
def failures(shape: Sequence[int]) -> Iterator[None]:
    """Raise what the model itself raises as an error of the lab that says on what.

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
