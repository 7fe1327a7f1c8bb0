"""The report's page."""

import base64
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from attack.attacks.attack import AttackResult, epsilon_name
from attack.evaluation.paper_path import INTERPOLATORS, LINEAR_POINTS, accuracy_at, mean_accuracy, path_values
from attack.evaluation.result import Result, whole_split
from attack.evaluation.statistics import Difference, Share, compare, share
from attack.report.figures import METHOD_STYLES, Example, Panel, inline_svg, panel_figure
from attack.report.groups import NEAR_CHANCE, Entry, Group, Measurement, measurement_of


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of ready HTML cells whose first column names the row.

    Every cell carries its column's name, which the page shows beside it where it is too narrow for columns.
    """
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(_row(header, row) for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(header: Sequence[str], row: Sequence[str]) -> str:
    first, *rest = row
    cells = (f'<td data-label="{name}">{cell}</td>' for name, cell in zip(header[1:], rest, strict=True))
    return f"<tr><th>{first}</th>{''.join(cells)}</tr>"


def section(title: str, *parts: str, anchor: str = "") -> str:
    """Return a headed section, or nothing where all its parts are empty."""
    content = "".join(parts)
    name = f' id="{anchor}"' if anchor else ""
    return f"<h2{name}>{escape(title)}</h2>{content}" if content else ""


def folded(summary: str, content: str, *, opened: bool = False) -> str:
    """Return content that shows when its summary (HTML) is chosen."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary>{content}</details>"


def quiet(text: str) -> str:
    """Return a paragraph (HTML) of small print."""
    return f'<p class="quiet">{text}</p>'


def name_entry(entry: Entry) -> str:
    """Return the entry's label with a dot in its method's colour."""
    method = entry.result.method if entry.result.method in METHOD_STYLES else "other"
    return f'<span class="key" style="background:var(--{method})"></span><strong>{escape(entry.label)}</strong>'


def passed_or_failed(passed: bool) -> str:
    """Return one coloured word."""
    return '<span class="pass">pass</span>' if passed else '<span class="fail">FAIL</span>'


def attacks(groups: Sequence[Group]) -> str:
    """Return each model's attacks, folded."""
    note = quiet(
        "Each row is one attack alone, on the images it looked at; images that the model gets wrong as they are count "
        "as errors. AutoAttack meets only what withstood all before it. A minimal-norm attack looks for the nearest "
        "error: half of the images have one nearer than the median."
    )
    tables = [_attack_table(group, entry) for group in groups for entry in group.entries if entry.result.attacks]
    return section("Every attack", note, *tables, anchor="attacks")


def _attack_table(group: Group, entry: Entry) -> str:
    header = ["attack", "kind", "radius", "still right", "images", "passes forward / back", "seconds"]
    rows = [_attack_row(attack) for attack in entry.result.attacks if attack.kind != "transfer"]
    return folded(f"{name_entry(entry)}, {escape(group.title)}", table(header, rows))


def _attack_row(attack: AttackResult) -> list[str]:
    looked_at = int(attack.settings.get("images", len(attack.robust)))
    if attack.epsilon is None:
        norm = {"l2": "L2", "linf": "L∞"}[attack.norm]
        radius, found = f"smallest {norm}", _median(attack, looked_at)
    else:
        radius, found = epsilon_name(attack.epsilon), str(share(attack.robust[:looked_at]))
    passes = f"{attack.forwards:,} / {attack.backwards:,}"
    return [escape(attack.name), attack.kind, radius, found, str(looked_at), passes, f"{attack.seconds:.1f}"]


def _median(attack: AttackResult, looked_at: int) -> str:
    middle = float(np.median(attack.distance[:looked_at]))
    size = f"{255 * middle:.2f}/255" if attack.norm == "linf" else f"{middle:.3f}"
    return f"median {size}" if np.isfinite(middle) else "found none for half of the images"


def checks(groups: Sequence[Group]) -> str:
    """Return each model's checks, folded; open where one failed."""
    return section("Checks", *(_checks(group, entry) for group in groups for entry in group.entries), anchor="checks")


