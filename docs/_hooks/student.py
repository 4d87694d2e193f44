"""The student's edition of the exercise: one source, of which readers get a blank and a solved edition.

The solved one is executed as walkthroughs are, and its last cell fails where the review finds a mistake in it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from generated import EDITIONS
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, InclusionLevel
from rendering import to_download

from lab.review import editions

SOURCE = "exercise/exercise.py"


def source(docs: Path) -> dict[str, Path]:
    """The exercise with its solutions, where these pages have one: its name, and its path."""
    return {SOURCE: docs / SOURCE} if (docs / SOURCE).is_file() else {}


def files(config: MkDocsConfig, executed: Mapping[str, Any], repository: str) -> Iterator[File]:
    """Notebook and script of both editions, beside the walkthroughs: the notebooks there are those that Colab opens."""
    for path in source(Path(config.docs_dir)).values():
        text = path.read_text(encoding="utf-8")
        blank = editions.blank(text)
        found = {"solved": (executed[SOURCE], text), "blank": (_notebook(blank), blank)}
        for edition, (notebook, program) in found.items():
            content = to_download(notebook, repository, config.site_url and f"{config.site_url}{EDITIONS[edition]}")
            yield _file(config, f"{EDITIONS[edition]}.ipynb", content)
            yield _file(config, f"{EDITIONS[edition]}.py", editions.script(program))


def _notebook(text: str) -> Any:
    notebook = nbformat.reads(editions.notebook(text), as_version=4)
    for cell in notebook.cells:
        cell.metadata["line"] = 1  # of what it has in common with the solved one, that has told all mistakes before
    return notebook


def _file(config: MkDocsConfig, place: str, content: str) -> File:
    return File.generated(config, place, content=content, inclusion=InclusionLevel.INCLUDED)
