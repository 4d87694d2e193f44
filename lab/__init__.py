"""Which layers of a CNN are equivariant or invariant to translation: theory against observation.

Everything public is importable from here, and is loaded only when first used: `import lab` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

# fmt: off
# isort: off
if TYPE_CHECKING:
    from lab.claims import Claim as Claim, Control as Control, Verdicts as Verdicts, check as check
    from lab.data import Mnist as Mnist, Split as Split, load_mnist as load_mnist, normalize as normalize
    from lab.errors import ClaimError as ClaimError, EquivarianceError as EquivarianceError
    from lab.errors import LabError as LabError, LabWarning as LabWarning
    from lab.every_shift.dense import dense_equivalent as dense_equivalent
    from lab.every_shift.maps import ShiftMaps as ShiftMaps, shift_map as shift_map, shift_maps as shift_maps
    from lab.exercise import measure_pairs as measure_pairs, on_stride as on_stride
    from lab.files import data_root as data_root
    from lab.metering.inputs import fractal_images as fractal_images
    from lab.metering.instrument import assert_equivariant as assert_equivariant, meter as meter
    from lab.metering.receptive_fields import trace as trace
    from lab.metering.report import Report as Report
    from lab.metering.tiles import Tiling as Tiling, tiling as tiling
    from lab.metrics import aligned_error as aligned_error, best_aligned_error as best_aligned_error
    from lab.metrics import cohen_kappa as cohen_kappa, consistency as consistency, derangement as derangement
    from lab.metrics import equivariance_error as equivariance_error, invariance_error as invariance_error
    from lab.metrics import largest_error as largest_error, mean_error as mean_error
    from lab.metrics import sort_positions as sort_positions, sorted_distance as sorted_distance
    from lab.models import LabModel as LabModel, PooledCNN as PooledCNN, build_model as build_model
    from lab.observing import Evaluation as Evaluation, activations as activations
    from lab.observing import evaluate as evaluate, predict as predict
    from lab.reporting.evidence import group_by_distance as group_by_distance
    from lab.shifting import InkMargins as InkMargins, TranslatedPairs as TranslatedPairs
    from lab.shifting import ink_margins as ink_margins, shift as shift, translated_pairs as translated_pairs
    from lab.study.networks import AdaptivePolyphase as AdaptivePolyphase, BlurPool as BlurPool, Setting as Setting
    from lab.study.networks import study_network as study_network
    from lab.study.plans import Study as Study, load_study as load_study
    from lab.study.results import StudyResult as StudyResult
    from lab.study.runs import moved_once as moved_once
    from lab.study.scheduling import run_study as run_study
    from lab.training import RECIPES as RECIPES, TrainConfig as TrainConfig, TrainingRun as TrainingRun, fit as fit

_NAMES_OF = {
    "claims": "Claim Control Verdicts check", "data": "Mnist Split load_mnist normalize", "files": "data_root",
    "errors": "ClaimError EquivarianceError LabError LabWarning", "models": "LabModel PooledCNN build_model",
    "every_shift.dense": "dense_equivalent", "every_shift.maps": "ShiftMaps shift_map shift_maps",
    "exercise": "measure_pairs on_stride", "metering.inputs": "fractal_images",
    "metering.instrument": "assert_equivariant meter", "metering.receptive_fields": "trace",
    "metering.report": "Report", "metering.tiles": "Tiling tiling",
    "observing": "Evaluation activations evaluate predict",
    "metrics": "aligned_error best_aligned_error cohen_kappa consistency derangement equivariance_error "
               "invariance_error largest_error mean_error sort_positions sorted_distance",
    "reporting.evidence": "group_by_distance",
    "shifting": "InkMargins TranslatedPairs ink_margins shift translated_pairs",
    "study.networks": "AdaptivePolyphase BlurPool Setting study_network", "study.plans": "Study load_study",
    "study.results": "StudyResult", "study.runs": "moved_once", "study.scheduling": "run_study",
    "training": "RECIPES TrainConfig TrainingRun fit",
}
# isort: on
# fmt: on
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names.split()}
# `lab.data.BACKGROUND` and `lab.review.pairs` work after `import lab`
_MODULES = {"plotting", "review", "study", *_NAMES_OF}

__version__ = "0.1.0"
__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"lab.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lab' has no attribute {name!r}")
    return getattr(import_module(f"lab.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
