"""The student's own work, diagnosed: what was done, what it would make one believe, and how to see it oneself."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.review.conclusions import conclusion as conclusion
    from lab.review.editions import answer as answer
    from lab.review.feedback import Feedback as Feedback
    from lab.review.feedback import Finding as Finding
    from lab.review.feedback import Review as Review
    from lab.review.measures import measure as measure
    from lab.review.networks import network as network
    from lab.review.submissions import submission as submission
    from lab.review.trained import training as training
    from lab.review.translations import pairs as pairs

_MODULE_OF = {
    **{"conclusion": "conclusions", "Feedback": "feedback", "Finding": "feedback", "Review": "feedback"},
    **{"measure": "measures", "network": "networks", "submission": "submissions", "training": "trained"},
    **{"pairs": "translations", "answer": "editions"},
}
__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lab.review' has no attribute {name!r}")
    return getattr(import_module(f"lab.review.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
