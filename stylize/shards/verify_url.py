"""`stylize verify` of a URL: every file is downloaded and read, one shard on the disk at a time."""

import tempfile
from pathlib import Path

from stylize.errors import InputError
from stylize.shards.manifest import Manifest
from stylize.shards.remote import RemoteFolder
from stylize.shards.verify_shard import Places, shard_defects


def verify_url(url: str) -> tuple[list[str], Manifest]:
    """Check a folder behind a URL against its manifest and return its defects, best none, and the manifest.

    Files beside those of the manifest are not looked for: web servers do not list them. Raises `InputError` where
    there is no manifest to check against.
    """
    remote, places = RemoteFolder(url), Places()
    defects: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = remote.fetch_manifest(Path(folder))
        for shard in manifest.shards:
            path = Path(folder) / shard.name
            try:
                remote.fetch(shard.name, path)
                defects += [f"{shard.name}: {defect}" for defect in shard_defects(path, manifest, shard, places)]
            except InputError as error:
                defects.append(f"{shard.name}: cannot be read ({error})")
            finally:
                path.unlink(missing_ok=True)
    return defects, manifest
