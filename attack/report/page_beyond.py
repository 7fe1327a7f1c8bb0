"""Beyond adversarial attacks: shape bias against robustness, common corruptions, and explanations."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from attack.evaluation.config import epsilon_name
from attack.evaluation.statistics import Share, share
from attack.report.groups import Group
from attack.report.html import name_entry, quiet, section, table
from attack.report.measurements import Measurement, measurement_of


def shape_bias(groups: Sequence[Group], measurements: Sequence[Measurement]) -> str:
    """Return shape bias beside robust accuracy, where `attack shape-bias` measured it."""
    note = quiet(
        "On images with the shape of one class and the texture of another: shape bias is the share of shape decisions "
        "among shape and texture decisions (Geirhos et al. 2019). A ratio hides how often a model errs, so both cue "
        "accuracies stand beside it."
    )
    tables = [_shape_table(group, measurements) for group in groups]
    return section("Shape bias against robustness", note if any(tables) else "", *tables, anchor="shape")


def _shape_table(group: Group, measurements: Sequence[Measurement]) -> str:
    rows = []
    for entry in group.entries:
        found = measurement_of(measurements, "shape-bias", entry)
        if found is not None:
            robust = [str(share(entry.robust(epsilon))) for epsilon in group.epsilons]
            cells = [_share(found[name]) for name in ("shape_bias", "shape_accuracy", "texture_accuracy")]
            plain = found["texture_free"]
            rows.append([name_entry(entry), *cells, _share(plain["accuracy"]) if plain else "–", *robust])
    radii = (f"robust at L∞ {epsilon_name(epsilon)}" for epsilon in group.epsilons)
    header = ["model", "shape bias", "right by shape", "right by texture", "without texture", *radii]
    return f"<h3>{escape(group.title)}</h3>{table(header, rows)}" if rows else ""


def corruptions(groups: Sequence[Group], measurements: Sequence[Measurement]) -> str:
    """Return errors on corrupted images, where `attack corruptions` measured them."""
    tables = [_corruption_table(group, measurements) for group in groups]
    note = quiet(
        "Share of images that a model gets wrong, by kind of corruption; the mean is over kinds and severities."
    )
    return section("Common corruptions", note if any(tables) else "", *tables, anchor="corruptions")


def _corruption_table(group: Group, measurements: Sequence[Measurement]) -> str:
    found = {entry.label: measurement_of(measurements, "corruptions", entry) for entry in group.entries}
    known = {label: document for label, document in found.items() if document is not None}
    if not known:
        return ""
    kinds = list(dict.fromkeys(record["corruption"] for document in known.values() for record in document["records"]))
    rows = []
    for entry in (entry for entry in group.entries if entry.label in known):
        document = known[entry.label]
        clean = _share(document["clean_error"]) if document["clean_error"] else "–"
        mean = f"{100 * document['mean_corruption_error']['mean']:.1f} %"
        cells = (_kind_error(document, kind) for kind in kinds)
        rows.append([name_entry(entry), escape(document["corruptions_from"]), clean, mean, *cells])
    header = ["model", "images", "clean", "mean", *map(escape, kinds)]
    return f"<h3>{escape(group.title)}</h3>{table(header, rows)}"


def _kind_error(document: Mapping[str, Any], kind: str) -> str:
    """Return a corruption's error, averaged over its severities."""
    errors = [record["error"]["share"] for record in document["records"] if record["corruption"] == kind]
    return f"{100 * sum(errors) / len(errors):.1f} %" if errors else "–"


def explanations(picture: bytes | None) -> str:
    """Return Figure 6: the picture of `attack explain`, where one is given."""
    if picture is None:
        return ""
    source = "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
    note = quiet(
        "Superpixels that speak most for the true class (LIME, Ribeiro et al. 2016), on images that all get right."
    )
    return section("Figure 6: what models go by", note, f'<img class="wide" alt="LIME explanations" src="{source}">')


def _share(found: Mapping[str, Any]) -> str:
    """Return a share as it stands in a file of measurements."""
    if found["share"] is None:
        return "–"
    return str(Share(found["share"], found["low"], found["high"], found["n"]))
