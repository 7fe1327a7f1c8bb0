"""Classifiers to robustness curves, figures and a report."""

from attack.candidates import Candidates, candidate_order, choose_candidates
from attack.checks import Check, check_model, check_path
from attack.fgsm import AttackPath, fgsm_path, join_paths
from attack.interpolation import INTERPOLATORS, Curve, all_curves, authors_curve, interpolate_records, linear_curve
from attack.report import write_report
from attack.results import Records, Result, read_result
from attack.run import attack_model

__all__ = [
    "INTERPOLATORS",
    "AttackPath",
    "Candidates",
    "Check",
    "Curve",
    "Records",
    "Result",
    "all_curves",
    "attack_model",
    "authors_curve",
    "candidate_order",
    "check_model",
    "check_path",
    "choose_candidates",
    "fgsm_path",
    "interpolate_records",
    "join_paths",
    "linear_curve",
    "read_result",
    "write_report",
]
