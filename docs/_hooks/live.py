"""The live network's files: its modules as one script, and what `lab export` writes, for servers and for folders."""

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import execution
from mkdocs.exceptions import PluginError

PROGRAM = "from lab.cli import main; main()"
CACHE = execution.ROOT / ".cache" / "live"
IMPORT = re.compile(r'^import (\{.*?\}) from "\./(\w+)\.js"\n', re.M | re.S)
EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|class|const) (\w+))", re.M)
COMMENT = re.compile(r"^ *(/\*\*.*?\*/|//.*?)\n", re.M | re.S)


def script(folder: Path) -> str:
    """The modules that `live.js` imports, each after those that it imports itself, in one script, without comments.

    A page that was opened from a folder may run a script, but may not import a module.
    """
    done: dict[str, str] = {}

    def add(name: str) -> None:
        text = (folder / f"{name}.js").read_text(encoding="utf-8")
        for _, other in IMPORT.findall(text):
            if other not in done:
                add(other)
        text = COMMENT.sub("", IMPORT.sub(r"const \1 = \2\n", text)).strip()
        names = ", ".join(name for _, name in EXPORT.findall(text))
        body = EXPORT.sub(r"\1", text)
        done[name] = f"const {name} = (() => {{\n{body}\nreturn {{ {names} }}\n}})()\n"

    add("live")
    return f'"use strict";\n{{\n{"".join(done.values())}}}\n'


def write_networks(target: Path) -> None:
    """Write weights, manifest and digits, exported once for each state of package and data, and a script of each.

    Raises:
        PluginError: `lab export` fails.
    """
    exported = CACHE / execution.digest()
    if not (exported / "manifest.json").is_file():
        shutil.rmtree(CACHE, ignore_errors=True)
        command = [sys.executable, "-c", PROGRAM, "export", "--golden", "0", "--out", str(exported)]
        done = subprocess.run(command, cwd=execution.ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise PluginError(f"the live network cannot be exported: {done.stderr.strip()}")
    target.mkdir(parents=True, exist_ok=True)
    for path in exported.iterdir():
        content = path.read_bytes()
        (target / path.name).write_bytes(content)
        text = json.dumps(base64.b64encode(content).decode())
        name = json.dumps(path.name)
        (target / f"{path.name}.js").write_text(f"(globalThis.liveLabFiles ??= {{}})[{name}] = {text}\n")
