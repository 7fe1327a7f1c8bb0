"""What a folder holds, to compare folders byte by byte."""

from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file by its name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
