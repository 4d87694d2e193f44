"""Draws the house from the tree of `lab/`: `python tests/house.py` writes docs/assets/house.svg."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lab"
TARGET = ROOT / "docs" / "assets" / "house.svg"
CORE = ("data", "models", "training", "shifting", "observing", "metrics", "claims", "exercise")
SUPPORT = ("errors", "files", "checkpoints", "plotting", "cli")
INK, SOFT, PAPER = "#1f2430", "#565d6d", "#ffffff"
FILLS = {"core": "#dbe4ff", "wing": "#fff1cc", "support": "#e9ecef"}
WIDTH, MARGIN, GAP, LINE = 960, 20, 12, 20


def parts(package: Path = PACKAGE) -> dict[str, list[str]]:
    """The package's parts: "core", "support", and each wing's folder; to each its modules."""
    top = sorted(path.stem for path in package.glob("*.py") if path.stem != "__init__")
    rest = [name for name in top if name not in CORE + SUPPORT]  # a new module is shown until it has found its place
    found = {"core": [*CORE], "support": [*(name for name in SUPPORT if name in top), *rest]}
    for folder in sorted(path.parent for path in package.glob("*/__init__.py")):
        found[folder.name] = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    return found


def box(x: float, y: float, width: float, height: float, kind: str, lines: list[str]) -> str:
    """A box; its first line is its name."""
    drawn = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{FILLS[kind]}"/>']
    for i, line in enumerate(lines):
        look = ' font-weight="bold"' if i == 0 else f' fill="{SOFT}"'
        drawn.append(f'<text x="{x + width / 2:g}" y="{y + 22 + LINE * i:g}" text-anchor="middle"{look}>{line}</text>')
    return "\n".join(drawn)


def row(names: list[list[str]], y: float, height: float, kind: str) -> str:
    """Boxes of one width, side by side."""
    width = (WIDTH - 2 * MARGIN - GAP * (len(names) - 1)) / len(names)
    return "\n".join(box(MARGIN + i * (width + GAP), y, width, height, kind, lines) for i, lines in enumerate(names))


def heading(y: float, text: str) -> str:
    """What a floor is."""
    return f'<text x="{MARGIN}" y="{y:g}">{text}</text>'


def svg(found: dict[str, list[str]]) -> str:
    """The picture: wings above, the core beneath them, support at the bottom, on paper of its own."""
    wings = [[f"{name}/", *modules] for name, modules in found.items() if name not in ("core", "support")]
    tall = LINE * max(map(len, wings)) + 14
    core, support = tall + 92, tall + 174
    height = support + 56
    floors = [
        heading(32, "The wings: instruments that import from the floors below, and from wings at their left"),
        row(wings, 44, tall, "wing"),
        heading(core - 12, "The core: a tensor goes from left to right, and a module imports only from its left"),
        row([[name] for name in found["core"]], core, 34, "core"),
        heading(support - 12, "Support: errors and files for everything; cli is the command line, which calls it all"),
        row([[name] for name in found["support"]], support, 34, "support"),
    ]
    style = f'font-family="system-ui, sans-serif" font-size="14" fill="{INK}"'
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    paper = f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{PAPER}"/>'
    return "\n".join([head, paper, *floors, "</svg>"]) + "\n"


if __name__ == "__main__":
    TARGET.write_text(svg(parts()), encoding="utf-8")