def _checks(group: Group, entry: Entry) -> str:
    found = sorted(entry.result.checks, key=lambda check: check.passed)
    failed = sum(not check.passed for check in found)
    word = f'<span class="fail">{failed} failed</span>' if failed else f'<span class="pass">{len(found)} passed</span>'
    rows = [
        [escape(check.name), passed_or_failed(check.passed), escape(check.detail), escape(check.meaning)]
        for check in found
    ]
    title = f"{name_entry(entry)}, {escape(group.title)}: {word}"
    return folded(title, table(["check", "result", "numbers", "what a failure would mean"], rows), opened=bool(failed))


def transfers(groups: Sequence[Group]) -> str:
    """Return who withstood whose adversarial images, where `attack transfer` was run."""
    note = quiet(
        "Rows: the model that was attacked by PGD. Columns: the model that saw the images; the share of all "
        "images that it classifies correctly then. A model that falls to others’ images but not to its own hides its "
        "gradients."
    )
    tables = [_transfer_table(group, epsilon) for group in groups for epsilon in group.epsilons]
    return section("Transfer between models", note if any(tables) else "", *tables, anchor="transfer")


def _transfer_table(group: Group, epsilon: float) -> str:
    found = {entry.label: _transferred(entry, epsilon) for entry in group.entries}
    sources = list(dict.fromkeys(name for rows in found.values() for name in rows))
    if not sources:
        return ""
    rows = [[escape(name), *(_transfer_cell(found, entry, name) for entry in group.entries)] for name in sources]
    header = ["attacked", *(escape(entry.label) for entry in group.entries)]
    return f"<h3>{escape(group.title)}, L∞ {epsilon_name(epsilon)}</h3>{table(header, rows)}"


def _transfer_cell(found: Mapping[str, Mapping[str, str]], entry: Entry, source: str) -> str:
    """Return what a model withstood of a source: nothing is known of itself, or where it took no part."""
    return found[entry.label].get(source, "its own" if found[entry.label] else "–")


def _transferred(entry: Entry, epsilon: float) -> dict[str, str]:
    return {
        attack.name.removeprefix("transfer:"): f"{100 * np.mean(attack.robust):.1f} %"
        for attack in entry.result.attacks
        if attack.kind == "transfer" and attack.epsilon == epsilon
    }


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


# Guan et al. (2022), Tables 1 and 2, in percent: stylized pairing, normal.
PAPER_CLEAN = {
    "CIFAR-10": {"googlenet": (94.05, 95.01), "mobilenet": (92.00, 93.29), "resnet34": (94.92, 95.59)},
    "CIFAR-100": {"googlenet": (78.72, 78.25), "mobilenet": (75.44, 74.80), "resnet34": (78.65, 80.14)},
    "ImageNet": {"googlenet": (77.74, 79.12), "mobilenet": (73.24, 74.80), "resnet34": (77.54, 79.00)},
}
PAIRS = {3: ("normal", "pairing"), 4: ("pairing", "adversarial"), 5: ("stylized", "pairing")}
QUESTIONS = {
    3: "pairing against normal training",
    4: "pairing against adversarial training",
    5: "with and without the pairing loss",
}
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the path's length


def figures(groups: Sequence[Group]) -> str:
    """Return the curves of the paper's path: all models, then Figures 3 to 5 and 7 where their models are there."""
    drawn = [_group(number, group) for number, group in enumerate(groups) if group.ranked]
    note = quiet(
        "The conditional curve, as in the paper: only images that every model shown of a group classifies correctly, "
        "so that all start at 100 %. Each image’s record of right and wrong is interpolated linearly against its "
        "distance. Shaded: 95 % intervals over images. A line ends where no more than half of its images reach. The "
        "paper prints no numbers for its figures. <code>curves.csv</code> holds every point."
    )
    return section("The paper’s attack: Figures 3 to 5 and 7", note if drawn else "", *drawn, anchor="path")


