import io
import json
import math

import pytest
from rich.console import Console

import lab
from lab import claims
from lab.errors import InputError
from lab.reporting.report import claims_table

CONTROL = lab.Control("unrelated images", 1.0, ">=", 0.5)


def claim(observed=0.0, **options):
    options = {"predicted": 0.0, "controls": (CONTROL,), "tolerance": 1e-6, "why": "rounding", **options}
    options = {"kind": "exact" if options.get("relation", "==") == "==" else "empirical", **options}
    return lab.Claim("conv1", "exact", observed=observed, **options)


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (claim(1e-7), "agree"),
        (claim(2e-6), "disagree"),
        (claim(-2e-6), "disagree"),
        (claim(0.0, controls=(CONTROL, lab.Control("wrong shift", 0.1, ">=", 0.5))), "no control"),
        (claim(0.0, controls=(lab.Control("unrelated images", math.nan, ">=", 0.5),)), "no control"),
        (claim(math.nan), "degenerate"),
        (claim(math.inf), "disagree"),
        (claim(0.3, predicted=0.2, relation=">="), "agree"),
        (claim(0.1, predicted=0.2, relation=">="), "disagree"),
        (claim(0.1, predicted=0.2, relation="<="), "agree"),
        (claim(0.3, predicted=0.2, relation="<="), "disagree"),
        (claim(0.3, predicted=0.2, relation="<=", tolerance=0.2), "agree"),
        (claim(0.5, predicted=0.2, relation=">=", controls=(lab.Control("on stride", 0.1, "<=", 1e-6),)), "no control"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.relation}{value.observed}",
)
def test_the_verdict_needs_the_observation_and_every_control(made, verdict):
    assert made.verdict == verdict


def test_disagreement_is_an_exception_that_says_which_and_by_how_much():
    with pytest.raises(
        lab.ClaimError, match=r"conv1: disagree: observed 0.25, predicted == 0 ± 1e-06; control"
    ) as error:
        lab.check([claim(), claim(0.25)])
    assert "unrelated images 1, must be >= 0.5" in str(error.value)


def test_a_control_that_does_not_hold_is_an_exception_too():
    with pytest.raises(lab.ClaimError, match="no control"):
        lab.check([claim(controls=(lab.Control("unrelated images", 0.0, ">=", 0.5),))])


def test_the_caller_can_take_failures_without_an_exception():
    good, bad = claim(), claim(0.25)
    verdicts = lab.check([good, bad], strict=False)
    assert verdicts.failed == (bad,)
    assert verdicts.claims == (good, bad)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"controls": ()}, "a claim without a control shows nothing"),
        ({"tolerance": -1.0}, "tolerance must be at least 0"),
        ({"tolerance": math.nan}, "tolerance must be at least 0"),
        ({"tolerance": math.inf}, "tolerance must be at least 0"),
        ({"predicted": math.nan}, "predicted a finite number"),
        ({"relation": "<", "why": "?"}, "conv1: the relation of a claim must be ==, <= or >=: '<'"),
        ({"why": ""}, "needs a reason in `why`"),
        ({"tolerance": 0.0, "relation": ">=", "why": ""}, "needs a reason in `why`"),
    ],
    ids=[
        "no control",
        "negative tolerance",
        "nan tolerance",
        "inf tolerance",
        "nan prediction",
        "unknown relation",
        "no reason",
        "bound without reason",
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_claim_that_cannot_be_judged_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        claim(**options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("relation", "bound", "said"),
    [
        *[(relation, 1e-6, "a control's relation must be <= or >=") for relation in ("<", ">", "==", "", None)],
        *[("<=", bound, "the bound of a control must be a finite number") for bound in (math.inf, math.nan)],
    ],
    ids=str,
)
def test_a_control_that_cannot_be_judged_is_refused(relation, bound, said):
    with pytest.raises(InputError, match=f"wrong shift: {said}: "):
        lab.Control("wrong shift", 0.9, relation, bound)


def test_no_claims_are_refused():
    with pytest.raises(InputError, match="at least one claim"):
        lab.check([])


def test_json_holds_every_value_also_those_that_json_has_no_number_for():
    record = json.loads(json.dumps(lab.check([claim(math.nan)], strict=False).to_dict(), allow_nan=False))[0]
    assert record["observed"] == "nan"
    assert record["verdict"] == "degenerate"
    assert record["controls"] == [{"what": "unrelated images", "observed": 1.0, "relation": ">=", "bound": 0.5}]
    assert {"name", "theory", "predicted", "tolerance", "relation", "why"} <= set(record)


def test_the_table_for_people_shows_theory_observation_control_and_verdict():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(claims_table(lab.check([claim(), claim(0.25)], strict=False)))
    text = console.export_text()
    for part in ("exact: 0", "0.25", "unrelated images 1", "agree", "disagree"):
        assert part in text


def test_names_with_brackets_stay_whole_in_the_terminal():
    console = Console(width=120, record=True, file=io.StringIO())
    named = lab.Claim("named[double] [/b]", "exact", 0.0, 0.0, (CONTROL,), kind="exact")
    console.print(claims_table(lab.check([named])))
    assert "named[double] [/b]" in console.export_text()


def test_html_is_escaped():
    text = lab.check([lab.Claim("<b>", "x & y", 0.0, 0.0, (CONTROL,), kind="exact")]).to_html()
    assert "<td>&lt;b&gt;</td>" in text
    assert "x &amp; y" in text


def test_a_notebook_gets_the_claims_with_data_and_seeds():
    mnist = lab.load_mnist("embedded")
    bundle = lab.check([claim()], data=mnist, seeds=[3])._repr_mimebundle_()
    assert bundle["text/html"].startswith("<table>")
    found = bundle[claims.MIME_TYPE]
    assert (found["data"], found["sha256"], found["seeds"]) == ("MNIST-10k", mnist.sha256, [3])
    assert [claim["verdict"] for claim in found["claims"]] == ["agree"]


def test_without_data_a_notebook_is_told_none():
    found = lab.check([claim()])._repr_mimebundle_()[claims.MIME_TYPE]
    assert (found["data"], found["sha256"], found["seeds"]) == ("", "", [])


def test_a_tolerance_is_shown_beside_the_prediction():
    assert claims.cells(claim(tolerance=5e-7))[1] == "exact: 0 ± 5e-07"
    assert claims.cells(claim(tolerance=0.0))[1] == "exact: 0"


def test_the_table_says_the_kind_the_number_of_values_and_the_bound_of_each_control():
    row = dict(zip(claims.COLUMNS, claims.cells(claim(n=1280)), strict=True))
    assert row["Kind"] == "exact"
    assert row["Observed"] == "0 (n = 1,280)"
    assert row["Control"] == "unrelated images 1 (≥ 0.5)"


def test_a_control_of_a_few_hundred_is_shown_without_a_power_of_ten():
    control = lab.Control("unrelated images", 230.4, ">=", 115.2)
    assert claims.cells(claim(controls=(control,)))[3] == "unrelated images 230 (≥ 115)"


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"kind": "sure"}, "the kind must be one of exact, empirical, by construction: 'sure'"),
        ({"kind": "exact", "relation": ">="}, "an exact claim predicts no bound: >="),
        ({"n": 0}, "a claim over no value shows nothing: n=0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_claim_says_of_which_kind_it_is_and_over_how_many_values(options, rule):
    with pytest.raises(InputError, match=rule):
        claim(**options)
