"""How the models were attacked, as it was really done, and how to do it again."""

import shlex
from collections.abc import Sequence
from html import escape

from attack.evaluation.config import epsilon_name
from attack.evaluation.interpolation import INTERPOLATORS
from attack.evaluation.results import Result
from attack.report.groups import Entry, Group
from attack.report.html import folded, name_entry, section, table

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
        f"Elements with zero gradient: {escape(path['zero_gradient'])}. It walked the images that a model classifies "
        f"correctly of the first {path['images']}.</p><ul>{rules}</ul>"
        f"<p>Images were attacked {asked['batch_size']} at a time; another number changes distances by float rounding, "
        "and through it single images.</p>"
    )
    walked = [[name_entry(entry), paper_words(entry.result)] for group in groups for entry in group.entries]
    return section("Protocol as really run", text, table(["model", "its path"], walked))


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
