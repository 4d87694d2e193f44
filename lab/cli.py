"""The command line. It only calls the modules above, and imports them when a command runs."""

import io
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lab import __version__
from lab.errors import ClaimError, InputError, LabError

app = typer.Typer(
    help="Which layers of a CNN are equivariant or invariant to translation: theory against observation.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
errors = Console(stderr=True)
INTERRUPTED = 130  # what Typer makes of Ctrl-C


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"equivariance-lab {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the program as a whole."""


@app.command()
def run(
    data: Annotated[str, typer.Option(help="auto, full (60,000 digits, downloaded once) or embedded.")] = "auto",
    model: Annotated[str, typer.Option(help="given (by the exercise) or pooled (two convolutions).")] = "given",
    seed: Annotated[int, typer.Option(help="Of weights, image order and displacements.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("lab-report"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    cache: Annotated[bool, typer.Option(help="Take a network trained before; keep this one.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the evidence alone.")] = False,
) -> None:
    """Do the exercise on MNIST: train, translate, measure each layer, and set theory against observation."""
    start = time.perf_counter()
    _keep_processor_free()
    from dataclasses import replace

    from lab import claims
    from lab.data import load_mnist
    from lab.exercise import exercise_claims, run_exercise
    from lab.files import data_root, staged_output, to_json
    from lab.models import MODELS
    from lab.reporting import report
    from lab.reporting.evidence import collect_evidence
    from lab.training import RECIPES, select_device

    if model not in MODELS:
        raise InputError(f"model must be one of {', '.join(MODELS)}: {model!r}")
    place = select_device(device)
    recipe = replace(RECIPES[model], seed=seed, epochs=RECIPES[model].epochs if epochs is None else epochs)
    with staged_output(out) as stage:
        mnist = load_mnist(data)  # type: ignore[arg-type]  # load_mnist checks the name
        loaded = time.perf_counter()
        folder = data_root() / "checkpoints" if cache else None
        result = run_exercise(model, mnist, config=recipe, device=place, cache=folder)
        verdicts = claims.check(exercise_claims(result), strict=False)
        timings = {"start": loaded - start, **result.timings, "total": time.perf_counter() - start}
        found = collect_evidence(result, verdicts, timings)
        report.write_report(stage, result, verdicts, found)
    if as_json:
        typer.echo(to_json(found), nl=False)
    else:
        _print(
            verdicts.table(), report.linear_layers(found), report.summary(found), last=f"Report: {out / 'report.html'}"
        )
    if verdicts.failed:
        raise ClaimError("; ".join(claims.describe(claim) for claim in verdicts.failed))


@app.command()
def meter(
    model: Annotated[str, typer.Argument(help="given, pooled, torchvision:resnet18, or package.module:callable.")],
    images: Annotated[
        str | None, typer.Option(help="mnist, fractal (clouds), or a folder of pictures; as the model takes them.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="How many images: 64 digits, or 8 others.")] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(help="Height and width: 28 28, or 224 224.")] = None,
    shifts: Annotated[str, typer.Option(help="dy,dx in pixels, such as '1,0 0,-4'; powers of two by default.")] = "",
    wrap: Annotated[
        bool, typer.Option("--wrap", help="Circular shifts: what leaves enters on the other side.")
    ] = False,
    layer: Annotated[list[str] | None, typer.Option(help="A layer to measure, such as conv1; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, images and null models.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the errors into this file (.png, .svg, .pdf).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure a network, untrained or yours: which layers are equivariant or invariant, where not, and why."""
    _keep_processor_free()
    from lab.files import to_json
    from lab.metering import inputs
    from lab.metering.instrument import meter as measure
    from lab.models import MODELS
    from lab.plotting import save_figure

    pairs = _shifts(shifts)
    network = inputs.load_model(model, seed=seed)
    images = images or ("mnist" if model in MODELS else "fractal")
    size = size or ((28, 28) if images == "mnist" else (224, 224))
    channels = inputs.input_channels(network)
    if count is None:
        count = 64 if images == "mnist" else 8
    batch, background = inputs.load_images(images, count, size, channels=channels, seed=seed)
    mode: Any = "wrap" if wrap else "background"
    found = measure(network, batch, pairs, mode=mode, background=background, layers=layer or None, seed=seed)
    if plot:
        save_figure(found.plot(), plot)
    if as_json:
        typer.echo(to_json(found.to_dict()), nl=False)
    else:
        Console().print(found.table())


@app.command()
def shiftmap(
    model: Annotated[str, typer.Option(help="given (by the exercise) or pooled (two convolutions).")] = "given",
    radius: Annotated[int, typer.Option(help="The largest shift, in pixels, to each side.")] = 14,
    data: Annotated[str, typer.Option(help="auto, full (60,000 digits, downloaded once) or embedded.")] = "auto",
    count: Annotated[int | None, typer.Option(help="How many test images; all of them by default.")] = None,
    method: Annotated[str, typer.Option(help="dense (once, on a canvas), brute (once a shift) or auto.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of weights, image order, and which images.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the figures and of shiftmap.json.")] = Path("lab-shiftmap"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the maps as JSON.")] = False,
) -> None:
    """Map what a trained network makes of the test digits at every shift: accuracy, consistency, confidence."""
    _keep_processor_free()
    from dataclasses import asdict, replace

    from lab.data import BACKGROUND, load_mnist, normalize
    from lab.every_shift.maps import shift_maps
    from lab.files import data_root, staged_output, to_json
    from lab.models import build_model
    from lab.reporting import report
    from lab.training import RECIPES, fit

    if count is not None and count < 1:
        raise InputError(f"count must be at least 1: {count}")
    network = build_model(model, seed=seed)
    recipe = replace(RECIPES[model], seed=seed)
    with staged_output(out) as stage:
        mnist = load_mnist(data)  # type: ignore[arg-type]  # load_mnist checks the name
        test = mnist.test if count is None else mnist.test.sample(count, seed=seed)
        fit(network, mnist.train, recipe, cache=data_root() / "checkpoints")
        how: Any = {"radius": radius, "background": BACKGROUND, "method": method, "progress": not as_json}
        maps = shift_maps(network.eval(), normalize(test.images), test.labels, **how)
        origin = {"model": model, "data": mnist.name, "sha256": mnist.sha256, "training": asdict(recipe)}
        found = {"schema": "equivariance-lab/shiftmap/1", **origin, **maps.to_dict()}
        report.write_shift_maps(stage, maps, found)
    if as_json:
        typer.echo(to_json(found), nl=False)
    else:
        _print(f"The {model} network, trained on {mnist.name} with seed {seed}", maps.table(), last=f"Figures: {out}")


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("lab-export"),
    data: Annotated[str, typer.Option(help="auto, full (60,000 digits, downloaded once) or embedded.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of weights and image order.")] = 0,
    digits: Annotated[int, typer.Option(help="How many test digits; a multiple of 10, as many of each.")] = 40,
    golden: Annotated[int, typer.Option(help="How many digits and shifts to write all activations for.")] = 24,
) -> None:
    """Write both networks, trained and untrained, test digits and golden activations, as the live page loads them."""
    _keep_processor_free()
    from lab.data import load_mnist
    from lab.files import data_root
    from lab.live.export import export_networks

    mnist = load_mnist(data)  # type: ignore[arg-type]  # load_mnist checks the name
    cache = data_root() / "checkpoints"
    manifest = export_networks(out, mnist, seed=seed, digits=digits, golden=golden, cache=cache)
    for network in manifest["networks"]:
        kind = "trained" if network["trained"] else "untrained"
        _print(last=f"{network['name']}, {kind}: {network['accuracy']:.1%} of {mnist.name}'s test digits right")
    _print(last=f"Files: {out}")


def _print(*parts: Any, last: str) -> None:
    """Tables and sentences, then a line with a path, which is neither folded nor read as markup."""
    console = Console()
    for part in parts:
        console.print(part, highlight=False)
    console.print(last, highlight=False, markup=False, soft_wrap=True)


def _shifts(text: str) -> list[tuple[int, int]] | None:
    """`"1,0 0,-4"` as pairs of whole numbers; None for nothing."""
    try:
        pairs = [tuple(int(t) for t in pair.split(",")) for pair in text.split()]
        return [(dy, dx) for dy, dx in pairs] or None
    except ValueError:
        raise InputError(f"shifts must be pairs of whole numbers dy,dx, apart by spaces: {text!r}") from None


def _keep_processor_free() -> None:
    """One thread, unless the user says otherwise: a second gains little here, and spins when others are busy."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    errors.print(f"note: {message}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Run the command line; every foreseen error is one line on standard error, and exit code 1, or 2 for usage."""
    warnings.showwarning = _show_warning
    os.environ.pop("MPLBACKEND", None)  # no command opens a window, and matplotlib refuses to load with a wrong name
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no ≥ shows a ? instead
    try:
        ended = app(standalone_mode=False)
        sys.stdout.flush()
        if ended == INTERRUPTED:
            _fail("interrupted, nothing half done was kept", INTERRUPTED)
    except typer.TyperException as error:
        if not (message := error.format_message()):  # no arguments: the help is on the screen
            sys.exit(2)
        _fail(f"{message} (lab --help says what there is)", 2)
    except LabError as error:
        _fail(str(error), 2 if isinstance(error, InputError) else 1)
    except OSError as error:
        if error.filename:  # of a stream, there is none
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of the text would fail again
        _fail(f"the text cannot be printed: {error.strerror}", 1)


def _fail(message: str, code: int) -> None:
    errors.print(f"error: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(code)
