"""Finished parts of an evaluation beside its output, so that the same command goes on where it was stopped."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stylize.atomic import write_atomically


class Partial:
    """Parts by name, each a JSON value, in a hidden file `.OUT.partial`; those of another evaluation are dropped."""

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self.path = out.with_name(f".{out.name}.partial")
        self._identity = json.loads(json.dumps(identity))
        self._parts: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(document["parts"]) if document["identity"] == self._identity else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # none yet, or a file of something else: begin anew

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the part of this name, made and stored now where there is none."""
        if name not in self._parts:
            self._parts[name] = make()
            payload = json.dumps({"identity": self._identity, "parts": self._parts}, ensure_ascii=False)
            write_atomically(self.path, payload.encode())
        return self._parts[name]

    def remove(self) -> None:
        """Remove the file, when the result is written."""
        self.path.unlink(missing_ok=True)
