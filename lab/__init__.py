"""Which layers of a CNN are equivariant or invariant to translation: theory against observation.

Everything public is importable from here, and is loaded only when first used: `import lab` costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.activations import activations as activations
    from lab.claims import Claim as Claim
    from lab.claims import Control as Control
    from lab.claims import Verdicts as Verdicts
    from lab.claims import check as check
    from lab.data import Mnist as Mnist
    from lab.data import Split as Split
    from lab.data import load_mnist as load_mnist
    from lab.data import normalize as normalize
    from lab.dense import dense_equivalent as dense_equivalent
    from lab.errors import ClaimError as ClaimError
    from lab.errors import EquivarianceError as EquivarianceError
    from lab.errors import LabError as LabError
    from lab.errors import LabWarning as LabWarning
    from lab.meter import Report as Report
    from lab.meter import assert_equivariant as assert_equivariant
    from lab.meter import meter as meter
    from lab.metrics import cohen_kappa as cohen_kappa
    from lab.metrics import consistency as consistency
    from lab.metrics import equivariance_error as equivariance_error
    from lab.metrics import invariance_error as invariance_error
    from lab.metrics import sorted_distance as sorted_distance
    from lab.models import LabModel as LabModel
    from lab.models import PooledCNN as PooledCNN
    from lab.models import build_model as build_model
    from lab.shifting import InkMargins as InkMargins
    from lab.shifting import TranslatedPairs as TranslatedPairs
    from lab.shifting import ink_margins as ink_margins
    from lab.shifting import shift as shift
    from lab.shifting import translated_pairs as translated_pairs
    from lab.shiftmap import ShiftMaps as ShiftMaps
    from lab.shiftmap import shift_map as shift_map
    from lab.shiftmap import shift_maps as shift_maps
    from lab.training import Evaluation as Evaluation
    from lab.training import TrainConfig as TrainConfig
    from lab.training import TrainingRun as TrainingRun
    from lab.training import evaluate as evaluate
    from lab.training import fit as fit

__version__ = "0.1.0"

_NAMES_OF = {
    "activations": ["activations"],
    "claims": ["Claim", "Control", "Verdicts", "check"],
    "data": ["Mnist", "Split", "load_mnist", "normalize"],
    "dense": ["dense_equivalent"],
    "errors": ["ClaimError", "EquivarianceError", "LabError", "LabWarning"],
    "meter": ["Report", "assert_equivariant", "meter"],
    "metrics": ["cohen_kappa", "consistency", "equivariance_error", "invariance_error", "sorted_distance"],
    "models": ["LabModel", "PooledCNN", "build_model"],
    "shiftmap": ["ShiftMaps", "shift_map", "shift_maps"],
    "shifting": ["InkMargins", "TranslatedPairs", "ink_margins", "shift", "translated_pairs"],
    "training": ["Evaluation", "TrainConfig", "TrainingRun", "evaluate", "fit"],
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}
__all__ = ["__version__", *_MODULE_OF]


class _Package(ModuleType):
    """The package; where a module and a public function share a name, the name means the function."""

    def __getattr__(self, name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'lab' has no attribute {name!r}")
        value = getattr(import_module(f"lab.{_MODULE_OF[name]}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if name in _MODULE_OF and isinstance(value, ModuleType):  # the import system binds each submodule
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted(__all__)


sys.modules[__name__].__class__ = _Package
