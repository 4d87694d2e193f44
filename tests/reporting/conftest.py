from types import SimpleNamespace

import pytest

import lab
from lab.exercise import exercise_claims, run_exercise
from lab.reporting.evidence import collect_evidence


@pytest.fixture(scope="session")
def run(digits):
    """Does the exercise on 160 digits, two for each displacement: its result, the verdicts, the evidence."""
    few = lab.Split(digits.images[:160], digits.labels[:160])

    def run(model, **recipe):
        data = lab.Mnist(few, few, "MNIST-10k", "0" * 64)
        result = run_exercise(model, data, config=lab.TrainConfig(epochs=1, **recipe))
        verdicts = lab.check(exercise_claims(result), strict=False)
        found = collect_evidence(result, verdicts, {"total": 1.0})
        return SimpleNamespace(result=result, verdicts=verdicts, found=found)

    return run


@pytest.fixture(scope="session")
def given(run):
    return run("given", batch_size=20)


@pytest.fixture(scope="session")
def pooled(run):
    return run("pooled", batch_size=20)


@pytest.fixture(scope="session", params=["given", "pooled"])
def each(request):
    """The run of the given network, then that of the pooled one."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def dead(run):
    """A run with the given network in which no window is positive, so that it returns the same for every image."""
    return run("given", batch_size=128, seed=31)
