"""The table of mistakes: programs that make each of them, and what the review says; made by running them all."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from execution import ROOT
from execution_cache import drop_oldest
from markupsafe import Markup
from mkdocs.exceptions import PluginError

from lab.files import staged_output

PAGE = "mistakes.md"
PROGRAMS = ROOT / "tests" / "review"
TASKS = {
    "network": "The network",
    "training": "The training",
    "pairs": "The pairs",
    "measure": "The measures",
    "conclusion": "The conclusion",
}
KEPT = 5  # matrices that the cache holds


def rows() -> dict[str, Any]:
    """What every program does, and what the review says of it; from the cache where nothing has changed.

    Raises:
        PluginError: a diagnosis is wrong.
    """
    entry = ROOT / ".cache" / "mistakes" / f"{_digest()}.json"
    if not entry.is_file():
        command = [sys.executable, str(PROGRAMS / "programs.py")]
        env = {"OMP_NUM_THREADS": "1", **os.environ}  # pages are executed beside it
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise PluginError(f"tests/review/programs.py: {done.stderr.strip().splitlines()[-1]}")
        with staged_output(entry.parent) as stage:
            (stage / entry.name).write_text(done.stdout, encoding="utf-8")
        drop_oldest(entry.parent, KEPT)
    found: dict[str, Any] = json.loads(entry.read_text(encoding="utf-8"))
    return found


def _digest() -> str:
    total = hashlib.sha256(sys.version.encode())
    sources = [*(ROOT / "lab").rglob("*.py"), *(ROOT / "lab").rglob("*.toml"), *PROGRAMS.rglob("*.py")]
    for path in sorted(sources):
        total.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return total.hexdigest()[:16]


def as_html() -> str:
    """How many there are, and each with its edit."""
    found = rows()
    wrong, right = found["wrong"], found["right"]
    names = len({row["mistakes"][0] for row in wrong})
    parts = [
        f"<p>{len(wrong)} programs make {names} different mistakes. In each, the mistake that was made is named, and "
        f"no other is claimed. {len(right)} right programs, in as many styles, are not blamed.</p>"
    ]
    for task, title in TASKS.items():
        parts.append(f'<h2 id="{task}">{title}</h2>')
        parts += [_card(row) for row in wrong if row["task"] == task]
    styles = Markup("").join(Markup("<li>{}</li>").format(each) for each in right)
    parts.append(f'<h2 id="right">Right programs</h2><ul>{styles}</ul>')
    return f'<div class="nb-mistakes">{"".join(parts)}</div>'


def _card(row: dict[str, Any]) -> Markup:
    named = Markup(", ").join(Markup("<code>{}</code>").format(name) for name in row["mistakes"])
    both = zip(row["did"], row["nudge"], strict=True)
    said = Markup("").join(Markup("<p>{} <em>{}</em></p>").format(*each) for each in both)
    edit = Markup('<div class="nb-edit" tabindex="0"><pre>{}</pre></div>').format(_edits(row["edits"]))
    whole = '<details class="nb-mistake"><summary>{} ({})</summary>{}{}{}</details>'
    return Markup(whole).format(row["title"], named, edit, said, _pattern(row["knows"]))


def _edits(edits: Sequence[Sequence[str]]) -> Markup:
    lines = []
    for old, new in edits:
        lines += [Markup("<del>− {}</del>").format(line) for line in old.strip("\n").splitlines()]
        lines += [Markup("<ins>+ {}</ins>").format(line) for line in new.strip("\n").splitlines()]
    return Markup("\n").join(lines)


def _pattern(answers: dict[str, str]) -> Markup:
    if not answers:
        return Markup("")
    words = Markup(", ").join(Markup("<em>{}</em> {}").format(*each) for each in answers.items())
    return Markup("<p>How it knows: {}.</p>").format(words)
