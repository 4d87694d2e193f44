"""The one hierarchy of errors and warnings. Every message states the rule, then the values that broke it."""


class LabError(Exception):
    """Base class of all errors that the lab raises on purpose."""


class InputError(LabError, ValueError):
    """An argument breaks a rule: a shape, a range, an unknown name."""


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
