"""`stylize rederive`: compute one pair again from its original, to see whether a folder is what its manifest says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stylize.engine.calibration import calibration_sha256
from stylize.engine.engine import Engine, Pixels
from stylize.engine.selftest import golden_style
from stylize.engine.styles import load_styles
from stylize.engine.transfer import FEATURES
from stylize.errors import InputError
from stylize.networks.pair import load_pair
from stylize.runs.codec import Codec
from stylize.shards.diff import locate, read_located
from stylize.shards.manifest import Manifest, read_manifest
from stylize.sources.pictures import decode_picture


@dataclass(frozen=True)
class CopyDifference:
    """How far a copy that was computed again is from the stored one, in grey levels of 255."""

    style: str
    largest: int
    mean: float


def rederive_pair(
    directory: Path, key: str, styles: Sequence[str] = (), encoder: str | None = None, decoder: Path | None = None
) -> list[CopyDifference]:
    """Stylize a training sample's original again and return each copy's difference from the stored one.

    `styles` are the pictures that the manifest names, where they are not built in.
    Raises `InputError` where there is no such sample, the folder was not made by `stylize shards`, or networks or
    styles are other than the manifest's.
    """
    manifest = read_manifest(directory)
    location = locate(directory, manifest, "train").get(key)
    if location is None:
        raise InputError(f"{directory} has no training sample {key}: give a key as in its shards, of eight digits.")
    engine = _engine(directory, manifest, styles, encoder, decoder)
    spec, sample = manifest.spec, read_located(location)
    names = [str(name) for name in sample.metadata.get("styles", ())]
    choice = [manifest.style_names.index(name) for name in names]
    content = np.asarray(decode_picture(sample.content))
    contents, transfer = np.stack([content] * len(choice)), spec.get("transfer", FEATURES)
    made = engine.stylize(contents, choice, spec["alpha"], spec["work_size"], transfer)
    codec = Codec(spec["codec"], spec["quality"])
    again = [np.asarray(decode_picture(codec.encode(pixels))) for pixels in made]
    stored = [np.asarray(decode_picture(copy)) for copy in sample.styled]
    return [_difference(*pair) for pair in zip(names, stored, again, strict=True)]


def _engine(
    directory: Path, manifest: Manifest, styles: Sequence[str], encoder: str | None, decoder: Path | None
) -> Engine:
    spec = manifest.spec
    if spec.get("kind") or "decoder_sha256" not in spec or spec["alpha"] is None:
        raise InputError(f"{directory} was not made by `stylize shards`: nothing says how to make its copies again.")
    pair = load_pair(encoder, decoder)
    loaded = load_styles(styles or manifest.style_names, pair.decoder_sha256, spec.get("style_size"))
    checked = {
        "encoder": (pair.encoder.sha256, spec["encoder_sha256"]),
        "decoder": (pair.decoder_sha256, spec["decoder_sha256"]),
        "style": ([style.sha256 for style in loaded], [style["sha256"] for style in spec["styles"]]),
    }
    for name, (found, recorded) in checked.items():
        if found != recorded:
            raise InputError(f"{directory} was made with another {name} than this: give its own with --{name}.")
    if spec.get("calibration_sha256") not in (None, calibration_sha256()):
        raise InputError(f"{directory} was made with another calibration of int8: use the version that made it.")
    # The self-test's style belongs to what int8 is calibrated with when a job opens.
    return Engine(pair.encoder.network, pair.decoder, [*loaded, golden_style()], spec["dtype"], spec["backend"])


def _difference(style: str, stored: Pixels, again: Pixels) -> CopyDifference:
    apart = np.abs(stored.astype(np.int16) - again)
    return CopyDifference(style, int(apart.max()), float(apart.mean()))
