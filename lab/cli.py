"""The command line. It only calls the package, which loads what a command needs when it runs."""

import atexit
import gc
import io
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.segment import Segments

import lab
from lab.errors import DeviceError, InputError, LabError, check_choice, require
from lab.files import output_errors, staged_output, to_json
from lab.review import commands, editions
from lab.study.commands import study

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
errors = Console(stderr=True)


def _path(text: str | Path) -> Path:
    if not str(text).strip():
        raise typer.BadParameter("a path must not be empty")
    return Path(text)


def _report(text: str | Path) -> Path:
    if _path(text).suffix not in (".html", ".csv", ".json"):
        raise typer.BadParameter(f"a report is a file .html, .csv or .json: {text}")
    return Path(text)


def _numbers(text: str) -> list[float]:
    return [float(one) for one in text.split(",")]


def _words(texts: list[str]) -> list[str]:
    return ",".join(texts).split(",")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"equivariance-lab {lab.__version__}")
        raise typer.Exit


Data = Annotated[str, typer.Option(help="auto, full (60,000 digits, downloaded once) or embedded.")]
Model = Annotated[str, typer.Option(help="given (by the exercise) or pooled (two convolutions).")]
Seed = Annotated[int, typer.Option(help="Of weights, and of all else that is drawn at random.")]
Out = Annotated[Path, typer.Option(help="Folder of the files.", parser=_path, metavar="FOLDER")]
File = typer.Option(help="Draw the errors into this file (.png, .svg, .pdf).", parser=_path, metavar="FILE")
Files = typer.Option(help="Write the report (.html, .csv, .json); may be repeated.", parser=_report, metavar="FILE")
NETWORKS = "given, pooled, torchvision:resnet18, timm:NAME, file.py:Net(1, width=8), or package.module:callable."
Network = Annotated[str, typer.Argument(help=NETWORKS)]
Weights = Annotated[str, typer.Option(help="A checkpoint, or DEFAULT: published, or trained here.")]
Images = Annotated[str, typer.Option(help="mnist, fractal (clouds), a folder, or a file .npy, .pt.")]
Size = Annotated[tuple[int, int] | None, typer.Option(help="Height and width: 28 28, or 224 224.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
QUANTITIES = ["equivariance", "invariance", "sorting"]
Words = typer.Option(help="What to measure; apart by commas, or repeated.", callback=_words)
Numbers = typer.Option(help="Of pixels in [0, 1]; for each channel: 0.5,0.4,0.4.", parser=_numbers, metavar="NUMBERS")
Json = Annotated[bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")]
Version = typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")


@app.callback()
def options(version: Annotated[bool, Version] = False) -> None:
    """Which layers of a CNN are equivariant or invariant to translation: theory against observation."""


@app.command()
def run(
    data: Data = "auto",
    model: Model = "given",
    seed: Seed = 0,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    out: Out = Path("lab-report"),
    device: Device = "auto",
    cache: Annotated[bool, typer.Option(help="Take a network trained before; keep this one.")] = True,
    as_json: Json = False,
) -> None:
    """Do the exercise on MNIST: train, translate, measure each layer, and set theory against observation."""
    start = time.perf_counter()
    recipe = _recipe(model, seed, epochs)
    from lab.exercise import exercise_claims, run_exercise
    from lab.reporting import evidence, report

    place, kept = select_device(device), lab.data_root() / "checkpoints"
    with staged_output(out) as stage:
        mnist = _mnist(data)
        loaded = time.perf_counter()
        result = run_exercise(model, mnist, config=recipe, device=place, cache=kept if cache else None)
        verdicts = lab.check(exercise_claims(result), strict=False)
        timings = {"start": loaded - start, **result.timings, "total": time.perf_counter() - start}
        found = evidence.collect_evidence(result, verdicts, timings)
        report.write_report(stage, result, verdicts, found)
    parts = [report.claims_table(verdicts), report.linear_layers(found), report.summary(found)]
    _show(found, as_json, parts, f"Report: {out / 'report.html'}")
    lab.check(verdicts.claims)  # one that does not agree is an error, but only now


@app.command()
def meter(
    model: Network,
    weights: Weights = "",
    images: Images = "",
    count: Annotated[int | None, typer.Option(help="How many images: 64 digits, or 8 others.")] = None,
    size: Size = None,
    channels: Annotated[int, typer.Option(help="Of the images; 0 for those of the first convolution.")] = 0,
    mean: Annotated[Any, Numbers] = None,
    std: Annotated[Any, Numbers] = None,
    background: Annotated[float | None, typer.Option(help="Value of the background, as the model takes it.")] = None,
    shifts: Annotated[str, typer.Option(help="dy,dx in pixels, such as '1,0 0,-4'; powers of two by default.")] = "",
    wrap: Annotated[bool, typer.Option("--wrap", help="Circular: what leaves enters on the other side.")] = False,
    layer: Annotated[list[str] | None, typer.Option(help="A layer to measure, such as conv1; may be repeated.")] = None,
    quantities: Annotated[list[str], Words] = QUANTITIES,
    device: Device = "cpu",
    seed: Seed = 0,
    plot: Annotated[Path | None, File] = None,
    out: Annotated[list[Path] | None, Files] = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no table, and show no progress.")] = False,
) -> None:
    """Measure a network, trained or not: which layers are equivariant or invariant, where not, and why."""
    how: Any = {"mode": "wrap" if wrap else "background", "layers": layer or None, "quantities": quantities}
    with _report_files(out or ()) as write, redirect_stdout(sys.stderr):  # whatever the model prints
        scale = (mean or [0.0], std or [1.0]) if mean or std else None
        asked: Any = {"channels": channels, "seed": seed, "device": device, "scale": scale}
        network, batch, ground, origin = _load(model, weights, images, count, size, **asked)
        how |= {"background": ground if background is None else background, "seed": seed, "progress": not quiet}
        found = lab.meter(network, batch, _shifts(shifts), **how)
        found = replace(found, settings=found.settings | {"from": origin})
        write(found)
    if plot:
        _draw(found, plot)
    _show(found.to_dict(), as_json, [] if quiet else [found.table()])


@app.command()
def tile(
    model: Network,
    weights: Weights = "",
    images: Images = "",
    size: Size = None,
    layer: Annotated[str, typer.Option(help="Whose outputs to put together; the network's own by default.")] = "",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find out how to cut large images into tiles without seams: halo, multiples, and the proof; or what forbids it."""
    with redirect_stdout(sys.stderr):  # whatever the model prints
        network, batch, _, origin = _load(model, weights, images, 1, size, seed=seed, device=device)
        found = lab.tiling(network, batch, layer=layer)
    _show(origin | found.to_dict(), as_json, found.lines())


def _load(
    model: str, weights: str, images: str, count: int | None, size: Any, *, seed: int, device: str, **asked: Any
) -> tuple[Any, Any, float, dict[str, str]]:
    """A network, images as it takes them, the value of their background, and where all of it comes from."""
    from lab.metering import inputs

    images = images or ("mnist" if model in lab.RECIPES else "fractal")
    network = inputs.load_model(model, seed=seed, weights=weights).to(select_device(device))
    channels = asked.pop("channels", 0) or inputs.input_channels(network)
    usual = inputs.published_scale(model, network, weights)
    batch, background = inputs.load_images(images, count, size, channels=channels, seed=seed, usual=usual, **asked)
    return network, inputs.fitted(batch, network), background, {"model": model, "weights": weights, "images": images}


@contextmanager
def _report_files(paths: Iterable[Path]) -> Iterator[Callable[["lab.Report"], None]]:
    """A function that writes a report into files; each of them appears when the body ends without error."""

    def write(found: "lab.Report") -> None:
        text = {".html": found.to_html, ".csv": found.to_csv, ".json": lambda: to_json(found.to_dict())}
        for path, stage in staged:
            with output_errors(path.parent):
                (stage / path.name).write_text(text[path.suffix](), encoding="utf-8")

    with ExitStack() as stages:
        staged = [(path, stages.enter_context(staged_output(path.parent))) for path in paths]
        yield write


def _draw(found: "lab.Report", path: Path) -> None:
    from matplotlib.style import context

    from lab.plotting import save_figure

    with context("default"):  # also the colours, which a page chooses, are nobody's matplotlibrc's
        save_figure(found.plot(), path)


@app.command()
def shiftmap(
    model: Model = "given",
    radius: Annotated[int, typer.Option(help="The largest shift, in pixels, to each side.")] = 14,
    data: Data = "auto",
    count: Annotated[int | None, typer.Option(help="How many test images; all of them by default.")] = None,
    method: Annotated[str, typer.Option(help="dense (once, on a canvas), brute (once a shift) or auto.")] = "auto",
    seed: Seed = 0,
    out: Out = Path("lab-shiftmap"),
    as_json: Json = False,
) -> None:
    """Map what a trained network makes of the test digits at every shift: accuracy, consistency, confidence."""
    recipe = _recipe(model, seed)
    require(count is None or count >= 1, f"count must be at least 1: {count}")
    from lab.data import BACKGROUND
    from lab.reporting.report import write_shift_maps

    network = lab.build_model(model, seed=seed)
    with staged_output(out) as stage:
        mnist = _mnist(data)
        test = mnist.test if count is None else mnist.test.sample(count, seed=seed)
        lab.fit(network, mnist.train, recipe, cache=lab.data_root() / "checkpoints")
        how: Any = {"radius": radius, "background": BACKGROUND, "method": method, "progress": not as_json}
        maps = lab.shift_maps(network, lab.normalize(test.images), test.labels, **how)
        origin = {"model": model, "data": mnist.name, "sha256": mnist.sha256, "training": asdict(recipe)}
        found = {"schema": "equivariance-lab/shiftmap/1", **origin, **maps.to_dict()}
        write_shift_maps(stage, maps, found)
    title = f"The {model} network, trained on {mnist.name} with seed {seed}"
    _show(found, as_json, [title, maps.table()], f"Figures: {out}")


@app.command()
def export(
    out: Out = Path("lab-export"),
    model: Annotated[str, typer.Option(help=f"One of your own, for the playground: {NETWORKS}")] = "",
    weights: Weights = "",
    data: Data = "auto",
    seed: Seed = 0,
    digits: Annotated[int, typer.Option(help="How many test digits; a multiple of 10, as many of each.")] = 40,
    golden: Annotated[int, typer.Option(help="How many digits and shifts to write all activations for.")] = 24,
) -> None:
    """Write what the live page loads: both networks, test digits, activations; or a network of yours: network.json."""
    if model:
        _export_own(model, weights, out / "network.json", seed)
        return
    require(not weights, "weights are those of a network: name it with --model")
    from lab.live.export import export_networks

    mnist = _mnist(data)
    found = export_networks(out, mnist, seed=seed, digits=digits, golden=golden, cache=lab.data_root() / "checkpoints")
    for network in found["networks"]:
        kind = "trained" if network["trained"] else "untrained"
        _line(Console(), f"{network['name']}, {kind}: {network['accuracy']:.1%} of {mnist.name}'s test digits right")
    _line(Console(), f"Files: {out}")


def _export_own(model: str, weights: str, path: Path, seed: int) -> None:
    from lab.live import chains
    from lab.metering import inputs

    with redirect_stdout(sys.stderr):  # whatever the model prints
        network = inputs.load_model(model, seed=seed, weights=weights)
        blocks = chains.export_chain(network, path, name=model)
    for number, block in enumerate(blocks, 1):
        _line(Console(), f"{number}. {block.layer}: {block.text}")
    _line(Console(), f"File: {path}; drop it on the playground")


app.command()(editions.exercise)
app.command()(commands.review)
app.command()(study)


def _mnist(source: Any) -> "lab.Mnist":
    return lab.load_mnist(source)  # which checks the name


def _recipe(model: str, seed: int, epochs: int | None = None) -> "lab.TrainConfig":
    check_choice("model", model, lab.RECIPES)
    usual = lab.RECIPES[model]
    return replace(usual, seed=seed, epochs=usual.epochs if epochs is None else epochs)


def _shifts(text: str) -> list[tuple[int, int]] | None:
    """`"1,0 0,-4"` as pairs of whole numbers; None for nothing."""
    try:
        return [(int(dy), int(dx)) for dy, dx in (pair.split(",") for pair in text.split())] or None
    except ValueError:
        raise InputError(f"shifts must be pairs of whole numbers dy,dx, apart by spaces: {text!r}") from None


def _show(found: dict[str, Any], as_json: bool, parts: list[Any], last: str = "") -> None:
    """The findings as JSON; or tables and sentences, and a last line with a path."""
    if as_json:
        typer.echo(to_json(found), nl=False)
        return
    console = Console(highlight=False)
    for part in parts:
        segments = [segment._replace(text=_harmless(segment.text)) for segment in console.render(part)]
        console.print(Segments(segments), end="")
    if last:
        _line(console, last)


def _line(console: Console, text: str, style: str = "") -> None:
    """In one line, which is neither folded nor read as markup."""
    console.print(_harmless(" ".join(text.splitlines())), style=style, highlight=False, markup=False, soft_wrap=True)


def _harmless(text: str) -> str:
    """Without characters that command a terminal, as the names of files and layers may hold."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def main() -> None:
    """Run the command line; every foreseen error is one line on standard error, and exit code 1, or 2 for usage."""
    _prepare_process()
    try:
        ended = app(standalone_mode=False)
        sys.stdout.flush()
        if ended == 130:  # what Typer makes of Ctrl-C
            _fail("interrupted, nothing half done was kept", 130)
    except typer.TyperException as error:
        if not (message := error.format_message()):  # no arguments: the help is on the screen
            sys.exit(2)
        _fail(f"{message} (lab --help says what there is)", 2)
    except LabError as error:
        _fail(str(error), 2 if isinstance(error, InputError) else 1)
    except OSError as error:
        _stream_failed(error)


def _stream_failed(error: OSError) -> None:
    if error.filename:  # of a stream, there is none
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of the text would fail again
    _fail(f"the text cannot be printed: {error.strerror}", 1)


def select_device(name: str) -> str:
    """The device called `auto`, `cpu`, `cuda` or `mps`; `auto` is the fastest that is there.

    Raises:
        InputError: unknown name.
        DeviceError: the device is not there.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    there = [device for device, is_there in present.items() if is_there]
    check_choice("device", name, ["auto", *sorted(present)])
    if name not in ("auto", *there):
        raise DeviceError(f"device {name} is not there: this machine offers {', '.join(there)}")
    return there[0] if name == "auto" else name


def _prepare_process() -> None:
    """Streams, signals, the end, and what torch and matplotlib read when they are loaded."""
    atexit.register(gc.freeze)  # a process that ends need not look for unreachable objects: 0.8 s with torch's modules
    warnings.showwarning = lambda message, *_, **__: _line(errors, f"note: {message}", "yellow")
    signal.signal(signal.SIGTERM, lambda *_: _fail("terminated, nothing half done was kept", 128 + signal.SIGTERM))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a second thread gains little, and spins when others are busy
    os.environ["MPLBACKEND"] = "agg"  # nothing is shown; a name that matplotlib does not know ends its import
    if not os.environ.get("COLUMNS", "1").strip("0"):
        del os.environ["COLUMNS"]  # a width of 0 is that of a terminal which does not know its own
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # closed by whoever started the program
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  # likewise
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no ≥ shows a ? instead


def _fail(message: str, code: int) -> None:
    _line(errors, f"error: {message}", "red")
    sys.exit(code)
