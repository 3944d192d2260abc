"""The folders of a study list, with those that a link leads to: lists are often put together from links.

A link is not followed in a circle, nor to what is shown by another way already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NOT_UNICODE = "its name is not Unicode: rename it"
SHOWN_ALREADY = "a link to a folder that is shown by another way"
NOT_ALLOWED = "this server may not look into it: change its permissions"
AROUND = "a link to a folder with a folder of this list in it: link its sub-folders instead"


@dataclass(frozen=True)
class Folder:
    """One folder.

    Attributes:
        path: below the study folder, by way of a link perhaps.
        names: of what is no folder in it, hidden files left out.
        closed: {folder in it: why it is not looked into}, hidden folders left out.
    """

    path: Path
    names: tuple[str, ...]
    closed: Mapping[str, str]


def folders_of(root: Path) -> Iterator[Folder]:
    """The study folder and all folders below it; the hidden ones are the system's and this app's own."""
    followed = [root.resolve()]
    for parent, folders, names in os.walk(root, followlinks=True):
        closed: dict[str, str] = {}
        for name in sorted(folder for folder in folders if not folder.startswith(".")):
            if reason := _why_closed(Path(parent) / name, followed):
                closed[name] = reason
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in closed)
        yield Folder(Path(parent), tuple(sorted(name for name in names if not name.startswith("."))), closed)


def _why_closed(path: Path, followed: list[Path]) -> str:
    """Why a folder is not looked into, empty where it is; where a link leads is added to what is `followed`."""
    if not is_unicode(path.name):
        return NOT_UNICODE
    if not os.access(path, os.R_OK | os.X_OK):
        return NOT_ALLOWED
    if not path.is_symlink():
        return ""
    target = path.resolve()
    if any(target.is_relative_to(other) for other in followed):
        return SHOWN_ALREADY
    if any(other.is_relative_to(target) for other in followed):
        return AROUND
    followed.append(target)
    return ""


def is_unicode(name: str) -> bool:
    """Whether a file name can be written down: the system hands over any bytes, and half of them as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: Path | str) -> str:
    """A path for people, of any bytes."""
    return str(path).encode("utf-8", "backslashreplace").decode()
