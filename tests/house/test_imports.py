"""Imports: the contracts hold, and the environment is read in one place."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from house.tree import PACKAGE, ROOT, parsed, shown, sources

# Besides the settings: what starts child processes hands its own environment on.
ENVIRONMENT_READERS: Final = ("config/", "childproc.py", "testing/")


def test_the_import_contracts_hold() -> None:
    """Left may import right: import-linter says so."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sources(), ids=shown)
def test_only_settings_read_the_environment(path: Path) -> None:
    """A setting that is read elsewhere is in no catalogue."""
    if path.relative_to(PACKAGE).as_posix().startswith(ENVIRONMENT_READERS):
        return
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.environb"}:
            pytest.fail(f"line {node.lineno} reads the environment")
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            assert not {"environ", "getenv"} & {alias.name for alias in node.names}
