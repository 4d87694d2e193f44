"""The conclusion, beside the student's own numbers."""

import re
from collections.abc import Mapping
from typing import Any

from lab.review.feedback import Feedback, Finding, knowledge

# of the control: below one a property holds, above the other it does not; between them, who knows
HOLDS, FAILS = 0.05, 0.2
PROPERTY = {"conv": "equivariant", "fc": "invariant"}


def conclusion(chosen: Any, conv: float | None = None, fc: float | None = None) -> Feedback:
    """Review which layers are said to have which property, beside the student's own measurements.

    Args:
        chosen: a mapping: `"conv"` to `"equivariant"` or `"not equivariant"`, `"fc"` to `"invariant"` or `"not
            invariant"`, `"conditions"` to one of the names of `choices` in mistakes.toml. Free text is not looked at.
        conv: the student's own equivariance error of the convolution, as a share of the control.
        fc: the student's own invariance error of the linear layer, as a share of the control.

    Examples:
        >>> from lab import review
        >>> review.conclusion({"conv": "equivariant", "fc": "invariant"}, conv=0.0, fc=0.8).mistakes
        ('contradicts-own-numbers',)
    """
    if not isinstance(chosen, Mapping):
        why = "the conclusion: it is no choice (a dict with 'conv' and 'fc'), and text is not read"
        return Feedback("conclusion", unseen=(why,))
    findings: list[Finding] = []
    seen: list[str] = []
    unseen: list[str] = []
    for layer, share in (("conv", conv), ("fc", fc)):
        said = _said(chosen.get(layer), PROPERTY[layer])
        if said is None or share is None or HOLDS < share < FAILS or share != share:
            why = (
                "no choice"
                if said is None
                else "no number of your own that can be relied on"
                if share is None or share != share
                else f"your number, {share:.2g} of the control, may be read both ways"
            )
            unseen.append(f"the conclusion on {layer}: {why}")
        elif said == (share <= HOLDS):
            seen.append(f"{layer}: `{chosen[layer]}` agrees with your own number, {share:.2g} of the control")
        else:
            said_by = "your own measure gives"
            did = f"You conclude that {layer} is `{chosen[layer]}`; {said_by} {share:.2g} of what another image gives."
            findings.append(Finding("contradicts-own-numbers", did))
    _conditions(chosen.get("conditions"), findings, seen, unseen)
    return Feedback("conclusion", "", tuple(findings), tuple(seen), tuple(unseen))


def _said(choice: Any, word: str) -> bool | None:
    """Whether a property is said to hold; None where that is not said."""
    if isinstance(choice, bool):
        return choice
    text = str(choice).lower()
    if not re.search(rf"\b(?:in|non-?|not-?)?{word}", text):
        return None
    return not re.search(r"\b(?:not|no|non|never|isn't|neither)\b|n't|non-", text)


def _conditions(choice: Any, findings: list[Finding], seen: list[str], unseen: list[str]) -> None:
    choices = knowledge()["choices"]["conditions"]
    if choice not in choices:
        said = "no choice" if choice is None else f"`{choice}` is none of {', '.join(choices)}"
        unseen.append(f"the conditions: {said}")
    elif choices[choice]["right"]:
        seen.append(f"the conditions: {choices[choice]['why']}")
    else:
        did = f"You choose `{choice}`: {choices[choice]['text']}. {choices[choice]['why']}"
        findings.append(Finding("wrong-condition", did))
