"""Run a walkthrough: percent script in, executed notebook out. It needs neither MkDocs nor any of its plugins."""

import os
import platform
import re
import tempfile
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

HOOKS = Path(__file__).resolve().parent
ROOT = HOOKS.parents[1]
VERSIONS = ("torch", "torchvision", "numpy", "matplotlib")
CELL_TIMEOUT = 2400  # seconds; the longest cell, page 13's study, takes four to six minutes on two idle cores
EXPRESSION = re.compile(r"\{\{ (.+?) ?\}\}")
VALUE = "application/vnd.equivariance-lab.value+json"
PROBE = "from IPython.display import display\ndisplay({{{mime!r}: {value}}}, raw=True)"
OPTION = "#|"


class WalkthroughError(Exception):
    """A walkthrough cannot become a page; the message names the page, the line where one is known, and the reason."""


def options(source: str) -> dict[str, Any]:
    """The options in a code cell's first lines, YAML behind `#|`."""
    lines = [line for line in source.splitlines() if line.startswith(OPTION)]
    return yaml.safe_load("\n".join(line.removeprefix(OPTION).removeprefix(" ") for line in lines)) or {}


def without_options(source: str) -> str:
    """The cell as the page shows it."""
    return "\n".join(line for line in source.splitlines() if not line.startswith(OPTION)).strip("\n")


def cell_lines(path: Path) -> list[int]:
    """The line on which each cell's source begins, counted from 1."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [number + 1 for number, line in enumerate(lines, 1) if line.startswith("# %%")]


def code_of(path: Path) -> str:
    """All that runs: the code of the cells, and of the `{{ expressions }}` in the text."""
    return "\n\n".join(cell.source for cell in _probed(path).cells if cell.cell_type == "code")


async def execute(path: Path) -> Any:
    """The executed notebook, with the values of its `{{ expressions }}` filled in; a process of its own runs it.

    Raises:
        WalkthroughError: a cell failed, or an expression did anything but give a value.
    """
    name = f"docs/{path.parent.name}/{path.name}"
    notebook = _probed(path)
    env = {**os.environ, "MATPLOTLIBRC": str(HOOKS / "matplotlibrc")}
    env.setdefault("OMP_NUM_THREADS", "1")  # the last bits depend on it; see TrainConfig.threads
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        coalesce_streams=True,  # else what is printed becomes one output or several, as the machine is busy
        resources={"metadata": {"path": str(ROOT)}},
        extra_arguments=["--matplotlib=inline", "--InlineBackend.figure_formats=svg", "--log-level=ERROR"],
    )
    with tempfile.TemporaryFile("w+") as log:  # what the kernel itself says, such as noise when it is shut down
        try:
            await _run(client, env=env, stdout=log, stderr=log)
        except (CellExecutionError, CellTimeoutError, RuntimeError) as error:  # the last: a kernel that dies
            log.seek(0)
            raise WalkthroughError(_failure(name, notebook, error, log.read())) from None
    seconds = _seconds(notebook)
    notebook = _fill_in(notebook, name)
    notebook.metadata["lab"] = {
        "seconds": seconds,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return notebook


async def _run(client: NotebookClient, **options: Any) -> None:
    """Execute all cells; nbclient by itself leaves the kernel behind when it is stopped while that starts."""
    kernel = client.create_kernel_manager()
    try:
        await client.async_start_new_kernel(**options)
        await client.async_start_new_kernel_client()
        await client.async_execute()
    finally:
        if kernel.has_kernel:
            await kernel.shutdown_kernel(now=True)
        if client.kc is not None:
            client.kc.stop_channels()


def _text(cell: Any) -> str:
    """What may hold expressions: a Markdown cell, or the `text` of a code cell."""
    return cell.source if cell.cell_type == "markdown" else str(options(cell.source).get("text", ""))


def _probed(path: Path) -> Any:
    """The notebook, where each text with expressions is followed by a code cell for each of them."""
    notebook, cells = jupytext.read(path), []
    lines = path.read_text(encoding="utf-8").splitlines()
    for cell, line in zip(notebook.cells, cell_lines(path), strict=True):
        cell.metadata["line"] = line
        cells.append(cell)
        for expression in EXPRESSION.findall(_text(cell)):
            found = (n for n, text in enumerate(lines[line - 1 :], line) if f"{{{{ {expression}" in text)
            line = next(found, line)  # in a folded text, an expression may be broken over two lines
            code = PROBE.format(mime=VALUE, value=f"f{'{' + expression + '}'!r}")
            cells.append(nbformat.v4.new_code_cell(code, metadata={"line": line, "expression": expression}))
    notebook.cells = cells
    return notebook


def _fill_in(notebook: Any, name: str) -> Any:
    """Replace the expressions by their values, and drop the cells that found these."""
    cells: list[Any] = []
    values: list[list[str]] = []
    for cell in notebook.cells:
        if "expression" in cell.metadata:
            values[-1].append(_value(cell, name))
        else:
            cells.append(cell)
            values.append([])
    for cell, found in zip(cells, values, strict=True):
        if cell.cell_type == "markdown":
            cell.source = _replace(cell.source, found)
        elif found:
            cell.metadata["text"] = _replace(_text(cell), found)
        cell.metadata.pop("execution", None)
        if any("image/svg+xml" in output.get("data", {}) for output in cell.get("outputs", [])):
            cell.outputs = [output for output in cell.outputs if "image/svg+xml" in output.get("data", {})]
    notebook.cells = cells
    return notebook


def _value(probe: Any, name: str) -> str:
    """What an expression gave; to warn or to print is not what it is for."""
    for output in probe.outputs:
        if VALUE not in output.get("data", {}):
            what = "warned" if output.get("name") == "stderr" else "printed"
            said = str(output.get("text") or output.get("data", {}).get("text/plain")).strip()
            said = re.sub(r"^\S*ipykernel_\S*:\d+: (.*)\n.*", r"\1", said)  # without Python's own words on the place
            raise WalkthroughError(
                f"{name}:{probe.metadata['line']}: {{{{ {probe.metadata['expression']} }}}} {what}: {said}"
            )
    return str(probe.outputs[0].data[VALUE])


def _replace(text: str, values: list[str]) -> str:
    remaining = iter(values)
    return EXPRESSION.sub(lambda match: next(remaining), text)


def _seconds(notebook: Any) -> float:
    """From the first cell's start to the last one's end."""
    times = [cell.metadata["execution"] for cell in notebook.cells if "execution" in cell.metadata]
    start, end = times[0]["iopub.execute_input"], times[-1]["shell.execute_reply"]
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _failure(name: str, notebook: Any, error: Exception, log: str) -> str:
    """The page, the line and the error of the cell that failed."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output.traceback))
                where = re.search(r"Cell In\[\d+\], line (\d+)", trace)
                line, what = cell.metadata["line"] + (int(where[1]) - 1 if where else 0), "cell"
                if "expression" in cell.metadata:
                    line, what = cell.metadata["line"], f"{{{{ {cell.metadata['expression']} }}}}"
                return f"{name}:{line}: {what} failed: {output.ename}: {output.evalue}"
    said = " ".join(f"{error} {log[-300:]}".split())
    return f"{name}: {type(error).__name__}: {said}"
