"""The house as the reader sees it: which names are public, which module may import which, what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lab

PACKAGE = Path(lab.__file__).parent
ROOT = PACKAGE.parent
ORDER = [  # a module imports only from those before it
    *("errors", "files", "data", "models", "checkpoints", "training", "shifting", "observing", "metrics", "claims"),
    *("exercise", "plotting", "every_shift.dense", "every_shift.maps"),
    *("metering.origins", "metering.operations", "metering.receptive_fields", "metering.theory"),
    *("metering.interpolation", "metering.measuring", "metering.remedies", "metering.report", "metering.inputs"),
    *("metering.instrument", "metering.tiles"),
    *("reporting.evidence", "reporting.figures", "reporting.report", "live.export", "live.chains"),
    *("review.feedback", "review.reading", "review.networks", "review.trained", "review.translations"),
    *("review.measures", "review.conclusions", "review.submissions", "review.editions"),
    *("review.running", "review.grading", "review.commands"),
    *("study.networks", "study.plans", "study.runs", "study.statistics", "study.results", "study.scheduling"),
    *("study.figures", "study.commands", "cli"),
]
CORE = ["data", "models", "training", "shifting", "observing", "metrics", "claims", "exercise"]
PUBLIC = {
    *("load_mnist", "normalize", "Mnist", "Split", "data_root", "LabModel", "PooledCNN", "build_model"),
    *("RECIPES", "TrainConfig", "TrainingRun", "fit", "Evaluation", "evaluate", "predict", "activations"),
    *("shift", "ink_margins", "InkMargins", "translated_pairs", "TranslatedPairs"),
    *("equivariance_error", "invariance_error", "sorted_distance", "sort_positions", "consistency", "cohen_kappa"),
    *("aligned_error", "best_aligned_error", "derangement", "mean_error", "largest_error"),
    *("Claim", "Control", "Verdicts", "check", "LabError", "LabWarning", "ClaimError", "__version__"),
    *("measure_pairs", "group_by_distance", "on_stride"),
    *("meter", "Report", "assert_equivariant", "EquivarianceError", "trace", "fractal_images"),
    *("tiling", "Tiling"),
    *("shift_map", "shift_maps", "ShiftMaps", "dense_equivalent"),
    *("run_study", "load_study", "Study", "StudyResult", "Setting", "study_network", "BlurPool", "AdaptivePolyphase"),
    "moved_once",
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported_modules(path: Path) -> set[str]:
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.module]
    found = {n.module.removeprefix("lab.") for n in nodes if n.module.startswith("lab.")} & set(ORDER)
    for n in nodes:
        package = n.module.removeprefix("lab").removeprefix(".")
        if n.module == "lab" or n.module.startswith("lab."):
            found |= {".".join(filter(None, (package, a.name))) for a in n.names} & set(ORDER)
    return found


def test_the_public_interface_is_pinned():
    assert set(lab.__all__) == PUBLIC == set(dir(lab))


def test_type_checkers_see_the_same_interface():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (guard,) = (n for n in tree.body if isinstance(n, ast.If))
    declared = {a.asname for n in guard.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert declared == PUBLIC - {"__version__"}


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__", "RECIPES"}))
def test_public_names_are_documented(name):
    assert getattr(lab, name).__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'banana'"):
        lab.banana  # noqa: B018  # the look-up is the test


def test_no_module_or_folder_bears_the_name_of_a_public_function():
    places = {part for path in PACKAGE.rglob("*.py") for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not places & PUBLIC


def test_after_import_lab_its_modules_are_there_and_torch_is_not():
    code = (
        "import lab, sys\n"
        "assert 'torch' not in sys.modules\n"
        "print(lab.data.BACKGROUND, lab.plotting.__name__, lab.metrics.__name__)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert out.split() == ["-0.424212917883804", "lab.plotting", "lab.metrics"]


def test_the_order_names_every_module():
    assert sorted(ORDER) == sorted(map(name_of, MODULES))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_module_imports_only_from_those_before_it(path):
    assert imported_modules(path) <= set(ORDER[: ORDER.index(name_of(path))])


@pytest.mark.parametrize("name", CORE)
def test_the_core_looks_up_to_no_wing(name):
    assert not {module for module in imported_modules(PACKAGE / f"{name}.py") if "." in module}


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "walkthroughs").glob("*.py")), ids=lambda path: path.stem)
def test_pages_import_the_lab_and_its_plotting_alone(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
    assert {name for name in names if name.partition(".")[0] == "lab"} <= {"lab", "lab.plotting"}


def test_importing_the_package_or_its_command_line_loads_neither_torch_nor_matplotlib():
    heavy = "{'torch', 'matplotlib', 'torchvision', 'numpy', 'scipy', 'joblib', 'distributed'}"
    code = f"import lab.cli, sys; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_importing_every_module_loads_no_torchvision_no_compiler_and_draws_no_random_number():
    code = (
        "import sys, torch\n"
        "before = torch.random.get_rng_state()\n"
        f"for name in {ORDER}: __import__(f'lab.{{name}}')\n"
        "assert torch.equal(before, torch.random.get_rng_state())\n"
        "print(sorted({'torchvision', 'torch._dynamo', 'matplotlib.pyplot', 'scipy', 'joblib'} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_measuring_a_network_loads_no_compiler():
    code = (
        "import sys, torch, lab\n"
        "model, images = lab.build_model('given', seed=0).eval(), torch.rand(3, 1, 28, 28)\n"
        "lab.meter(model, images, [(1, 0)], mode='wrap')\n"
        "lab.review.network(model)\n"
        "print(sorted({'torchvision', 'torch._dynamo', 'sympy'} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_version_and_changelog_agree():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## Unreleased" in text
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{lab.__version__}"' in pyproject
