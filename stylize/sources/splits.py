"""Which split and class a path means, which files are ignored, and which images are held out for testing."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import splitext

from stylize.console import InputError, counted

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
    """The split of every path (None where the folders name none) and its class; `depth` folders lie around classes."""

    places: Sequence[tuple[str | None, str]]
    depth: int


def split_of(folder: str) -> str | None:
    """Return the split that a folder's name means in any case: `Training`, `test_set`, `valid`; None for any other."""
    plain = re.sub(r"[\W_]", "", folder.casefold())
    return _SPLIT_OF.get(plain) or _SPLIT_OF.get(_SET_WORD.sub("", plain))


def read_layout(root: str, paths: Sequence[str]) -> Layout:
    """Read the layout of files' paths; raise `InputError` where the folders could mean more than one thing."""
    folders = [tuple(path.split("/")[:-1]) for path in paths]
    depth = 0  # of folders that all files share, name no split and hold the class folders
    while all(len(parts) > depth + 1 for parts in folders):
        names = {parts[depth] for parts in folders}
        if len(names) != 1 or split_of(*names):
            break
        depth += 1
    inner = [parts[depth:] for parts in folders]
    split_folders = name_splits(root, {parts[0] for parts in inner if len(parts) > 1})
    if split_folders:
        return _divided(root, paths, inner, split_folders, depth)
    _check_undivided(root, paths, inner)
    return Layout([(None, parts[0]) for parts in inner], depth)


def name_splits(root: str, tops: Collection[str]) -> dict[str, str]:
    """Return the folder of every split that folders side by side name.

    Raises `InputError` where two name the same split, or some name splits but none the training split.
    """
    named: dict[str, str] = {}
    for top in sorted(tops):
        if split := split_of(top):
            if split in named:
                both = f"{named[split]} and {top}"
                raise InputError(f"{root}: {both} both name the {split} split: join them, or rename one.")
            named[split] = top
    if named and "train" not in named:
        raise _no_training(root, named.values())
    return named


def _no_training(root: str, found: Iterable[str]) -> InputError:
    advice = "add train, or give the folder of classes itself"
    return InputError(f"{root} has {listed(found)} but no training split: {advice}.")


def _divided(
    root: str, paths: Sequence[str], inner: Sequence[Folders], split_folders: dict[str, str], depth: int
) -> Layout:
    found = listed(split_folders.values())
    for path, parts in zip(paths, inner, strict=True):
        if parts and split_of(parts[0]) is None:
            raise outside_splits(root, found, parts[0])
        if len(parts) < 2:
            raise _stray(root, path, f"put it into one, as in {split_folders['train']}/CLASS, or remove it")
    splits = {folder: split for split, folder in split_folders.items()}
    places = [(splits[parts[0]], parts[1]) for parts in inner]
    _check_alike(root, [parts[1:] for parts, (split, _) in zip(inner, places, strict=True) if split == "train"])
    _check_splits_below(root, [parts[1:] for parts in inner])
    check_unknown_classes(root, places)
    return Layout(places, depth + 1)


def outside_splits(root: str, found: str, name: str) -> InputError:
    """Return the error for a file or folder that lies beside folders that name splits."""
    return InputError(f"{root}: {found} name splits, but {name} beside them does not: move it into one, or remove it.")


def _check_undivided(root: str, paths: Sequence[str], inner: Sequence[Folders]) -> None:
    for path, parts in zip(paths, inner, strict=True):
        if not parts:
            raise _stray(root, path, "put it into one, or remove it")
    tops = {parts[0] for parts in inner}
    named = {top for top in tops if split_of(top)}
    if len({split_of(top) for top in named}) > 1:
        raise InputError(f"{root}: {listed(named)} name splits but hold no class folders: put the pictures into some.")
    words = {top: _split_words(top) for top in tops}
    kinds = {kind for found in words.values() for kind in found}
    if len(kinds) > 1 and (all(words.values()) or all(len(parts) > 1 for parts in inner)):
        found = listed(top for top in tops if words[top])
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
            f"{root}: {listed(below)} all hold {listed(shared)}: put the splits above the classes, as in "
            f"{min(shared, key=lambda name: (split_of(name) is None, name))}/{min(below)}."
        )
    if len(shared) > 1 or all(names == shared for names in below.values()):
        raise InputError(
            f"{root}: {listed(below)} all hold the same folders ({listed(shared)}), so which are the classes cannot "
            "be known: give one of them, join them, or move each class's pictures into one folder."
        )


def _check_splits_below(root: str, inner: Iterable[Folders]) -> None:
    """Refuse folders of different splits below classes, even where not all classes hold them."""
    named = {split_of(folder): "/".join(parts) for parts in inner for folder in parts[1:]}
    named.pop(None, None)
    if len(named) > 1:
        found = listed(named.values())
        raise InputError(f"{root}: {found} name splits below classes: put the splits above the classes.")


def check_unknown_classes(root: str, places: Iterable[tuple[str, str]]) -> None:
    """Refuse classes that training does not know, and say where only their spelling differs."""
    classes: dict[str, set[str]] = defaultdict(set)
    for split, name in places:
        classes[split].add(name)
    known = classes.pop("train", set())
    spelling = {_folded(name): name for name in known}
    for split, names in classes.items():
        unknown = sorted(names - known)
        for name in unknown:
            if like := spelling.get(_folded(name)):
                raise InputError(f"{root}: the class {like!r} of train is {name!r} in {split}: use one spelling.")
        if unknown:
            raise InputError(
                f"{root}: classes {listed(unknown)} are in the {split} split but not in train: make them agree."
            )


def _folded(name: str) -> str:
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", name).casefold())


