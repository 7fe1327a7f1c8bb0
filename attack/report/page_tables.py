"""The report's tables as pieces of HTML, with text escaped."""

import shlex
from collections.abc import Iterable, Sequence
from html import escape

from attack.evaluation.estimates import Estimate, accuracy_at, mean_accuracy
from attack.report.figures import METHOD_STYLES
from attack.report.summary import Entry, Group, table_distances


def name_entry(entry: Entry) -> str:
    """Return the entry's label with a dot in its method's colour."""
    method = entry.result.method if entry.result.method in METHOD_STYLES else "other"
    return f'<span class="key" style="background:var(--{method})"></span><strong>{escape(entry.label)}</strong>'


def _table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of ready HTML cells whose first column names the row."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(
        f"<tr><th>{first}</th>" + "".join(f'<td class="number">{cell}</td>' for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def clean_table(groups: Sequence[Group]) -> str:
    """Return clean accuracy, methods down and groups across."""
    labels = list(dict.fromkeys(entry.label for group in groups for entry in group.entries))
    named = {entry.label: name_entry(entry) for group in groups for entry in group.entries}
    cells = {(group.title, entry.label): _clean_cell(entry) for group in groups for entry in group.entries}
    rows = [[named[label], *(cells.get((group.title, label), "–") for group in groups)] for label in labels]
    note = '<p class="quiet">Accuracy ± binomial standard error over the whole test split of n images.</p>'
    return _table(["method", *(escape(group.title) for group in groups)], rows) + note


def _clean_cell(entry: Entry) -> str:
    clean = entry.result.document["clean"]
    return f"{Estimate(clean['accuracy'], clean['standard_error'])}, n = {clean['images']}"


def distance_table(group: Group) -> str:
    """Return one group's accuracy at fifths of the L∞ range."""
    distances = table_distances(group)
    header = ["method", *(f"{linf:.3g} ({255 * linf:.2f}/255)" for linf in distances), "mean over the range"]
    rows = [
        [
            name_entry(entry),
            *(str(accuracy_at(entry.result, linf)) for linf in distances),
            str(mean_accuracy(entry.result)),
        ]
        for entry in group.entries
    ]
    return f"<h3>{escape(group.title)}</h3>{_table(header, rows)}"


def checks_table(group: Group, entry: Entry) -> str:
    """Return a folded table of one model's checks; it is open when one failed."""
    checks = entry.result.document["checks"]
    failed = sum(not check["passed"] for check in checks)
    state = (
        f'<span class="fail">{failed} failed</span>' if failed else f'<span class="pass">{len(checks)} passed</span>'
    )
    rows = [
        [
            escape(check["name"]),
            '<span class="pass">pass</span>' if check["passed"] else '<span class="fail">FAIL</span>',
            escape(check["detail"]),
        ]
        for check in checks
    ]
    opened = " open" if failed else ""
    title = f"{name_entry(entry)}, {escape(group.title)}: {state}"
    return f"<details{opened}><summary>{title}</summary>{_table(['check', 'result', 'numbers'], rows)}</details>"


def protocol_text(entry: Entry) -> str:
    """Describe the protocol that all results share."""
    protocol = entry.result.document["protocol"]
    rules = "".join(f"<li><em>{escape(n)}</em>: {escape(text)}.</li>" for n, text in protocol["interpolators"].items())
    return (
        f"<p>Each image takes {protocol['steps']} steps of {protocol['step_size']:g} along the sign of the gradient of "
        "the cross-entropy of its true label, and is clipped to [0, 1] after each. Correctness and the L2 and L∞ "
        "distances to the original are recorded at the start and after every step. Rule for elements with zero "
        f"gradient: {escape(protocol['zero_gradient'])}. The {protocol['images']} images are the first correctly "
        f"classified ones in the order of SHA-256 of (seed {protocol['seed']}, key), so all models meet the same "
        "candidates.</p>"
        f"<ul>{rules}</ul>"
    )


def provenance(group: Group) -> str:
    """Return files, hashes, versions, hardware and command of each result, folded."""
    return f"<h3>{escape(group.title)}</h3>" + "".join(_provenance_of(entry) for entry in group.entries)


def _provenance_of(entry: Entry) -> str:
    document = entry.result.document
    model, shards, hardware = document["model"], document["shards"], document["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    origin = "the model was trained on them" if shards["used_in_training"] else "the model was trained on other shards"
    rows = [
        ["model", f"<code>{escape(model['path'])}</code>, sha256 {_digest(model['sha256'])}"],
        ["training", f"{escape(entry.result.method)}, seed {model['card']['seed']}, {model['card']['image_size']} px"],
        [
            "shards",
            f"<code>{escape(shards['path'])}</code>, manifest <code>{shards['manifest_sha256'][:16]}…</code>; {origin}",
        ],
        ["candidates", f"{document['candidates']['used']} used of {document['candidates']['walked']} walked"],
        ["hardware", escape(f"{hardware['cpu']}, {hardware['threads']} threads, on {hardware['device']}")],
        ["versions", escape(versions)],
        ["time", f"{document['seconds']:.0f} s"],
    ]
    command = _table(["", ""], rows) + f"<pre><code>{escape(_command(entry))}</code></pre>"
    return f"<details><summary>{name_entry(entry)}</summary>{command}</details>"


def _command(entry: Entry) -> str:
    """Return the command line that makes this result again."""
    document, protocol = entry.result.document, entry.result.document["protocol"]
    options = ("images", "steps", "step_size", "zero_gradient", "batch_size", "seed")
    words = ["attack", "run", "--model", document["model"]["path"], "--shards", document["shards"]["path"]]
    words += ["--out", entry.result.path.name]
    for option in options:
        words += [f"--{option.replace('_', '-')}", str(protocol[option])]
    return shlex.join(words)


def _digest(sha256: str) -> str:
    return f"<code>{escape(sha256[:16])}…</code>"
