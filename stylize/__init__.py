"""Images to paired shards of originals and stylized copies."""

from stylize.engine import Engine
from stylize.errors import InputError
from stylize.estimate import Estimate, estimate_run
from stylize.fit_statistics import fit_styles
from stylize.job import Job, open_job
from stylize.manifest import Manifest, ShardEntry, read_manifest
from stylize.networks import Decoder, Encoder, Stylizer, adain, channel_statistics
from stylize.pair import Pair, load_encoder, load_pair
from stylize.preview import contact_sheet, shard_sheet, style_sheet
from stylize.run import make_shards
from stylize.shards import Sample, read_shard, write_shard
from stylize.sources import Source, open_source
from stylize.spec import ShardOptions, Spec
from stylize.styles import Style, load_styles
from stylize.verify import verify_shards
from stylize.weights import LoadedEncoder, default_decoder_file, embedded_encoder, load_decoder, save_decoder
from stylize.weights_exchange import export_weights, import_weights

__all__ = [
    "Decoder", "Encoder", "Engine", "Estimate", "InputError", "Job", "LoadedEncoder", "Manifest", "Pair",
    "Sample", "ShardEntry", "ShardOptions", "Source", "Spec", "Style", "Stylizer", "adain",
    "channel_statistics", "contact_sheet", "default_decoder_file", "embedded_encoder", "estimate_run",
    "export_weights", "fit_styles", "import_weights", "load_decoder", "load_encoder", "load_pair", "load_styles",
    "make_shards", "open_job", "open_source", "read_manifest", "read_shard", "save_decoder", "shard_sheet",
    "style_sheet", "verify_shards", "write_shard",
]  # fmt: skip
