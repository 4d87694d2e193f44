import base64
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from matplotlib.figure import Figure

import lab
from lab import plotting
from lab.errors import OutputError
from lab.exercise import exercise_claims, run_exercise
from lab.reporting import report

SCHEMA = json.loads((Path(lab.__file__).parent.parent / "docs" / "evidence.schema.json").read_text())


@pytest.fixture(scope="module", params=["given", "pooled"])
def result(request, digits):
    data = lab.Mnist(digits, digits, "MNIST-10k", "0" * 64)
    return run_exercise(request.param, data, config=lab.TrainConfig(epochs=1, batch_size=50))


@pytest.fixture(scope="module")
def verdicts(result):
    return lab.check(exercise_claims(result), strict=False)


@pytest.fixture(scope="module")
def found(result, verdicts):
    return report.evidence(result, verdicts, {"total": 1.0})


@pytest.fixture(scope="module")
def written(result, verdicts, found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report.write_report(folder, result, verdicts, found)
    return folder


def test_evidence_follows_its_documented_schema(found):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(report.to_json(found)), SCHEMA)


def test_evidence_names_every_layer_distance_and_displacement(result, found):
    layers = {name: list(network.layers) for name, network in result.networks.items()}
    rows = {(r["network"], r["layer"], r["distance"]) for r in found["measurements"]}
    assert rows == {(n, layer, r) for n in layers for layer in layers[n] for r in (1, 2, 3, 4)}
    assert len(found["grid"]) == sum(map(len, layers.values())) * 80
    assert sum(r["n"] for r in found["grid"] if (r["network"], r["layer"]) == ("trained", "conv1")) == len(result.pairs)


def test_evidence_of_layers_that_keep_positions_is_zero_on_stride(found):
    on = [r["equivariance_on_stride"] for r in found["measurements"] if r["stride"] and r["distance"] == 4]
    assert on
    assert max(on) <= 1e-6
    assert all(r["equivariance_on_stride"] is None for r in found["measurements"] if r["stride"] is None)


