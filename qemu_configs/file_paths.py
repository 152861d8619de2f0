"""Paths that stand in files: which word is one, and whose folder it starts from. Knows texts; reads nothing."""

from pathlib import Path

ENDINGS = (".yaml", ".yml")


def is_path(word: str) -> bool:
    """Whether a word that may also be a name (of a profile, of a bed) is a path: it has a slash or a file's ending."""
    return "/" in word or word.endswith(ENDINGS)


def from_file(folder: Path, word: str) -> Path:
    """The path that a file in `folder` means by `word`: from that folder on, or from a home (`~`), whatever the shell's is."""
    try:
        return (folder / Path(word).expanduser()).absolute()
    except RuntimeError:  # ~NAME of somebody who is not known here
        return (folder / word).absolute()
