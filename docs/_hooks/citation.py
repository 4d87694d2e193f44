"""How to cite the course: CITATION.cff in words, and as BibTeX."""

from functools import cache
from typing import Any

import yaml
from execution import ROOT
from markupsafe import escape


@cache
def _record() -> dict[str, Any]:
    """Of the file, with the year of the licence: no release has a date yet."""
    record: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return record | {"year": licence.partition("Copyright (c) ")[2].split()[0]}


def as_html(repository: str) -> str:
    """A sentence to copy, and an entry for BibTeX, with the repository's address where one is known."""
    record = _record()
    names = [author.get("name") or f"{author['given-names']} {author['family-names']}" for author in record["authors"]]
    address = f" {repository}" if repository else ""
    sentence = f"{', '.join(names)}. {record['title']}, version {record['version']}, {record['year']}.{address}"
    fields = {"author": " and ".join(f"{{{name}}}" for name in names)}
    fields |= {key: record[key] for key in ("title", "version", "year")}
    fields |= {"url": repository} if repository else {}
    lines = "".join(f"  {key} = {{{value}}},\n" for key, value in fields.items())
    entry = f"@software{{equivariance_lab,\n{lines}}}"
    return f"<blockquote><p>{escape(sentence)}</p></blockquote><pre><code>{escape(entry)}</code></pre>"
