"""Which copies belong to which original, where both exist as folders of files with the same relative paths."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stylize.errors import InputError
from stylize.sources.listing import list_files
from stylize.sources.picture_files import PictureFile
from stylize.sources.source import Source
from stylize.wording import counted

MARK = "-stylized-"  # stylize-datasets makes PHOTO-stylized-STYLE.jpg of PHOTO.jpg


@dataclass(frozen=True)
class Copy:
    """A stylized copy that exists: its file, and the name of its style, as far as that can be told."""

    file: PictureFile
    style: str


def pair_copies(source: Source, folders: Sequence[Path]) -> dict[str, list[Copy]]:
    """Return the copies of every training image by the image's path in the source; all have as many.

    A copy has the path of its original in any of the folders, maybe with another suffix, or with `-stylized-STYLE`
    after its stem, as stylize-datasets names them. Copies of images of other splits are left aside.
    Raises `InputError` where training images have no copies or different numbers, or copies no original.
    """
    names = {split: [source.path(split, i) for i in range(source.count(split))] for split in source.splits}
    train = _by_stem(names.get("train", []))
    others = {_stem(name) for split, of in names.items() if split != "train" for name in of}
    copies: dict[str, list[Copy]] = {name: [] for name in train.values()}
    strangers = []
    for folder in folders:
        for file in list_files(folder).files:
            found = next((split for split in _readings(file, folder) if split[0] in train or split[0] in others), None)
            if found is None:
                strangers.append(file.name)
            elif found[0] in train:
                copies[train[found[0]]].append(Copy(file, found[1]))
    _check(copies, strangers)
    return copies


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _by_stem(names: Sequence[str]) -> dict[str, str]:
    stems = {_stem(name): name for name in names}
    if len(stems) < len(names):
        twice = next(stem for stem, count in Counter(map(_stem, names)).items() if count > 1)
        raise InputError(f"Two originals are called {twice}, but for their suffix: rename one and its copies.")
    return stems


def _readings(file: PictureFile, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (stem of the original, style) as a copy's name can be read: whole, then cut at each mark."""
    yield file.path_stem, folder.resolve().name
    start = file.path_stem.find(MARK)
    while start >= 0:
        yield file.path_stem[:start], file.path_stem[start + len(MARK) :]
        start = file.path_stem.find(MARK, start + 1)


def _check(copies: Mapping[str, Sequence[Copy]], strangers: Sequence[str]) -> None:
    """Refuse images without copies, copies without images, and images with different numbers of copies."""
    if missing := [name for name, own in copies.items() if not own]:
        raise InputError(
            f"{counted(len(missing), 'training image')} of {len(copies)} have no stylized copy (first: {missing[0]}): "
            "add the copies, or take the images away."
        )
    if strangers:
        raise InputError(
            f"{counted(len(strangers), 'copy', 'copies')} have no original (first: {strangers[0]}): "
            "add the originals, or take the copies away."
        )
    numbers = Counter(map(len, copies.values()))
    if len(numbers) > 1:
        usual = numbers.most_common(1)[0][0]
        odd = next(name for name, own in copies.items() if len(own) != usual)
        raise InputError(
            f"Most training images have {counted(usual, 'copy', 'copies')}, but {odd} has {len(copies[odd])}: "
            "give every image as many."
        )
