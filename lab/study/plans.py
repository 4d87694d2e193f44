"""A study as data: factors with their values, and seeds; from a TOML file, or one of those that come with the lab."""

import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from lab.errors import InputError, check_choice, require
from lab.files import expanded
from lab.study.networks import Setting

FACTORS = tuple(field.name for field in fields(Setting))
KEYS = "title", "about", "seeds", "factors"


@dataclass(frozen=True)
class Run:
    """One network to train: a setting and a seed."""

    setting: Setting
    seed: int


@dataclass(frozen=True)
class Study:
    """Every combination of the factors' values, with every seed.

    Attributes:
        name: of the study, or of its file without the ending.
        title: what it asks, in a line.
        seeds: from 0 to `seeds` − 1 are used.
        factors: factor -> its values; what is not named has the usual value of [`Setting`][lab.study.networks.Setting].
    """

    name: str
    title: str
    seeds: int
    factors: dict[str, list[Any]]

    def __post_init__(self) -> None:
        whole = isinstance(self.seeds, int) and not isinstance(self.seeds, bool)
        require(whole and self.seeds >= 1, f"{self.name}: seeds must be a whole number, at least 1: {self.seeds!r}")
        for factor, values in self.factors.items():
            check_choice(f"{self.name}: a factor", factor, FACTORS)
            fit = isinstance(values, list) and values and len(set(map(repr, values))) == len(values)
            require(fit, f"{self.name}: {factor} must be a list of different values, at least one: {values!r}")
        _ = self.settings  # whose values are checked when they are made

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Each combination once; the first factor changes last."""
        return tuple(
            Setting(**dict(zip(self.factors, values, strict=True))) for values in product(*self.factors.values())
        )

    def runs(self) -> Iterator[Run]:
        """Seed by seed, so that a study which is stopped has some of everything."""
        for seed in range(self.seeds):
            for setting in self.settings:
                yield Run(setting, seed)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


def known_studies() -> tuple[Study, ...]:
    """The studies that come with the lab."""
    text = Path(__file__).with_name("studies.toml").read_text(encoding="utf-8")
    return tuple(_study(name, keys) for name, keys in tomllib.loads(text).items())


def load_study(name: str | Path, *, seeds: int | None = None) -> Study:
    """A study of the lab's, by its name, or from a TOML file.

    Args:
        name: as `lab study --list` shows it, or a path that ends in `.toml`.
        seeds: how many, in place of what the study says.

    Raises:
        InputError: an unknown name, factor or value, a file that cannot be read, a key that nothing reads, no run.

    Examples:
        >>> import lab
        >>> len(lab.load_study("remedies").settings)
        18
    """
    if str(name).endswith(".toml"):
        path = expanded(name)
        found = _study(path.stem, _read(path))
    else:
        known = {study.name: study for study in known_studies()}
        check_choice("study", str(name), [*known, "FILE.toml"])
        found = known[str(name)]
    return found if seeds is None else Study(found.name, found.title, seeds, found.factors)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the study {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise InputError(f"the study {path} must be TOML: {error}") from error


def _study(name: str, keys: dict[str, Any]) -> Study:
    """Refuse what nothing would read: a misspelt key must not leave the usual value in place."""
    for key in keys:
        check_choice(f"{name}: a key", key, KEYS)
    factors = keys.get("factors", {})
    require(isinstance(factors, dict) and factors, f"{name}: [factors] must name at least one factor and its values")
    return Study(name, str(keys.get("title", name)), keys.get("seeds", 5), factors)
