"""The top level holds what it must and nothing else."""

import re
import tomllib
from typing import Final

from house.tree import ROOT, tracked

TOP: Final = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "avro",
    "deploy",
    "docker-compose.yml",
    "pyproject.toml",
    "schemas",
    "src",
    "tests",
}
DOT_NEEDED: Final = {".ci", ".gitignore", ".pre-commit-config.yaml"}


def test_the_top_level_is_exact() -> None:
    """Visible names are a closed list; dot files may be more."""
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} == TOP
    assert names >= DOT_NEEDED


def test_the_source_folder_holds_one_package() -> None:
    """`src` is no place for a second one."""
    assert {p.relative_to(ROOT / "src").parts[0] for p in tracked() if p.is_relative_to(ROOT / "src")} == {
        "agentrun_stream"
    }


def test_the_readme_starts_with_the_demo_and_the_tests() -> None:
    """One line sets up and shows, one sets up and tests; CI runs the second as it stands."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[:2]
    assert first.strip().endswith("agentrun demo --exit")
    assert second.strip().endswith("pytest -n 2 --dist loadfile")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for command in (first, second):
        assert len(command.splitlines()) == 1
        assert set(re.findall(r"\[(\w+)\]", command)) <= set(extras)
