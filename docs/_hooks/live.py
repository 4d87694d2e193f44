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
IMPORT = re.compile(r'^import (\{\s*\w+(?:,\s*\w+)*,?\s*\}) from "\./(\w+)\.js"\n', re.M)
EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|class|const) (\w+))", re.M)


def script(folder: Path, entry: str = "live") -> str:
    """The module `entry` and those that it imports, each after those that it imports itself, in one script.

    A page that was opened from a folder may run a script, but may not import a module.

    Raises:
        PluginError: a module is missing, imports itself, or imports or exports in a form that is not understood.
    """
    done: dict[str, str] = {}

    def add(name: str, importers: tuple[str, ...]) -> None:
        if name in importers:
            raise PluginError(f"{folder / name}.js imports itself, through {' and '.join(importers)}")
        try:
            text = (folder / f"{name}.js").read_text(encoding="utf-8")
        except FileNotFoundError:
            by = f", which {importers[-1]}.js imports" if importers else ""
            raise PluginError(f"there is no {folder / name}.js{by}") from None
        for _, other in IMPORT.findall(text):
            if other not in done:
                add(other, (*importers, name))
        text = IMPORT.sub(r"const \1 = \2\n", text).strip()
        names = ", ".join(name for _, name in EXPORT.findall(text))
        body = EXPORT.sub(r"\1", text)
        if left := re.search(r"^(?:import|export)\b.*", body, re.M):
            raise PluginError(f"{folder / name}.js: only named imports and exports are understood: {left[0]}")
        done[name] = f"const {name} = (() => {{\n{body}\nreturn {{ {names} }}\n}})()\n"

    add(entry, ())
    return f'"use strict";\n{{\n{"".join(done.values())}}}\n'


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
