"""The live network's files: its modules as one script, and the exported networks, for servers and for folders."""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from execution import ROOT
from execution_cache import digest, drop_oldest
from mkdocs.exceptions import PluginError

PROGRAM = """
import sys
from pathlib import Path
from lab.data import load_mnist
from lab.errors import LabError
from lab.files import data_root
from lab.live.export import export_networks
try:
    export_networks(Path(sys.argv[1]), load_mnist("auto"), cache=data_root() / "checkpoints")
except LabError as error:
    sys.exit(str(error))
"""
CACHE = ROOT / ".cache" / "live"
KEPT = 5  # exports, of about 200 KB each
IMPORT = re.compile(r'^import (\{\s*\w+(?:,\s*\w+)*,?\s*\}) from "(\.|\.\./\w+)/(\w+)\.js"\n', re.M)
COMMENT = re.compile(
    r"^[ \t]*(?://[^\n]*|/\*\*(?:(?!\*/).)*\*/[ \t]*)\n", re.M | re.S
)  # whole lines; a third of the bytes
EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|class|const) (\w+))", re.M)


def page_script(folder: Path) -> str:
    """The script of the live pages. It begins with the text of its worker, which a page from a folder cannot load."""
    worker = json.dumps(script(folder, "worker"), ensure_ascii=False).replace("</", "<\\/")
    return f"globalThis.liveLabWorker = {worker}\n{script(folder)}"


def script(folder: Path, entry: str = "live") -> str:
    """The module `entry` and those that it imports, each after those that it imports itself, in one script.

    They may come from folders beside its own, for the names of all of them differ. A page that was opened from a folder
    may run a script, but may not import a module.

    Raises:
        PluginError: a module is missing, imports itself, or imports or exports in a form that is not understood.
    """
    done: dict[Path, str] = {}

    def add(path: Path, importers: tuple[Path, ...]) -> None:
        if path in importers:
            by = " and ".join(importer.stem for importer in importers)
            raise PluginError(f"{path} imports itself, through {by}")
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            by = f", which {importers[-1].name} imports" if importers else ""
            raise PluginError(f"there is no {path}{by}") from None
        for _, place, other in IMPORT.findall(text):
            if (found := _beside(path, place, other)) not in done:
                add(found, (*importers, path))
        done[path] = _in_function(path, text)

    add(folder / f"{entry}.js", ())
    names = [path.stem for path in done]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise PluginError(f"two modules of one script are called {twice}.js")
    return f'"use strict";\n{{\n{"".join(done.values())}}}\n'


def _beside(path: Path, place: str, name: str) -> Path:
    """A module of the same folder, or of one beside it."""
    folder = path.parent if place == "." else path.parent.parent / place.removeprefix("../")
    return folder / f"{name}.js"


def _in_function(path: Path, text: str) -> str:
    """A module as a constant, with what it exports."""
    text = IMPORT.sub(r"const \1 = \3\n", COMMENT.sub("", text)).strip()
    names = ", ".join(name for _, name in EXPORT.findall(text))
    body = EXPORT.sub(r"\1", text)
    if left := re.search(r"^(?:import|export)\b.*", body, re.M):
        raise PluginError(f"{path}: only named imports and exports are understood: {left[0]}")
    return f"const {path.stem} = (() => {{\n{body}\nreturn {{ {names} }}\n}})()\n"


def write_networks(target: Path) -> None:
    """Write weights, manifest and digits, exported once for each state of what they depend on, and a script of each.

    Raises:
        PluginError: they cannot be exported.
    """
    exported = CACHE / digest(PROGRAM)
    if not exported.is_dir():
        _export(exported)
    os.utime(exported)  # used last
    target.mkdir(parents=True, exist_ok=True)
    for path in exported.iterdir():
        content = path.read_bytes()
        (target / path.name).write_bytes(content)
        text = json.dumps(base64.b64encode(content).decode())
        name = json.dumps(path.name)
        (target / f"{path.name}.js").write_text(f"(globalThis.liveLabFiles ??= {{}})[{name}] = {text}\n")


def _export(exported: Path) -> None:
    """All or nothing, also beside another build."""
    CACHE.mkdir(parents=True, exist_ok=True)
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".exporting-") as folder:
        whole = Path(folder) / "whole"
        command = [sys.executable, "-c", PROGRAM, str(whole)]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise PluginError(f"the live network cannot be exported: {done.stderr.strip()}")
        try:
            os.rename(whole, exported)
        except OSError:  # another build was faster
            if not exported.is_dir():
                raise
    drop_oldest(CACHE, KEPT)
