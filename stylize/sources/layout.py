"""Which split and class every path means: class folders, or split folders with class folders inside; never a guess.

The accepted layouts are in docs/shard-format.md. Paths have forward slashes; a `root` only names the data in errors.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from stylize.errors import InputError

SPLITS = ("train", "test", "val")
_SYNONYMS = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
    "val": ("val", "valid", "validation", "validate", "dev"),
}
_SPLIT_OF = {name: split for split, names in _SYNONYMS.items() for name in names}
_SET_WORD = re.compile(r"(?<=.)(?:sets?|data|images?|imgs?|splits?)$")
Folders = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The class of every path, its split (None where the folders name none), and the folder of every named split.

    `depth` counts the folders around all classes.
    """

    places: Sequence[tuple[str | None, str]]
    split_folders: Mapping[str, str]
    depth: int


def split_of(folder: str) -> str | None:
    """Return the split that a folder's name means in any case: `Training`, `test_set`, `valid`; None for any other."""
    plain = re.sub(r"[\W_]", "", folder.casefold())
    return _SPLIT_OF.get(plain) or _SPLIT_OF.get(_SET_WORD.sub("", plain))


def read_layout(root: str, paths: Sequence[str]) -> Layout:
    """Read the layout of files' paths; raise `InputError` where the folders could mean more than one thing."""
    folders = [tuple(path.split("/")[:-1]) for path in paths]
    depth = _wrappers(folders)
    inner = [parts[depth:] for parts in folders]
    split_folders = _split_folders(root, {parts[0] for parts in inner if len(parts) > 1})
    if split_folders:
        return _divided(root, paths, inner, split_folders, depth)
    _check_undivided(root, paths, inner)
    return Layout([(None, parts[0]) for parts in inner], {}, depth)


def _wrappers(folders: Sequence[Folders]) -> int:
    """Return how many leading folders all files share that name no split and hold the class folders."""
    depth = 0
    while all(len(parts) > depth + 1 for parts in folders):
        names = {parts[depth] for parts in folders}
        if len(names) != 1 or split_of(*names):
            break
        depth += 1
    return depth


def _split_folders(root: str, tops: Collection[str]) -> dict[str, str]:
    """Return the folder of every split named among folders that hold folders."""
    named: dict[str, str] = {}
    for top in sorted(tops):
        if split := split_of(top):
            if split in named:
                both = f"{named[split]} and {top}"
                raise InputError(f"{root}: {both} both name the {split} split: join them, or rename one.")
            named[split] = top
    if named and "train" not in named:
        found = _listed(named.values())
        raise InputError(f"{root} has {found} but no training split: add train, or give the folder of classes itself.")
    return named


def _divided(
    root: str, paths: Sequence[str], inner: Sequence[Folders], split_folders: dict[str, str], depth: int
) -> Layout:
    found = _listed(split_folders.values())
    for path, parts in zip(paths, inner, strict=True):
        if parts and split_of(parts[0]) is None:
            raise InputError(
                f"{root}: {found} name splits, but {parts[0]} beside them does not: move it into one, or remove it."
            )
        if len(parts) < 2:
            raise _stray(root, path, f"put it into one, as in {split_folders['train']}/CLASS, or remove it")
    splits = {folder: split for split, folder in split_folders.items()}
    if "test" not in split_folders and "val" in split_folders:
        splits[split_folders["val"]] = "test"
    places = [(splits[parts[0]], parts[1]) for parts in inner]
    _check_alike(root, [parts[1:] for parts, (split, _) in zip(inner, places, strict=True) if split == "train"])
    _check_splits_below(root, [parts[1:] for parts in inner])
    _check_strangers(root, places)
    return Layout(places, {split: folder for folder, split in splits.items()}, depth + 1)


def _check_undivided(root: str, paths: Sequence[str], inner: Sequence[Folders]) -> None:
    for path, parts in zip(paths, inner, strict=True):
        if not parts:
            raise _stray(root, path, "put it into one, or remove it")
    tops = {parts[0] for parts in inner}
    named = {top for top in tops if split_of(top)}
    if len({split_of(top) for top in named}) > 1:
        raise InputError(f"{root}: {_listed(named)} name splits but hold no class folders: put the pictures into some.")
    words = {top: _split_words(top) for top in tops}
    kinds = {kind for found in words.values() for kind in found}
    if len(kinds) > 1 and (all(words.values()) or all(len(parts) > 1 for parts in inner)):
        found = _listed(top for top in tops if words[top])
        raise InputError(f"{root}: {found} seem to name splits: call them train, test and val, or rename the classes.")
    _check_alike(root, inner)
    _check_splits_below(root, inner)


def _split_words(folder: str) -> set[str]:
    """Return the splits whose names are words of a folder's name, as in `seg_train`."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder)  # as in `trainA`
    words = re.findall(r"[^\W\d_]+", apart.casefold())
    return {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}


def _check_alike(root: str, inner: Iterable[Folders]) -> None:
    """Refuse classes that all hold the same folders: whether these are the classes cannot be known."""
    below: dict[str, set[str]] = defaultdict(set)
    for parts in inner:
        below[parts[0]].add(parts[1] if len(parts) > 1 else "")
    if len(below) < 2 or any("" in names for names in below.values()):
        return
    shared = set.intersection(*below.values())
    if any(map(split_of, shared)):
        raise InputError(
            f"{root}: {_listed(below)} all hold {_listed(shared)}: put the splits above the classes, as in "
            f"{min(shared, key=_split_first)}/{min(below)}."
        )
    if len(shared) > 1 or all(names == shared for names in below.values()):
        raise InputError(
            f"{root}: {_listed(below)} all hold the same folders ({_listed(shared)}), so which are the classes cannot "
            "be known: give one of them, join them, or move each class's pictures into one folder."
        )


def _check_splits_below(root: str, inner: Iterable[Folders]) -> None:
    """Refuse folders of different splits below classes, even where not all classes hold them."""
    named = {split_of(folder): "/".join(parts) for parts in inner for folder in parts[1:]}
    named.pop(None, None)
    if len(named) > 1:
        found = _listed(named.values())
        raise InputError(f"{root}: {found} name splits below classes: put the splits above the classes.")


def _split_first(folder: str) -> tuple[bool, str]:
    return split_of(folder) is None, folder


def _check_strangers(root: str, places: Iterable[tuple[str | None, str]]) -> None:
    """Refuse classes that training does not know, and say where only their spelling differs."""
    classes: dict[str | None, set[str]] = defaultdict(set)
    for split, name in places:
        classes[split].add(name)
    known = classes.pop("train", set())
    spelling = {_folded(name): name for name in known}
    for split, names in classes.items():
        strangers = sorted(names - known)
        for name in strangers:
            if like := spelling.get(_folded(name)):
                raise InputError(
                    f"{root}: the class {like!r} of train is called {name!r} in {split}: use one spelling."
                )
        if strangers:
            raise InputError(
                f"{root}: classes {_listed(strangers)} are in the {split} split but not in train: make them agree."
            )


def _folded(name: str) -> str:
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", name).casefold())


def look_alikes(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of names that differ only in Unicode's form, so that they look the same."""
    seen: dict[str, str] = {}
    for name in sorted(names):
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            yield other, name


def _stray(root: str, path: str, advice: str) -> InputError:
    return InputError(f"{root}: the picture {path} lies in no class folder: {advice}.")


def _listed(names: Iterable[str], limit: int = 5) -> str:
    found = sorted(names)
    return ", ".join(found[:limit]) + (f" and {len(found) - limit} more" if len(found) > limit else "")