def test_a_report_has_evidence_a_page_and_each_figure_twice(written):
    assert sorted(p.name for p in written.iterdir()) == sorted(
        ["evidence.json", "report.html"] + [f"{f}.{s}" for f in ("training", "pair", "errors") for s in ("png", "svg")]
    )
    for path in written.glob("*.svg"):
        ET.parse(path)
    for path in written.glob("*.png"):
        assert path.read_bytes()[:4] == b"\x89PNG"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_self_contained_well_formed_and_describes_its_figures(written):
    text = (written / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 3
    for image in images:
        assert len(image["alt"]) > 40
        ET.fromstring(base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,")))
    assert not [a for _, attrs in page.tags for k, a in attrs.items() if k in ("href", "src") and "data:" not in a]
    assert not re.search(r"\$\w", text), "a place of the template was left empty"


def test_the_page_says_what_the_exercise_states_and_what_was_observed(written, found):
    text = (written / "report.html").read_text()
    observed = next(c["observed"] for c in found["claims"] if c["name"] == "trained fc1: invariance error")
    assert f"They are not: trained fc1 {observed:.2f}" in text
    assert all(claim["name"] in text for claim in found["claims"])


def test_figures_are_drawn_without_pyplots_global_state(result):
    import sys

    figures = [
        plotting.training_curve(result.training.loss, 1),
        plotting.pair_figure(result),
        plotting.error_curves(result),
    ]
    assert all(isinstance(figure, Figure) for figure in figures)
    assert "matplotlib.pyplot" not in sys.modules


def test_error_curves_show_the_measured_means_and_their_null_models(result):
    left, right = plotting.error_curves(result).axes[:2]
    trained = result.networks["trained"].layers
    (conv1,) = (line for line in left.lines if line.get_label() == "conv1, every shift")
    assert max(conv1.get_ydata()) <= 1e-6
    (fc1,) = (line for line in right.lines if line.get_label() == "fc1")
    mean = trained["fc1"].invariance.mean().item()
    assert min(fc1.get_ydata()) < mean < max(fc1.get_ydata())
    assert all(any("null" in str(line.get_label()) for line in axes.lines) for axes in (left, right))


def panel(axes_list, title):
    return next(axes.images[0].get_array() for axes in axes_list if axes.get_title().startswith(title))


def test_the_pair_figure_shows_the_translated_map_on_the_map_of_the_translated_image(result):
    axes = plotting.pair_figure(result).get_axes()
    expected, moved, difference = (panel(axes, t) for t in ("T f(x)", "f(T x)", "difference"))  # of conv1, the first
    assert abs(difference).max() <= 1e-5 * abs(moved).max()
    assert abs(moved - moved.mean()).max() > 1e-2
    assert 0 < expected.mask.sum() < expected.size / 3, "only the strip that has nothing to compare is left out"


def test_a_cell_of_the_grid_and_a_row_of_predictions_are_those_of_their_pairs(result, found):
    pairs, network = result.pairs, result.networks["trained"]
    here = (pairs.dy == 1) & (pairs.dx == -3)
    (cell,) = (c for c in found["grid"] if (c["network"], c["layer"], c["dy"], c["dx"]) == ("trained", "fc1", 1, -3))
    assert cell["n"] == here.sum() > 0
    assert cell["mean"] == pytest.approx(network.layers["fc1"].invariance[here].mean().item())
    far = (pairs.dy.abs() == 4) | (pairs.dx.abs() == 4)
    (row,) = (p for p in found["predictions"] if (p["network"], p["distance"]) == ("trained", 4))
    output = network.model(lab.normalize(pairs.second[far]))
    decided = (output[0] if isinstance(output, tuple) else output).argmax(1)
    assert row["accuracy"] == pytest.approx(
        (decided == pairs.labels[far]).double().mean().item(), abs=2.1 / int(far.sum())
    )


def test_the_same_run_draws_the_same_bytes(result):
    one, two = (report._svg(plotting.error_curves(result)) for _ in range(2))
    assert one == two


def test_a_network_that_answers_always_the_same_gets_figures_and_a_sentence_of_its_own(digits):
    data = lab.Mnist(digits, digits, "MNIST-10k", "0" * 64)
    dead = run_exercise("given", data, config=lab.TrainConfig(epochs=1, seed=31))  # no window is positive
    verdicts = lab.check(exercise_claims(dead), strict=False)
    found = report.evidence(dead, verdicts, {})
    jsonschema.validate(json.loads(report.to_json(found)), SCHEMA)
    assert "This network shows nothing about it" in report.linear_layers(found)
    assert "Training failed" in report.summary(found)
    assert "agree on 4 of 6 claims" in report.summary(found)
    for figure in (plotting.pair_figure(dead), plotting.error_curves(dead)):
        report._svg(figure)


# The folder


def test_a_report_replaces_an_older_one_only_when_it_is_whole(tmp_path):
    (tmp_path / "evidence.json").write_text("old")
    (tmp_path / "notes.txt").write_text("the user's own")
    with pytest.raises(KeyboardInterrupt), report.staged_output(tmp_path) as stage:  # noqa: PT012  # it raises at exit
        (stage / "evidence.json").write_text("half")
        raise KeyboardInterrupt
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "evidence.json": "old",
        "notes.txt": "the user's own",
    }
    with report.staged_output(tmp_path) as stage:
        (stage / "evidence.json").write_text("new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "evidence.json": "new",
        "notes.txt": "the user's own",
    }


def test_an_output_that_is_a_file_is_refused_before_the_work_starts(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(OutputError, match="the files cannot be written to"), report.staged_output(path):
        pytest.fail("the body ran")


def test_an_error_of_the_work_itself_is_not_taken_for_one_of_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), report.staged_output(tmp_path):
        raise FileNotFoundError("something else")


def test_a_folder_in_the_place_of_a_file_is_refused_and_nothing_is_replaced(tmp_path):
    (tmp_path / "evidence.json").write_text("old")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"report\.html is a folder"), report.staged_output(tmp_path) as stage:  # noqa: PT012  # it raises at exit
        for name in ("evidence.json", "report.html"):
            (stage / name).write_text("new")
    assert (tmp_path / "evidence.json").read_text() == "old"


def test_a_disk_that_fills_up_is_one_clear_error_and_keeps_the_old_report(
    tmp_path, result, verdicts, found, monkeypatch
):
    def fill(_figure, target, **_options):
        if isinstance(target, Path):
            target.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        target.write(b"<svg/>")

    (tmp_path / "evidence.json").write_text("old")
    monkeypatch.setattr(Figure, "savefig", fill)
    with pytest.raises(OutputError, match="No space left on device"), report.staged_output(tmp_path) as stage:
        report.write_report(stage, result, verdicts, found)
    assert [p.name for p in tmp_path.iterdir()] == ["evidence.json"]
    assert (tmp_path / "evidence.json").read_text() == "old"
