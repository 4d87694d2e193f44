"""The meter's findings as a page and as lines for a spreadsheet."""

import csv
import io
import math
import re
from collections import OrderedDict
from copy import copy
from dataclasses import fields, replace
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import lab
from lab.metering.report import Row

NAMES = ("<script>alert(1)</script>", '--><b>"x"&', "$a_b$", "fc")


@pytest.fixture(scope="module")
def report():
    """Of a network whose layers have the names of an attack, and one that is nothing but a formula."""
    layers = (nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(98, 3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(OrderedDict(zip(NAMES, layers, strict=True)))
        return lab.meter(model, torch.rand(3, 1, 16, 16), [(1, 0), (2, 2)])


class Page(HTMLParser):
    """What a page is made of: its elements, their text, and that each is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(report):
    return report.to_html()


def test_the_page_holds_the_figure_the_table_the_reasons_and_what_was_measured(report, page):
    read = Page(page)
    assert not read.open
    assert read.elements.count("svg") == 1
    assert "table" in read.elements
    text = "".join(read.texts)
    for part in (
        "Theory and observation nowhere disagree",
        "S = 2 does not divide the shift",
        "(1, 0), (2, 2)",
        "ρ = ",
    ):
        assert part in text
    for part in (*report.notes, *(row.why for row in report.rows)):
        assert part in text


def test_names_are_text_on_the_page_and_in_its_figure(page):
    read = Page(page)
    assert not {"script", "b"} & set(read.elements)
    assert "alert(1)" not in page.replace("&lt;script&gt;alert(1)&lt;/script&gt;", "")
    assert all(name in read.texts for name in NAMES)


def test_the_page_asks_no_other_host_for_anything_and_its_ink_is_the_readers(report, page):
    assert all(link.startswith("#") for link in Page(page).links)
    assert not re.findall(r"url\((?!#)", page)
    assert "color-scheme: light dark" in page
    assert "currentColor" in page
    assert "#000000" not in page
    assert page == report.to_html()


def test_what_becomes_of_the_predicted_class_is_on_the_page_where_the_report_has_it(report):
    other = copy(report)
    for classes, said in (((), False), ([{"dy": 1, "dx": 0, "consistency": 0.25, "kappa": math.nan}], True)):
        object.__setattr__(other, "classes", classes)
        text = "".join(Page(other.to_html()).texts)
        assert ("predicted class" in text, "0.250" in text) == (said, said)


def test_disagreement_is_said_first(report):
    row = report.rows[0]
    wrong = replace(row, observed="not exact" if row.observed == "exact" else "exact")
    text = replace(report, rows=(wrong, *report.rows[1:])).to_html()
    assert f"disagree in 1 of {len(report.rows)} measurements" in " ".join(text.split())


def test_the_lines_hold_every_field_of_every_row(report):
    read = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert list(read[0]) == [field.name for field in fields(Row)] + ["agrees"]
    assert len(read) == len(report.rows)
    for line, row in zip(read, report.rows, strict=True):
        assert (line["layer"], line["why"], int(line["dy"])) == (row.layer, row.why, row.dy)
        for name in ("error", "full", "interior", "invariance"):
            assert float(line[name]) == pytest.approx(getattr(row, name), nan_ok=True, rel=0)