def _group(number: int, group: Group) -> str:
    if not group.common:
        return f"<h3>{escape(group.title)}</h3>" + quiet("No image is classified correctly by all models.")
    everyone = _panels(group, group.ranked, f"g{number}")
    pieces = [
        f"<h3>{escape(group.title)}, {len(group.common)} common images</h3>{everyone}",
        *_pairs(number, group),
        folded(
            "All images that were looked at, clean errors counted",
            _panels(group, group.ranked, f"c{number}", common=False),
        ),
        folded("The authors’ interpolator", _panels(group, group.ranked, f"a{number}", interpolator="authors")),
        _distances(group),
    ]
    return "".join(pieces)


def _pairs(number: int, group: Group) -> Iterator[str]:
    """Yield Figures 3, 4, 5 and 7: what they compare, on the same common images."""
    methods = {entry.result.method for entry in group.ranked}
    for figure, pair in PAIRS.items():
        if set(pair) <= methods and len(group.ranked) > 2:
            shown = [entry for entry in group.ranked if entry.result.method in pair]
            yield folded(f"Figure {figure}: {QUESTIONS[figure]}", _panels(group, shown, f"f{figure}-{number}"))
    styles = [entry for entry in group.ranked if entry.result.method == "pairing"]
    if len({entry.result.trained_on for entry in styles}) > 1:
        yield folded("Figure 7: style sets compared, pairing", _panels(group, styles, f"f7-{number}"), opened=True)


def _panels(
    group: Group, entries: Sequence[Entry], name: str, *, common: bool = True, interpolator: str = "linear"
) -> str:
    panels = []
    for norm in ("l2", "linf"):
        panel = Panel(group, tuple(entries), norm, interpolator, common)
        text = escape(f"Accuracy against {norm} distance, {group.title}, {interpolator}")
        panels.append(inline_svg(panel_figure([panel]), f"{name}-{norm}", text))
    return f'<div class="panels">{"".join(panels)}</div>'


def _distances(group: Group) -> str:
    """Return the accuracy on the common images at fifths of the path's length."""
    distances = [part * group.largest_linf for part in SHARES]
    header = ["model", *(f"{255 * linf:.2f}/255" for linf in distances), "mean over the range"]
    rows = []
    for entry in group.ranked:
        records = entry.records(group.common)
        shares = [*(accuracy_at(records, linf) for linf in distances), mean_accuracy(records, group.largest_linf)]
        rows.append([name_entry(entry), *map(str, shares)])
    return folded("In numbers, L∞", table(header, rows))


def clean_tables(groups: Sequence[Group]) -> str:
    """Return Tables 1 and 2: clean accuracy of pairing and normal training, ours and the paper's where it has any."""
    shown = [(group.arch, entry) for group in groups for entry in group.entries]
    printed = {name: [_printed(numbers, arch, entry) for arch, entry in shown] for name, numbers in PAPER_CLEAN.items()}
    known = {name: column for name, column in printed.items() if any(column)}
    header = ["model", "ours, whole test split", *(f"paper, {name}" for name in known)]
    rows = [
        [
            f"{name_entry(entry)} {escape(arch)}",
            str(whole_split(entry.result)),
            *(column[row] or "–" for column in known.values()),
        ]
        for row, (arch, entry) in enumerate(shown)
    ]
    note = "The paper’s models are fine-tuned from ImageNet weights at 224 px; it chose epochs on the test images."
    return section("Clean accuracy: Tables 1 and 2", table(header, rows), quiet(note) if known else "", anchor="clean")


def _printed(numbers: Mapping[str, tuple[float, float]], arch: str, entry: Entry) -> str:
    """Return the paper's number for a model, nothing where it has none."""
    pair = numbers.get("mobilenet" if arch.startswith("mobilenet") else arch)
    column = {"pairing": 0, "normal": 1}.get(entry.result.method)
    return "" if pair is None or column is None else f"{pair[column]:.2f} %"


