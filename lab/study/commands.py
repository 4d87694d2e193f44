"""`lab study`: names the studies, does one, and writes what it found."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import lab
from lab.errors import LabError, OutputError, require
from lab.files import output_errors, staged_output, to_json

Name = Annotated[str, typer.Argument(help="A study, as --list names them, or a file .toml.")]
Listed = Annotated[bool, typer.Option("--list", help="Name the studies that come with the lab, and exit.")]
Seeds = Annotated[int | None, typer.Option(help="How many seeds, in place of what the study says.")]
Jobs = Annotated[int, typer.Option(help="Processes on this machine; -1 for as many as it has cores.")]
Data = Annotated[str, typer.Option(help="auto, full (60,000 digits, downloaded once) or embedded.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the files; by default lab-study-NAME.", metavar="FOLDER")]
Scheduler = Annotated[str, typer.Option(help="A Dask scheduler, whose workers do the runs: tcp://HOST:8786.")]


def study(
    name: Name = "",
    listed: Listed = False,
    seeds: Seeds = None,
    jobs: Jobs = -1,
    data: Data = "auto",
    out: Out = None,
    scheduler: Scheduler = "",
) -> None:
    """Train many networks with many seeds, and say what helps against shifts, by how much, how certainly."""
    require(name or listed, "study needs a name, or a file .toml; lab study --list names those there are")
    from rich.console import Console

    from lab.study.plans import known_studies, load_study

    console = Console(highlight=False)
    if listed:
        for one in known_studies():
            console.print(f"{one.name}: {one.title} ({len(one.settings)} × {one.seeds} runs)", markup=False)
        return
    result = _done(load_study(name, seeds=seeds), data, jobs, scheduler, out)
    console.print(result.table())
    for record in result.failed:
        console.print(f"failed: {record.setting}, seed {record.seed}: {record.failure}", markup=False, soft_wrap=True)
    if len(result.failed) == len(result.records):
        raise LabError(f"every run failed: {result.failed[0].failure}")


def _done(study: "lab.Study", data: Any, jobs: int, scheduler: str, out: Path | None) -> "lab.StudyResult":
    """The runs done, and the files written."""
    import sys

    from lab.data import load_mnist
    from lab.study.scheduling import run_study

    folder = out or Path(f"lab-study-{study.name}")
    check_folder(folder, study)
    with staged_output(folder) as stage:
        mnist = load_mnist(data)
        result = run_study(study, mnist, jobs=jobs, scheduler=scheduler, progress=sys.stderr.isatty())
        write(stage, result)
    return result


def check_folder(folder: Path, study: "lab.Study") -> None:
    """Refuse a folder that holds another study.

    Raises:
        OutputError: it does, or its `study.json` is not one.
    """
    path = folder / "study.json"
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["study"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path} is no record of a study, and is not overwritten: {error}") from error
    same = {"name": study.name, "factors": study.factors}
    if {key: there.get(key) for key in same} != same:
        raise OutputError(f"{folder} holds another study, {there.get('name')}, and is not overwritten; use --out")


def write(stage: Path, result: "lab.StudyResult") -> None:
    """`runs.csv`, `study.json`, and the figures, into a folder."""
    from lab.reporting.report import write_figures
    from lab.study.figures import figures

    with output_errors(stage.parent):
        (stage / "runs.csv").write_text(result.to_csv(), encoding="utf-8")
        (stage / "study.json").write_text(to_json(result.to_dict()), encoding="utf-8")
    if len(result.failed) < len(result.records):
        write_figures(stage, figures(result))
