"""Which files are no pictures by rule: hidden ones, what systems leave in folders, and known other formats."""

from posixpath import splitext

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


def rule_that_leaves_out(name: str) -> str | None:
    """Return the rule by which a path (forward slashes) is no picture: `hidden` or a suffix; None for any other."""
    parts = name.split("/")
    last = parts[-1].lower()
    if not all(map(is_visible, parts)) or last in _SYSTEM_NAMES:
        return HIDDEN
    suffix = splitext(last)[1]
    if suffix in _SUFFIXES:
        return suffix
    return "text" if last in _TEXT_NAMES else None