def examples(name: str, pairs: Sequence[Example]) -> str:
    """Return Figure 2 for one shard folder: originals beside their stylized copies."""
    cells = "".join(
        f'<figure><div class="pair"><img alt="original" src="{pair.original}">'
        f'<img alt="stylized" src="{pair.styled}"></div>'
        f"<figcaption>{escape(pair.class_name)}</figcaption></figure>"
        for pair in pairs
    )
    return section(f"Figure 2: stylized pairs, {name}", f'<div class="examples">{cells}</div>')


PAPER_PATH = {"steps": 100, "step_size": 1e-4}
PAPER_IMAGES = 100


def protocol(groups: Sequence[Group]) -> str:
    """Describe what all results share, and what each model met."""
    first = groups[0].entries[0].result
    asked, path = first.document["protocol"], first.document["path"]
    rules = "".join(f"<li><em>{escape(name)}</em>: {escape(text)}.</li>" for name, text in INTERPOLATORS.items())
    radii = ", ".join(map(epsilon_name, first.epsilons))
    text = (
        f"<p>Suite <em>{escape(asked['suite'])}</em> on {len(first.keys)} test images, the first in the order of "
        f"SHA-256 of (seed {asked['seed']}, key): the same for every model, whether it is right on them or not. "
        f"Attacks within L∞ radii of {radii}. AutoAttack, Square and the minimal-norm attacks, where they ran, looked "
        f"at the first {min(asked['strong_images'], len(first.keys))}.</p>"
        f"<p>The path: {path['steps']} steps of {path['step_size']:g} along the sign of the gradient of the "
        "cross-entropy of the true label, clipped to [0, 1] after each; correctness and distances are recorded after "
        "every step. "
        f"Elements with zero gradient: {escape(path['zero_gradient'])}. It starts at the images that a model gets "
        f"right of the first {path['images']}.</p><ul>{rules}</ul>"
        f"<p>Images were attacked {asked['batch_size']} at a time; another number changes distances by float rounding, "
        "and through it single images.</p>"
    )
    followed = [[name_entry(entry), paper_words(entry.result)] for group in groups for entry in group.entries]
    return section("Protocol as really run", text, table(["model", "its path"], followed))


def paper_words(result: Result) -> str:
    """Call the path the paper's protocol only where it is: 100 images, 100 steps of 1e-4."""
    path = result.document["path"]
    count = len(path["records"])
    text = f"{count} images × {path['steps']} steps × {path['step_size']:g}"
    if any(path[name] != number for name, number in PAPER_PATH.items()) or count < PAPER_IMAGES:
        return f"{text}; the paper has 100 × 100 × 0.0001"
    more = "" if count == PAPER_IMAGES else f" on {count - PAPER_IMAGES} more images"
    return f"{text}: the paper’s protocol{more}"


def provenance(groups: Sequence[Group]) -> str:
    """Return files, hashes, versions, hardware and command of each result, folded."""
    return section("How this was made", *(_provenance(group, entry) for group in groups for entry in group.entries))


