"""The public API of `attack`; `__init__.py` imports each name from here when it is first used."""

from .attacks.fgsm import AttackPath as AttackPath
from .attacks.fgsm import fgsm_path as fgsm_path
from .attacks.fgsm import join_paths as join_paths
from .checks.check import Check as Check
from .checks.sanity import check_model as check_model
from .checks.sanity import check_path as check_path
from .evaluation.candidates import Candidates as Candidates
from .evaluation.candidates import candidate_order as candidate_order
from .evaluation.candidates import choose_candidates as choose_candidates
from .evaluation.interpolation import INTERPOLATORS as INTERPOLATORS
from .evaluation.interpolation import Curve as Curve
from .evaluation.interpolation import all_curves as all_curves
from .evaluation.interpolation import authors_curve as authors_curve
from .evaluation.interpolation import interpolate_records as interpolate_records
from .evaluation.interpolation import linear_curve as linear_curve
from .evaluation.models import OpenedModel as OpenedModel
from .evaluation.models import open_model as open_model
from .evaluation.results import Records as Records
from .evaluation.results import Result as Result
from .evaluation.results import read_result as read_result
from .evaluation.run import attack_model as attack_model
from .report.build import write_report as write_report
