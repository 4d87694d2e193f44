"""The files of a run, and the page in them."""

import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from lab.errors import OutputError
from lab.files import staged_output
from lab.plotting import training_curve
from lab.reporting.report import linear_layers, page, summary, write_figures, write_report


@pytest.fixture(scope="module")
def written(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, given.result, given.verdicts, given.found)
    return folder


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
    for image, name in zip(images, ("training", "pair", "errors"), strict=True):
        assert len(image["alt"]) > 40
        drawn = base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,"))
        assert drawn == (written / f"{name}.svg").read_bytes()
    assert not [a for _, attrs in page.tags for k, a in attrs.items() if k in ("href", "src") and "data:" not in a]
    assert "{{" not in text, "a place of the template was left empty"


def test_the_page_says_what_the_exercise_states_and_what_was_observed(written, given):
    text = (written / "report.html").read_text()
    observed = next(c["observed"] for c in given.found["claims"] if c["name"] == "trained fc1: invariance error")
    assert f"They are not: trained fc1 {observed:.2f}" in text
    assert all(claim["name"] in text for claim in given.found["claims"])
    row = given.found["predictions"][0]
    numbers = "".join(f"<td>{row[share]:.3f}</td>" for share in ("consistency", "kappa", "accuracy"))
    assert f"<td>trained</td><td>1</td>{numbers}" in text


def test_the_page_gives_the_reason_of_each_bound_once(written):
    text = (written / "report.html").read_text()
    exact = "float32: sums of up to 145 terms in another order differ by about √145 · 2⁻²⁴ = 7e-7 of their size"
    assert re.findall("<li>(.*?)</li>", text) == [
        f"exact: 0 ± 1e-06 ({exact})",
        "not invariant: ≥ 0.01 (10,000 × what rounding can do)",
    ]


def test_what_a_run_found_is_text_on_the_page_and_never_markup(given):
    found = given.found | {"model": {"name": "<b>", "parameters": 1}, "device": "<i>"}
    found["data"] = found["data"] | {"name": "<s>"}
    claims = tuple(replace(claim, name=f"<u>{claim.name}", why="<q>") for claim in given.verdicts.claims)
    found["claims"] = [claim.to_dict() for claim in claims]
    found["predictions"] = [row | {"network": "<em>"} for row in found["predictions"]]
    text = page(found, replace(given.verdicts, claims=claims), {"training": "", "pair": "", "errors": ""})
    for tag in ("b", "i", "s", "u", "q"):
        assert f"<{tag}>" not in text
        assert f"&lt;{tag}&gt;" in text
    assert "<td>&lt;em&gt;</td>" in text


def test_a_network_that_returns_always_the_same_gets_a_sentence_of_its_own(dead):
    assert "This network shows nothing about it" in linear_layers(dead.found)
    assert "Training failed" in summary(dead.found)
    assert "agree on 4 of 6 claims" in summary(dead.found)


def test_the_same_run_draws_the_same_bytes(given, tmp_path):
    loss = given.result.training.loss
    write_figures(tmp_path, {name: training_curve(loss, 1) for name in ("one", "two")})
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_disk_that_fills_up_is_one_clear_error_and_keeps_the_old_report(tmp_path, given, monkeypatch):
    def fill(_figure, target, **_options):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "evidence.json").write_text("old")
    monkeypatch.setattr(Figure, "savefig", fill)
    with pytest.raises(OutputError, match="No space left on device"), staged_output(tmp_path) as stage:
        write_report(stage, given.result, given.verdicts, given.found)
    assert [p.name for p in tmp_path.iterdir()] == ["evidence.json"]
    assert (tmp_path / "evidence.json").read_text() == "old"
