"""What a run works with: the job, opened from its options, and the receipt of a finished shard."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stylize.engine.engine import Engine
from stylize.engine.selftest import golden_style, self_test
from stylize.engine.styles import load_styles
from stylize.engine.transfer import COLOURS
from stylize.errors import InputError
from stylize.networks.pair import load_pair
from stylize.runs.codec import Codec
from stylize.runs.spec import ShardOptions, Spec, make_spec
from stylize.shards.manifest import Flag, ShardEntry
from stylize.sources.source import Source, open_source

Report = Callable[[int], None]


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, and why."""

    split: str
    path: str
    reason: str


@dataclass(frozen=True)
class Receipt:
    """What is known of a finished shard; written after it, so that its presence means the shard is whole."""

    shard: ShardEntry
    failures: tuple[Failure, ...]
    flags: tuple[Flag, ...]
    sources: Mapping[str, str]  # every sample's key and the SHA-256 of its source
    source_fingerprint: str  # of the source that the shard was made from, or was found to agree with


@dataclass(frozen=True)
class Job:
    """Everything that making a shard needs."""

    spec: Spec
    source: Source
    engine: Engine

    @property
    def codec(self) -> Codec:
        """Return how images are stored."""
        return Codec(self.spec.codec, self.spec.quality)


def open_job(options: ShardOptions) -> Job:
    """Load source, styles and networks; raise `InputError` for anything that does not exist or does not fit."""
    pair = load_pair(options.encoder, options.decoder)
    source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
    styles = load_styles(options.style, pair.decoder_sha256, options.style_size)
    if options.transfer == COLOURS and (names := [style.name for style in styles if style.fitted]):
        raise InputError(f"--transfer {COLOURS} does not use fitted statistics: give the picture of {names[0]}.")
    networks = pair.encoder.network, pair.decoder
    engine = Engine(*networks, [*styles, golden_style()], options.dtype, options.backend)
    self_test(engine, shipped=options.decoder is None)
    hashes = (pair.encoder.sha256, pair.decoder_sha256)
    return Job(make_spec(options, source, styles, hashes, engine), source, engine)