def number_labels(
    data: str, names: Sequence[str], found: Collection[str | int]
) -> tuple[Sequence[str], Mapping[str | int, int]]:
    """Return class names, the labels found as such where there are no names, and every label's number among them.

    Raises `InputError` for a label that has none of the names.
    """
    if not names:
        ordered = sorted(found, key=lambda label: (isinstance(label, str), label))
        return [str(label) for label in ordered], {label: number for number, label in enumerate(ordered)}
    for label in found:
        if not isinstance(label, int) or not 0 <= label < len(names):
            known = counted(len(names), "class", "classes")
            raise InputError(f"{data} has the label {label!r}, but names {known}: mend its labels or names.")
    return names, {label: label for label in found if isinstance(label, int)}


def look_alikes(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of names that differ only in Unicode's form, so that they look the same."""
    seen: dict[str, str] = {}
    for name in sorted(names):
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            yield other, name


def _stray(root: str, path: str, advice: str) -> InputError:
    return InputError(f"{root}: the picture {path} lies in no class folder: {advice}.")


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Return names sorted, as "a, b" or "a, b, c, d, e and 7 more"."""
    found = sorted(names)
    return ", ".join(found[:limit]) + (f" and {len(found) - limit} more" if len(found) > limit else "")


HIDDEN = "hidden"
_SYSTEM_NAMES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_TEXT_NAMES = frozenset({"authors", "changelog", "copying", "licence", "license", "makefile", "notice", "readme"})
_TEXT = ".txt .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .log .md .rst .html .htm .css .sql .names .data"
_CODE = ".py .ipynb .js .m .sh .bat"
_ARRAYS = ".mat .npy .npz .pkl .pickle .pt .pth .ckpt .onnx .safetensors .h5 .hdf5 .parquet .arrow .db .sqlite .dvc"
_ARCHIVES = ".zip .tar .gz .tgz .bz2 .xz .zst .7z .rar .md5 .sha1 .sha256 .torrent"
_DOCUMENTS = ".pdf .doc .docx .xls .xlsx .ppt .pptx .rtf .odt .lnk .url .webloc"
_FILMS = ".wav .mp3 .flac .ogg .mp4 .m4v .avi .mov .mkv .webm .mpg .mpeg .wmv"
_SUFFIXES = frozenset(" ".join((_TEXT, _CODE, _ARRAYS, _ARCHIVES, _DOCUMENTS, _FILMS)).split())


def is_visible(name: str) -> bool:
    """Return whether a file or folder is neither hidden nor one of macOS's resource forks."""
    return not name.startswith((".", "__MACOSX"))


def ignore_rule(name: str) -> str | None:
    """Return the rule by which a path (forward slashes) is ignored: `hidden`, `text` or a suffix; None for no rule."""
    parts = name.split("/")
    last = parts[-1].lower()
    if not all(map(is_visible, parts)) or last in _SYSTEM_NAMES:
        return HIDDEN
    suffix = splitext(last)[1]
    if suffix in _SUFFIXES:
        return suffix
    return "text" if last in _TEXT_NAMES else None


def is_text_name(name: str) -> bool:
    """Return whether a file is called as texts beside data are: `README.md`, `LICENSE`."""
    return name.partition(".")[0].lower() in _TEXT_NAMES


def check_fraction(fraction: float) -> None:
    """Raise `InputError` for a fraction that is not in [0, 1)."""
    if not 0 <= fraction < 1:
        raise InputError(f"--test-fraction is {fraction}: give a number from 0 (no test split) to below 1.")


def complete_splits(
    root: str, places: Sequence[tuple[str | None, str]], names: Sequence[str], fraction: float, seed: int
) -> tuple[list[str], tuple[str, ...]]:
    """Return the split of every image, given its named split (None for none), class and name, and notes for people.

    Without a test split val is it; without both, a fraction is held out as by `hold_out`, which see for errors.
    Raises `InputError` where no image is for training.
    """
    named = {split for split, _ in places}
    if not named & {"train", None}:
        raise _no_training(root, (split for split in named if split))
    if "test" in named:
        return [split or "train" for split, _ in places], ()
    if "val" in named:
        return ["test" if split == "val" else "train" for split, _ in places], ("val is the test split",)
    chosen = hold_out(root, [(label, name) for (_, label), name in zip(places, names, strict=True)], fraction, seed)
    note = f"{len(chosen)} of {counted(len(names), 'image is', 'images are')} held out for testing"
    return ["test" if name in chosen else "train" for name in names], (note,)


def hold_out(root: str, images: Sequence[tuple[str, str]], fraction: float, seed: int) -> set[str]:
    """Return the names of the held-out ones of images, given as (class, name).

    Every class gives the fraction of its images that is nearest while the whole keeps to it, those of the smallest
    SHA-256 of `SEED:NAME`, and keeps at least one; classes with one image give none, which the others make up for.
    Raises `InputError` where the fraction is not 0 and no class can give any.
    """
    if fraction == 0:
        return set()
    classes: dict[str, list[str]] = defaultdict(list)
    for label, name in images:
        classes[label].append(name)
    giving = {label: names for label, names in classes.items() if len(names) > 1}
    if not giving:
        raise InputError(
            f"{root}: every class has one image, so none can be held out for testing: add images or a folder test, "
            "or give --test-fraction 0."
        )
    share = fraction * len(images) / sum(map(len, giving.values()))
    held_out: set[str] = set()
    quota = taken = 0.0
    for label in sorted(giving, key=lambda label: _hash(seed, label)):
        names = sorted(giving[label], key=lambda name: _hash(seed, name))
        quota += share * len(names)
        count = min(max(round(quota - taken), 0), len(names) - 1)
        taken += count
        held_out.update(names[:count])
    return held_out or {min((name for names in giving.values() for name in names), key=lambda name: _hash(seed, name))}


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
