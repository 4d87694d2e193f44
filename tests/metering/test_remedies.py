"""The report names a remedy for each cause, at the layer where it comes in, and none where nothing is broken."""

import json

import pytest
import torch
from torch import nn

import lab

RING = {"padding": 1, "padding_mode": "circular"}


class Place(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(1, 4, 28, 28))

    def forward(self, x):
        return x + self.embedding


@pytest.fixture(scope="module")
def clouds():
    return lab.fractal_images(4, (28, 28), channels=1, seed=0)


def found(model, images, shift, **options):
    torch.manual_seed(0)
    return {remedy.cause: remedy for remedy in lab.meter(model, images, [shift], **options).remedies}


def test_a_stride_is_mended_where_it_skips(clouds):
    model = nn.Sequential(nn.Conv2d(1, 4, 3, **RING), nn.MaxPool2d(2))
    remedies = found(model, clouds, (1, 0), mode="wrap")
    assert set(remedies) == {"stride"}
    assert (remedies["stride"].layer, "blur before 1" in remedies["stride"].what) == ("1", True)
    assert not found(model, clouds, (2, 0), mode="wrap")  # which the period divides


def test_a_head_is_mended_by_pooling(clouds):
    layers = nn.Conv2d(1, 4, 3, **RING), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    flat = nn.Sequential(layers[0], nn.Flatten(), nn.Linear(4 * 28 * 28, 3))
    assert found(flat, clouds, (2, 0), mode="wrap")["head"].what.startswith("pool over all positions before 2")
    assert not found(nn.Sequential(*layers), clouds, (2, 0), mode="wrap")


def test_a_border_is_mended_by_room_a_crop_or_a_padding(clouds):
    remedies = found(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1)), clouds + 1, (2, 0))
    assert set(remedies) <= {"border"}
    assert not found(nn.Sequential(nn.Conv2d(1, 4, 3)), clouds + 1, (2, 0))


def test_values_of_a_place_are_named_with_what_they_are_for(clouds):
    remedies = found(nn.Sequential(nn.Conv2d(1, 4, 3, **RING), Place()), clouds, (2, 0), mode="wrap")
    assert set(remedies) == {"position"}
    assert "keep it if the task asks where" in remedies["position"].what


def test_table_page_and_json_say_the_same(clouds):
    report = lab.meter(lab.build_model("pooled", seed=0), clouds, [(1, 0)])
    plain = json.loads(json.dumps(report.to_dict()))
    assert [remedy["cause"] for remedy in plain["remedies"]] == ["stride", "head"]
    assert all(remedy["page"].startswith("walkthroughs/13_what_helps.html#") for remedy in plain["remedies"])
    for remedy in report.remedies:
        for text in (report.to_html(), report._repr_html_(), report.table().caption):
            assert remedy.what in text