def _provenance(group: Group, entry: Entry) -> str:
    document = entry.result.document
    model, shards, hardware = document["model"], document["shards"], document["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    origin = "the model was trained on them" if shards["used_in_training"] else "the model was trained on other shards"
    rows = [
        ["model", f"<code>{escape(model['path'])}</code>, sha256 {_digest(model['sha256'])}"],
        ["training", f"{escape(entry.result.method)}, seed {model['card']['seed']}, {model['card']['image_size']} px"],
        ["shards", f"<code>{escape(shards['path'])}</code>, manifest {_digest(shards['manifest_sha256'])}; {origin}"],
        ["hardware", escape(f"{hardware['cpu']}, {hardware['threads']} threads, on {hardware['device']}")],
        ["versions", escape(versions)],
        ["passes", f"{document['forwards']:,} forward, {document['backwards']:,} backward, in images"],
        ["time", f"{document['seconds']:.0f} s"],
    ]
    content = table(["", ""], rows) + f"<pre><code>{escape(_command(entry.result))}</code></pre>"
    return folded(f"{name_entry(entry)}, {escape(group.title)}", content)


def _command(result: Result) -> str:
    """Return the command line that makes a result again."""
    asked, path, model = result.document["protocol"], result.document["path"], result.document["model"]
    words = ["attack", "run", "--model", model["path"], "--shards", result.document["shards"]["path"]]
    words += ["--out", result.path.name]
    for epsilon in result.epsilons:
        words += ["--epsilon", epsilon_name(epsilon)]
    options = {name: asked[name] for name in ("suite", "images", "strong_images", "batch_size", "seed")}
    for name, value in {**options, **{name: path[name] for name in ("steps", "step_size", "zero_gradient")}}.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _digest(sha256: str) -> str:
    return f"<code>{escape(sha256[:16])}…</code>"


WORD_CLASSES = {"holds": "pass", "not robust": "fail", "masking suspected": "fail"}
MEANINGS = {
    "holds": "no attack of the suite went much further than the others, and all checks that matter passed",
    "not robust": "an attack leaves next to nothing; a weak attack that leaves more is no defence",
    "masking suspected": "signs that the model hides its weakness from these attacks: the numbers are too high",
    "inconclusive": "the numbers are not enough, or not reliable enough, for a verdict",
    NEAR_CHANCE: "the model hardly beats guessing, so its robustness means nothing and is not compared",
}


def verdicts(groups: Sequence[Group]) -> str:
    """Return the first section: one table of verdicts a group, its reasons and its comparisons."""
    words = {entry.result.verdict.word for group in groups for entry in group.entries}
    meanings = "; ".join(f"<strong>{escape(word)}</strong>: {MEANINGS[word]}" for word in MEANINGS if word in words)
    note = (
        "Robust accuracy counts an image only where the model classifies it correctly as it is and where no attack of "
        "the suite found an error within the radius. In brackets: 95 % intervals over images (Wilson). "
        f"{meanings}."
    )
    return section("Verdicts", quiet(note), *(_verdict_group(group) for group in groups), anchor="verdicts")


def _verdict_group(group: Group) -> str:
    header = ["model", "verdict", "clean, whole test split", *(_robust_header(group, one) for one in group.epsilons)]
    entries = sorted(group.entries, key=lambda entry: (entry.near_chance, -_rank(group, entry)))
    rows = [_verdict_row(group, entry) for entry in entries]
    reasons = folded("Why", "".join(_reasons(entry) for entry in entries))
    return f"<h3>{escape(group.title)}</h3>{table(header, rows)}{reasons}{comparisons(group)}"


def _robust_header(group: Group, epsilon: float) -> str:
    return f"robust at L∞ {epsilon_name(epsilon)}, n = {len(group.entries[0].result.keys)}"


def _rank(group: Group, entry: Entry) -> float:
    """Sort by robust accuracy, in which clean errors count, at all radii together; by clean accuracy where none is."""
    return sum(float(entry.robust(epsilon).mean()) for epsilon in group.epsilons) or whole_split(entry.result).mean


def _verdict_row(group: Group, entry: Entry) -> list[str]:
    word = entry.result.verdict.word
    verdict = f'<span class="{WORD_CLASSES.get(word, "unsure")}">{escape(word)}</span>'
    clean = whole_split(entry.result)
    shares = (str(share(entry.robust(epsilon))) for epsilon in group.epsilons)
    return [name_entry(entry), verdict, f"{clean}, n = {clean.n}", *shares]


def _reasons(entry: Entry) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in entry.result.verdict.reasons)
    return f"<p>{name_entry(entry)}: {escape(entry.result.verdict.word)}</p><ul>{reasons}</ul>"


