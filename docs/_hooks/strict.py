"""A warning fails the build, however that was started, and tells the page and the line."""

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import mkdocs
from mathml import MathMLExtension, locate

BUILDER = logging.getLogger(mkdocs.__name__)  # where ProperDocs builds, `mkdocs` is another name of it
HOOKS = Path(__file__).resolve().parent
OURS = (HOOKS, HOOKS.parents[1] / "lab")
PROBLEMS = (
    re.compile(r"Doc file '(?P<page>[^']+)' contains [^']*'(?P<text>[^']+)'"),
    re.compile(r"(?P<page>[\w./-]+\.(?:md|py)): Could not find cross-reference target '(?P<text>[^']+)'"),
)


def listen(formulas: MathMLExtension) -> None:
    """Let MkDocs hear every warning: in strict mode, it counts those of its own loggers that are not silenced.

    With `--quiet` it would count none; here that hides all that is no warning.
    """
    BUILDER.setLevel(min(BUILDER.getEffectiveLevel(), logging.WARNING))
    for handler in BUILDER.handlers:
        handler.addFilter(_WithLine(formulas))
    logging.getLogger().addHandler(_Others(logging.WARNING))
    warnings.showwarning = _of_python
    logging.getLogger("mkdocs.plugins.mkdocs_jupyter").setLevel(logging.WARNING)  # it tells of each file it copies


class _Others(logging.Handler):
    """Hands what loggers outside MkDocs say to MkDocs."""

    def emit(self, record: logging.LogRecord) -> None:
        BUILDER.handle(record)


def _of_python(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
    """Pass on a warning of Python's; of other people's code, a deprecation is only a note."""
    ours = any(folder in Path(filename).resolve().parents for folder in OURS)
    deprecated = issubclass(category, (DeprecationWarning, PendingDeprecationWarning))
    level = logging.INFO if deprecated and not ours else logging.WARNING
    BUILDER.log(level, "%s:%s: %s: %s", filename, lineno, category.__name__, message)


class _WithLine(logging.Filter):
    """Puts page and line before a message that names a page and a link."""

    def __init__(self, formulas: MathMLExtension) -> None:
        super().__init__()
        self.formulas = formulas  # knows the folder of the pages

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        found = next((match for problem in PROBLEMS if (match := problem.search(message))), None)
        if record.levelno >= logging.WARNING and found and not hasattr(record, "located"):
            record.msg, record.args = f"{locate(self.formulas.docs, found['page'], found['text'])}: {message}", ()
            record.located = True
        return True
