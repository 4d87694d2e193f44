"""Which layers of a CNN are equivariant or invariant to translation: theory against observation.

Everything public is importable from here, and is loaded only when first used: `import lab` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.claims import Claim as Claim
    from lab.claims import Control as Control
    from lab.claims import Verdicts as Verdicts
    from lab.claims import check as check
    from lab.data import Mnist as Mnist
    from lab.data import Split as Split
    from lab.data import load_mnist as load_mnist
    from lab.data import normalize as normalize
    from lab.errors import ClaimError as ClaimError
    from lab.errors import EquivarianceError as EquivarianceError
    from lab.errors import LabError as LabError
    from lab.errors import LabWarning as LabWarning
    from lab.every_shift.dense import dense_equivalent as dense_equivalent
    from lab.every_shift.maps import ShiftMaps as ShiftMaps
    from lab.every_shift.maps import shift_map as shift_map
    from lab.every_shift.maps import shift_maps as shift_maps
    from lab.exercise import group_by_distance as group_by_distance
    from lab.exercise import measure_pairs as measure_pairs
    from lab.exercise import on_stride as on_stride
    from lab.files import data_root as data_root
    from lab.metering.inputs import fractal_images as fractal_images
    from lab.metering.instrument import assert_equivariant as assert_equivariant
    from lab.metering.instrument import meter as meter
    from lab.metering.receptive_fields import trace as trace
    from lab.metering.report import Report as Report
    from lab.metrics import aligned_error as aligned_error
    from lab.metrics import best_aligned_error as best_aligned_error
    from lab.metrics import cohen_kappa as cohen_kappa
    from lab.metrics import consistency as consistency
    from lab.metrics import derangement as derangement
    from lab.metrics import equivariance_error as equivariance_error
    from lab.metrics import invariance_error as invariance_error
    from lab.metrics import largest_error as largest_error
    from lab.metrics import mean_error as mean_error
    from lab.metrics import sort_positions as sort_positions
    from lab.metrics import sorted_distance as sorted_distance
    from lab.models import LabModel as LabModel
    from lab.models import PooledCNN as PooledCNN
    from lab.models import build_model as build_model
    from lab.observing import Evaluation as Evaluation
    from lab.observing import activations as activations
    from lab.observing import evaluate as evaluate
    from lab.observing import predict as predict
    from lab.shifting import InkMargins as InkMargins
    from lab.shifting import TranslatedPairs as TranslatedPairs
    from lab.shifting import ink_margins as ink_margins
    from lab.shifting import shift as shift
    from lab.shifting import translated_pairs as translated_pairs
    from lab.training import RECIPES as RECIPES
    from lab.training import TrainConfig as TrainConfig
    from lab.training import TrainingRun as TrainingRun
    from lab.training import fit as fit

__version__ = "0.1.0"

_NAMES_OF = {
    "data": ["Mnist", "Split", "load_mnist", "normalize"],
    "files": ["data_root"],
    "models": ["LabModel", "PooledCNN", "build_model"],
    "training": ["RECIPES", "TrainConfig", "TrainingRun", "fit"],
    "shifting": ["InkMargins", "TranslatedPairs", "ink_margins", "shift", "translated_pairs"],
    "observing": ["Evaluation", "activations", "evaluate", "predict"],
    "metrics": [
        "aligned_error",
        "best_aligned_error",
        "cohen_kappa",
        "consistency",
        "derangement",
        "equivariance_error",
        "invariance_error",
        "largest_error",
        "mean_error",
        "sort_positions",
        "sorted_distance",
    ],
    "claims": ["Claim", "Control", "Verdicts", "check"],
    "exercise": ["group_by_distance", "measure_pairs", "on_stride"],
    "errors": ["ClaimError", "EquivarianceError", "LabError", "LabWarning"],
    "metering.receptive_fields": ["trace"],
    "metering.report": ["Report"],
    "metering.inputs": ["fractal_images"],
    "metering.instrument": ["assert_equivariant", "meter"],
    "every_shift.dense": ["dense_equivalent"],
    "every_shift.maps": ["ShiftMaps", "shift_map", "shift_maps"],
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}
_MODULES = {"plotting", *_NAMES_OF}  # `lab.data.BACKGROUND` and `lab.plotting` work after `import lab`
__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"lab.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lab' has no attribute {name!r}")
    return getattr(import_module(f"lab.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
