"""Which files of the package a page or a program depends on: what its import statements reach, followed to the end."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# A page with one of these may load a module, or start a program, that no import statement names.
HIDES_IMPORTS = frozenset({"__import__", "eval", "exec", "import_module", "importlib", "runpy", "subprocess"})


class UnclearImportError(Exception):
    """The text does not tell which modules it uses."""


def reached(source: str, package: Path) -> set[Path]:
    """The files of the package whose change may change what this source does.

    They are the modules that it imports or uses as `lab.NAME`, those that these import, also within functions, and
    the files of other kinds beside all these. `lab/__init__.py` only says where a name is to be found.

    Args:
        source: Python, of a page or a program.
        package: the folder of `lab`.

    Returns:
        All files of the package where the imports cannot be followed, or the source is not Python.
    """
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    try:
        found = _followed(_used(source, hidden=HIDES_IMPORTS), package)
    except (UnclearImportError, SyntaxError):
        return set(files)
    homes = {path.parent for path in found}
    return found | {path for path in files if path.suffix != ".py" and _home(path) in homes}


def _followed(names: frozenset[str], package: Path) -> set[Path]:
    waiting, found = list(names), set[Path]()
    while waiting:
        for path in _modules(waiting.pop(), package) - found:
            found.add(path)
            if path != package / "__init__.py":
                waiting += _used(path.read_text(encoding="utf-8"))
    return found


def _home(path: Path) -> Path:
    """The folder of the modules that a file of another kind lies beside or below."""
    return next(folder for folder in path.parents if (folder / "__init__.py").is_file())


@cache
def _used(source: str, hidden: frozenset[str] = frozenset()) -> frozenset[str]:
    """What a source names of the package, as `lab.NAME` or `lab.module.NAME`."""
    nodes = list(ast.walk(ast.parse(source)))
    imported = {name for node in nodes for name in _imported(node)}
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    roots = {name.partition(".")[0] for name in imported if not name.startswith("importlib.metadata.")}
    if hidden & {*names, *roots}:
        raise UnclearImportError
    of_lab = [node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_lab(node.value)]
    if "lab" in imported and names.count("lab") > len(of_lab):
        raise UnclearImportError  # `lab` itself is handed on, as in `getattr(lab, name)`
    attributes = {f"lab.{name}" for name in of_lab} if "lab" in imported else set()
    return frozenset(attributes | {name for name in imported if name.startswith("lab.")})


def _is_lab(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "lab"


def _imported(node: ast.AST) -> Iterator[str]:
    """The dotted names that a statement imports, and `lab` where it binds that."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name == "lab" and alias.asname:
                raise UnclearImportError
            yield alias.name
            if alias.name.startswith("lab.") and not alias.asname:
                yield "lab"
    elif isinstance(node, ast.ImportFrom):
        if node.level or (node.module == "lab" and node.names[0].name == "*"):
            raise UnclearImportError
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules(name: str, package: Path) -> set[Path]:
    """The module that a dotted name lies in, with the `__init__.py` of its wing; for a wing, all its modules."""
    parts = name.split(".")[1:]
    parts = _public((package / "__init__.py").read_text(encoding="utf-8")).get(parts[0], parts)
    folder = package
    for part in parts:
        if (module := folder / f"{part}.py").is_file():
            return {module} | ({folder / "__init__.py"} if folder != package else set())
        if not (folder / part / "__init__.py").is_file():
            break
        folder = folder / part
    if folder == package:
        raise UnclearImportError
    return set(folder.rglob("*.py"))


@cache
def _public(source: str) -> dict[str, list[str]]:
    """Where `lab/__init__.py` says that each public name lies: `meter` -> `metering`, `instrument`."""
    nodes = list(ast.walk(ast.parse(source)))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lab.")]
    own = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    found = {alias.name: str(node.module).split(".")[1:] for node in imports for alias in node.names}
    return {name: ["__init__"] for name in own} | found
