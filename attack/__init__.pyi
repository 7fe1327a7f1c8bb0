"""The public API of `attack`; `__init__.py` imports each name from here when it is first used."""

from .attacks import Attacked as Attacked
from .attacks.autoattack import apgd as apgd
from .attacks.autoattack import autoattack as autoattack
from .attacks.autoattack import square as square
from .attacks.minimal_norm import minimal_norm as minimal_norm
from .attacks.paper_path import AttackPath as AttackPath
from .attacks.paper_path import fgsm_path as fgsm_path
from .attacks.paper_path import join_paths as join_paths
from .attacks.pgd import pgd as pgd
from .attacks.pgd import single_step as single_step
from .attacks.pgd import targeted as targeted
from .attacks.pgd import unbounded as unbounded
from .attacks.pgd import uniform_noise as uniform_noise
from .checks import Check as Check
from .checks.attacks import check_path as check_path
from .checks.model import check_model as check_model
from .checks.robustness import worst_case as worst_case
from .evaluation import AttackConfig as AttackConfig
from .evaluation import TransferConfig as TransferConfig
from .evaluation.paper_path import INTERPOLATORS as INTERPOLATORS
from .evaluation.paper_path import Curve as Curve
from .evaluation.paper_path import Records as Records
from .evaluation.paper_path import authors_curve as authors_curve
from .evaluation.paper_path import interpolate_records as interpolate_records
from .evaluation.paper_path import linear_curve as linear_curve
from .evaluation.result import Result as Result
from .evaluation.result import read_result as read_result
from .evaluation.run import attack_model as attack_model
from .evaluation.statistics import Difference as Difference
from .evaluation.statistics import Share as Share
from .evaluation.statistics import compare as compare
from .evaluation.statistics import share as share
from .evaluation.target import ImageSet as ImageSet
from .evaluation.target import Target as Target
from .evaluation.target import choose_images as choose_images
from .evaluation.target import image_order as image_order
from .evaluation.target import load_image_set as load_image_set
from .evaluation.target import open_model as open_model
from .evaluation.transfer import attack_transfer as attack_transfer
from .report.build import export_results as export_results
from .report.build import write_report as write_report

__version__: str
