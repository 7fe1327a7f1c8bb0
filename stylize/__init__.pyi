"""The public API of `stylize`; `__init__.py` imports each name from here when it is first used."""

from .cli.sheet import contact_sheet as contact_sheet
from .cli.sheet import shard_sheet as shard_sheet
from .cli.sheet import style_sheet as style_sheet
from .console import InputError as InputError
from .fitting.styles import fit_styles as fit_styles
from .jobs.estimate import Estimate as Estimate
from .jobs.estimate import estimate_run as estimate_run
from .jobs.job import Job as Job
from .jobs.job import open_job as open_job
from .jobs.run import make_shards as make_shards
from .jobs.spec import ShardOptions as ShardOptions
from .jobs.spec import Spec as Spec
from .networks.adain import AdaINNetwork as AdaINNetwork
from .networks.adain import Decoder as Decoder
from .networks.adain import Encoder as Encoder
from .networks.adain import adain as adain
from .networks.adain import channel_statistics as channel_statistics
from .networks.styles import Style as Style
from .networks.styles import load_styles as load_styles
from .networks.stylizer import Stylizer as Stylizer
from .networks.weights import LoadedEncoder as LoadedEncoder
from .networks.weights import Pair as Pair
from .networks.weights import default_decoder_file as default_decoder_file
from .networks.weights import embedded_encoder as embedded_encoder
from .networks.weights import export_weights as export_weights
from .networks.weights import import_weights as import_weights
from .networks.weights import load_decoder as load_decoder
from .networks.weights import load_encoder as load_encoder
from .networks.weights import load_pair as load_pair
from .networks.weights import save_decoder as save_decoder
from .shards import Sample as Sample
from .shards import read_shard as read_shard
from .shards import write_shard as write_shard
from .shards.manifest import Manifest as Manifest
from .shards.manifest import ShardEntry as ShardEntry
from .shards.manifest import read_manifest as read_manifest
from .shards.verify import verify_shards as verify_shards
from .sources import Source as Source
from .sources.opening import open_source as open_source

__version__: str