def comparisons(group: Group) -> str:
    """Return the paired differences of all methods, by radius and along the paper's path; nothing for one method."""
    rows = [[*cells] for name, gaps in _compared(group) for cells in (_difference(name, gap) for gap in gaps)]
    if not rows:
        return ""
    seeds = max(len(values) for values in group.by_recipe([np.zeros(1)] * len(group.ranked)).values())
    over = (
        "images and training seeds" if seeds > 1 else "images; one training seed each, so other seeds may differ more"
    )
    note = quiet(
        "Differences on the same images, in points, with 95 % bootstrap intervals over "
        f"{over}. A tie is what chance explains at the 5 % level after Holm’s correction for all pairs of a kind."
    )
    return folded(
        "Which differences are more than chance",
        note + table(["pair", "at", "difference", "p", "so"], rows),
        opened=True,
    )


def _compared(group: Group) -> Iterator[tuple[str, list[Difference]]]:
    for epsilon in group.epsilons:
        values = group.by_recipe([entry.robust(epsilon) for entry in group.ranked])
        yield f"L∞ {epsilon_name(epsilon)}, all images", compare(values)
    if group.common:
        points = np.linspace(0, group.largest_linf, LINEAR_POINTS)
        values = group.by_recipe([path_values(entry.records(group.common), points) for entry in group.ranked])
        yield f"paper’s path, mean, {len(group.common)} common images", compare(values)


def _difference(name: str, gap: Difference) -> list[str]:
    better = gap.first if gap.mean > 0 else gap.second
    so = "tie" if gap.tie else f"{better} is better"
    text = f"{100 * gap.mean:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]".replace("-", "−")
    return [f"{escape(gap.first)} − {escape(gap.second)}", name, text, f"{gap.adjusted:.3f}", escape(so)]


TITLE = "Robustness, and how far to believe it"
CAVEATS = (
    "No attack proves robustness: the numbers are upper bounds, and stronger attacks can only lower them. Logit "
    "pairing has been broken before (Engstrom et al. 2018).",
    "The paper’s own attack moves no pixel by more than {levels:.2f}/255 and never restarts; robustness is commonly "
    "evaluated at 8/255, by many attacks. Its curves are below the verdicts, because they prove little alone.",
    "Intervals are over images. Another training seed can move a number by more: train several.",
)


@dataclass(frozen=True)
class Extras:
    """What a report shows beside results: measurements of the same models, the picture of `attack explain`, and pairs.

    `pairs` are examples by the name of their shard folder.
    """

    measurements: Sequence[Measurement] = ()
    explanations: bytes | None = None
    pairs: Sequence[tuple[str, Sequence[Example]]] = ()


def render_page(groups: Sequence[Group], extras: Extras) -> str:
    """Return the whole page; it refers to nothing on the network."""
    template = Template(files("attack.report").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=TITLE,
        lead=_lead(groups),
        sections="".join(
            (
                verdicts(groups),
                _caveats(groups),
                transfers(groups),
                figures(groups),
                clean_tables(groups),
                shape_bias(groups, extras.measurements),
                corruptions(groups, extras.measurements),
                explanations(extras.explanations),
                *(examples(name, shown) for name, shown in extras.pairs),
                checks(groups),
                attacks(groups),
                protocol(groups),
                provenance(groups),
            )
        ),
    )


def _lead(groups: Sequence[Group]) -> str:
    """Return how many models came to which verdict, in a sentence."""
    words = [entry.result.verdict.word for group in groups for entry in group.entries]
    counted = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    models = "One model" if len(words) == 1 else f"{len(words)} models"
    failed = sum(not check.passed for group in groups for entry in group.entries for check in entry.result.checks)
    link = f'<a class="fail" href="#checks">{failed} checks failed</a>' if failed > 1 else ""
    link = link or ('<a class="fail" href="#checks">1 check failed</a>' if failed else "all checks passed")
    return f"<p>{models} attacked: {escape(counted)}; {link}.</p>"


def _caveats(groups: Sequence[Group]) -> str:
    texts = (text.format(levels=255 * groups[0].largest_linf) for text in CAVEATS)
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in texts)
    return f'<div class="caveat"><p><strong>What this does not show</strong></p>{paragraphs}</div>'
