"""Where the local stack keeps its data and its downloads when no setting says otherwise (XDG base directories)."""

import os
from pathlib import Path
from typing import Final

NAME: Final = "agentrun-stream"


def data_folder() -> Path:
    """`$XDG_DATA_HOME` or `~/.local/share`, and the package's name."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / NAME


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME` or `~/.cache`, and the package's name."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / NAME
