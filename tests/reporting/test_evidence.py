"""The evidence of a run: what its documented schema says, and the numbers that were measured."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

import lab
from lab.files import to_json
from lab.reporting.evidence import collect_evidence

SCHEMA = json.loads((Path(lab.__file__).parent.parent / "docs" / "evidence.schema.json").read_text())


def test_evidence_follows_its_documented_schema(each):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(to_json(each.found)), SCHEMA)


def test_evidence_of_a_network_that_returns_always_the_same_follows_the_schema(dead):
    jsonschema.validate(json.loads(to_json(dead.found)), SCHEMA)


def test_evidence_names_every_layer_distance_and_displacement(each):
    found = each.found
    layers = {name: list(network.layers) for name, network in each.result.networks.items()}
    rows = {(r["network"], r["layer"], r["distance"]) for r in found["measurements"]}
    assert rows == {(n, layer, r) for n in layers for layer in layers[n] for r in (1, 2, 3, 4)}
    assert len(found["grid"]) == sum(map(len, layers.values())) * 80
    cells = [r["n"] for r in found["grid"] if (r["network"], r["layer"]) == ("trained", "conv1")]
    assert sum(cells) == len(each.result.pairs)


def test_evidence_of_layers_that_keep_positions_is_zero_on_stride(each):
    rows = each.found["measurements"]
    on = [r["equivariance_on_stride"] for r in rows if r["stride"] and r["distance"] == 4]
    assert on
    assert max(on) <= 1e-6
    assert all(r["equivariance_on_stride"] is None for r in rows if r["stride"] is None)


def test_a_row_of_measurements_holds_the_errors_of_its_pairs(pooled):
    pairs, errors = pooled.result.pairs, pooled.result.networks["trained"].layers["pool1"]
    wanted = ("trained", "pool1", 2)
    (row,) = (r for r in pooled.found["measurements"] if (r["network"], r["layer"], r["distance"]) == wanted)
    here = (pairs.dy.abs() <= 2) & (pairs.dx.abs() <= 2) & ((pairs.dy.abs() == 2) | (pairs.dx.abs() == 2))
    on = here & (pairs.dy % 2 == 0) & (pairs.dx % 2 == 0)
    assert row["n"] == here.sum() > on.sum() > 0
    expected = {
        "equivariance_on_stride": errors.equivariance[on],
        "equivariance_off_stride": errors.equivariance[here & ~on],
        "wrong_shift": errors.wrong_shift[on],
        "unrelated": errors.unrelated[here],
        "invariance": errors.invariance[here],
        "invariance_unrelated": errors.invariance_unrelated[here],
        "undone": errors.undone[here],
        "sorting": errors.sorting[here],
        "sorting_unrelated": errors.sorting_unrelated[here],
    }
    overall = {name: values.overall for name, values in expected.items()}
    assert {name: row[name] for name in overall} == pytest.approx(overall)
    assert len(set(overall.values())) == len(overall) - 1  # only `undone` and the first are alike, for both are 0


def test_a_cell_of_the_grid_and_a_row_of_predictions_are_those_of_their_pairs(each):
    pairs, network, found = each.result.pairs, each.result.networks["trained"], each.found
    here = (pairs.dy == 1) & (pairs.dx == -3)
    (cell,) = (c for c in found["grid"] if (c["network"], c["layer"], c["dy"], c["dx"]) == ("trained", "fc1", 1, -3))
    assert cell["n"] == here.sum() > 0
    assert cell["overall"] == pytest.approx(network.layers["fc1"].invariance[here].overall)
    far = (pairs.dy.abs() == 4) | (pairs.dx.abs() == 4)
    (row,) = (p for p in found["predictions"] if (p["network"], p["distance"]) == ("trained", 4))
    output = network.model(lab.normalize(pairs.second[far]))
    decided = (output[0] if isinstance(output, tuple) else output).argmax(1)
    assert row["accuracy"] == pytest.approx(
        (decided == pairs.labels[far]).double().mean().item(), abs=2.1 / int(far.sum())
    )


def test_evidence_agrees_only_where_every_claim_does(given):
    agreeing = tuple(claim for claim in given.verdicts.claims if claim.verdict == "agree")
    refuted = replace(agreeing[0], predicted=-1.0, relation="==")
    assert refuted.verdict == "disagree"
    for claims, agree in ((agreeing, True), ((*agreeing, refuted), False)):
        found = collect_evidence(given.result, replace(given.verdicts, claims=claims), {})
        assert found["agree"] is agree
        assert [claim["verdict"] for claim in found["claims"]] == [claim.verdict for claim in claims]
