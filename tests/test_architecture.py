"""The house as the reader sees it: which names are public, which module may import which, what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lab

PACKAGE = Path(lab.__file__).parent
ROOT = PACKAGE.parent
ORDER = [  # a module imports only from those to the left
    *("errors", "paths", "data", "models", "training", "shifting", "activations", "metrics"),
    *("geometry", "theory", "measuring", "claims", "exercise", "dense", "shiftmap", "plotting", "meter", "report"),
    *("loading", "export", "cli"),
]
PUBLIC = {
    *("load_mnist", "normalize", "Mnist", "Split", "LabModel", "PooledCNN", "build_model"),
    *("TrainConfig", "TrainingRun", "Evaluation", "fit", "evaluate"),
    *("shift", "ink_margins", "InkMargins", "translated_pairs", "TranslatedPairs", "activations"),
    *("equivariance_error", "invariance_error", "sorted_distance", "consistency", "cohen_kappa"),
    *("Claim", "Control", "Verdicts", "check", "LabError", "LabWarning", "ClaimError", "__version__"),
    *("meter", "Report", "assert_equivariant", "EquivarianceError"),
    *("shift_map", "shift_maps", "ShiftMaps", "dense_equivalent"),
}


def imported_modules(path: Path) -> set[str]:
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
    direct = {n.module.partition(".")[2] for n in nodes if n.module and n.module.startswith("lab.")}
    siblings = {a.name for n in nodes if n.module == "lab" for a in n.names if a.name in ORDER}
    return direct | siblings


def test_the_public_interface_is_pinned():
    assert set(lab.__all__) == PUBLIC == set(dir(lab))


def test_type_checkers_see_the_same_interface():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (guard,) = (n for n in tree.body if isinstance(n, ast.If))
    declared = {a.asname for n in guard.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert declared == PUBLIC - {"__version__"}


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_public_names_are_documented(name):
    assert getattr(lab, name).__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'banana'"):
        lab.banana  # noqa: B018  # the look-up is the test


def test_a_function_that_shares_its_modules_name_wins_over_the_module():
    code = "import lab.activations, lab; assert callable(lab.activations), lab.activations"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda p: p.stem)
def test_each_module_imports_only_from_those_above_it(path):
    if path.stem == "__init__":
        return
    above = ORDER[: ORDER.index(path.stem)]
    assert imported_modules(path) <= set(above)


def test_importing_the_package_or_its_command_line_loads_neither_torch_nor_matplotlib():
    code = "import lab.cli, sys; print(sorted({'torch', 'matplotlib', 'torchvision', 'numpy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_importing_every_module_loads_no_torchvision_no_compiler_and_draws_no_random_number():
    code = (
        "import sys, torch\n"
        "before = torch.random.get_rng_state()\n"
        f"for name in {ORDER}: __import__(f'lab.{{name}}')\n"
        "assert torch.equal(before, torch.random.get_rng_state())\n"
        "print(sorted({'torchvision', 'torch._dynamo', 'matplotlib.pyplot'} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_version_and_changelog_agree():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## Unreleased" in text
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{lab.__version__}"' in pyproject
