"""What the package says of itself on an index: its addresses, and a README whose links work there.

The repository writes down no address of its own, for a fork or a copy has another. Who builds a release names it:
`REPOSITORY_URL=https://… SITE_URL=https://… python -m hatchling build`. Without the first, the links stay relative,
and the package names no address.
"""

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def urls(repository: str, site: str) -> dict[str, str]:
    """The addresses that are known, as an index shows them."""
    if not repository:
        return {"Documentation": site} if site else {}
    known = {"Repository": repository, "Issues": f"{repository}/issues"}
    known["Changelog"] = f"{repository}/blob/main/CHANGELOG.md"
    return known | ({"Documentation": site} if site else {})


def readme(text: str, repository: str) -> str:
    """Markdown whose relative links lead to the repository, its pictures to their files."""
    if not repository:
        return text

    def absolute(link: re.Match[str]) -> str:
        picture, words, target = link.groups()
        kind = "raw" if picture else "blob"
        return f"{picture}[{words}]({repository}/{kind}/main/{target})"

    return LINK.sub(absolute, text)


class Addresses(MetadataHookInterface):
    """Hatchling calls it when it builds a package."""

    def update(self, metadata: dict) -> None:
        """Set the fields that pyproject.toml calls dynamic."""
        repository = os.environ.get("REPOSITORY_URL", "").rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": readme(text, repository)}
        metadata["urls"] = urls(repository, os.environ.get("SITE_URL", ""))
