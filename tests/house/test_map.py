"""The map in the package README matches the folders and modules that exist."""

import re

from house.tree import PACKAGE, tracked


def test_the_map_is_the_territory() -> None:
    """Each folder and top-level module has one row, and each row a folder or module."""
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w./]+)` \|", text.partition("## The map")[2].partition("\n## ")[0], re.MULTILINE)
    assert len(rows) == len(set(rows))
    exists = set()
    for path in tracked():
        if path.is_relative_to(PACKAGE):
            first, *rest = path.relative_to(PACKAGE).parts
            exists.add(f"{first}/" if rest else first)
    assert set(rows) == exists - {"README.md", "__init__.py", "py.typed"}
