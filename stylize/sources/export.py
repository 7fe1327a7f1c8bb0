"""`stylize images`: a source's untouched image files as one zip of class folders, the pipeline's first stage."""

import zipfile
from pathlib import Path

from stylize.atomic import temporary_path
from stylize.errors import InputError
from stylize.sources.pictures import PictureError
from stylize.sources.source import Source

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can say: equal inputs give equal bytes


def export_images(source: Source, out: Path) -> int:
    """Write `train/CLASS/INDEX.SUFFIX`, `test/…` and `val/…` into the zip `out` and return the number of images."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return _write_zip(source, out)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): give another --out or make room.") from None


def _write_zip(source: Source, out: Path) -> int:
    temporary = temporary_path(out)
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            images = ((split, index) for split in source.splits for index in range(source.count(split)))
            count = sum(_write_image(archive, source, split, index) for split, index in images)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write_image(archive: zipfile.ZipFile, source: Source, split: str, index: int) -> int:
    path = Path(source.path(split, index))
    name = f"{split}/{source.class_names[source.label(split, index)]}/{index:08d}{path.suffix.lower()}"
    try:
        archive.writestr(zipfile.ZipInfo(name, _EPOCH), source.read(split, index))
    except PictureError as error:
        raise InputError(f"The image {path} {error}: mend or remove it.") from None
    return 1
