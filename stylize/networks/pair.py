"""Choose the networks: the embedded pair, or an encoder and the decoder that was made for it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from stylize.errors import InputError
from stylize.networks.adain import Decoder
from stylize.networks.embedded import (
    LoadedEncoder,
    default_decoder_file,
    embedded_encoder,
    encoder_bytes,
    load_decoder,
    load_encoder_file,
)
from stylize.networks.torchvision_encoder import TORCHVISION, encoder_from_torchvision, torchvision_file
from stylize.shards.format import file_sha256
from stylize.weights_files import read_weights


@dataclass(frozen=True)
class Pair:
    """An encoder and a decoder that belong together, and the SHA-256 of the decoder's file."""

    encoder: LoadedEncoder
    decoder: Decoder
    decoder_sha256: str


def load_pair(encoder: str | None = None, decoder: Path | None = None) -> Pair:
    """Load an encoder (see `load_encoder`) and a decoder file, the shipped ones where none is given.

    Raises `InputError` where a file is missing, damaged, or the decoder belongs to another encoder.
    """
    if encoder is not None and decoder is None:
        raise InputError(
            f"The shipped decoder does not belong to --encoder {encoder}: give its own with --decoder, or train one "
            f"with `stylize fit-decoder --encoder {encoder}`."
        )
    loaded, file = load_encoder(encoder), decoder or default_decoder_file()
    return Pair(loaded, load_decoder(file, loaded.sha256), file_sha256(file))


def load_encoder(name: str | None = None) -> LoadedEncoder:
    """Load the embedded encoder (None), torchvision's VGG-19 by its name, or a file of `stylize weights import`."""
    if name is None:
        return embedded_encoder()
    if name != TORCHVISION:
        return load_encoder_file(Path(name))
    file = torchvision_file()
    encoder = encoder_from_torchvision(read_weights(file), file)
    return LoadedEncoder(encoder, hashlib.sha256(encoder_bytes(encoder)).hexdigest())
