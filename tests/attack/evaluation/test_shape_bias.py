import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, rankdata
from torch import Tensor, nn

from attack.evaluation.shape_bias import measure_shape_bias
from stylize.console import InputError
from stylize.jobs.cue_conflict import TEXTURE_FREE, make_cue_set, open_cue_set
from stylize.jobs.spec import ShardOptions
from stylize.shards import read_shard
from stylize.shards.manifest import read_manifest
from stylize.sources.shapes import CLASS_NAMES
from train import load_test_images

OPTIONS = ShardOptions(size=16, codec="png")


class Draws(nn.Module):
    """Logits from five values, so that many are tied, that depend on the image alone; every fifth image gives a NaN."""

    def forward(self, images: Tensor) -> Tensor:
        rows = []
        for image in images:
            rng = np.random.default_rng(abs(hash(image.numpy().tobytes())) % 2**32)
            row = rng.integers(0, 5, len(CLASS_NAMES)).astype(np.float32)
            row[3] = np.nan if rng.random() < 0.2 else row[3]
            rows.append(torch.from_numpy(row))
        return torch.stack(rows) if rows else torch.zeros(0, len(CLASS_NAMES))


class Answers(nn.Module):
    """Names the class that it was told for each image, and class 0 for any other image."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[bytes, int] = {}

    def forward(self, images: Tensor) -> Tensor:
        classes = [self.answers.get(image.numpy().tobytes(), 0) for image in images]
        return torch.nn.functional.one_hot(torch.tensor(classes), len(CLASS_NAMES)).float()


@pytest.fixture(scope="module")
def conflict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cues") / "conflict"
    make_cue_set(open_cue_set(OPTIONS, per_class=4), out)
    return out


def textures(shards: Path) -> dict[str, int]:
    (path,) = read_manifest(shards).paths(shards, "test")
    return {sample.key: CLASS_NAMES.index(sample.metadata["texture"]) for sample in read_shard(path)}


def test_decisions_are_counted(conflict: Path, tmp_path: Path) -> None:
    """Of 40 images, 20 go by shape, 10 by texture and 10 by neither."""
    model, expected = Answers(), []
    for index, image in enumerate(load_test_images(conflict, 16, "small")):
        shape, texture = image.label, textures(conflict)[image.key]
        neither = next(label for label in range(10) if label not in (shape, texture))
        predicted = (shape, shape, texture, neither)[index % 4]
        model.answers[image.pixels.numpy().tobytes()] = predicted
        ranks = {"shape_rank": 6.0, "texture_rank": 6.0}  # nine classes share the places 2 to 10
        ranks |= {"shape_rank": 1.0} if predicted == shape else {"texture_rank": 1.0} if predicted == texture else {}
        seen = {"key": image.key, "shape": shape, "texture": texture, "predicted": predicted}
        expected.append({**seen, **ranks, "counted": True})

    document = measure_shape_bias(model, conflict, tmp_path / "out.json", batch_size=7)

    assert document == json.loads((tmp_path / "out.json").read_text())
    assert document["records"] == expected
    for name, successes, n in (
        ("shape_bias", 20, 30),
        ("shape_accuracy", 20, 40),
        ("texture_accuracy", 10, 40),
        ("neither", 10, 40),
    ):
        interval = binomtest(successes, n).proportion_ci(method="wilson")
        numbers = {"share": successes / n, "low": interval.low, "high": interval.high}
        assert document[name] == pytest.approx({**numbers, "successes": successes, "n": n})
    assert document["texture_free"] is None
    assert document["shards"]["name"] == "conflict"
    assert document["model"]["card"]["arch"] == "Answers"


def test_ranks_are_scipys(conflict: Path, tmp_path: Path) -> None:
    document = measure_shape_bias(Draws(), conflict, tmp_path / "out.json", batch_size=7)
    known, keys, expected = textures(conflict), [], []
    for image in load_test_images(conflict, 16, "small"):
        logits = Draws()(image.pixels[None])[0].numpy()
        whole = np.isfinite(logits).all()
        ranks = rankdata(-logits, "average") if whole else np.full(10, 10)
        expected.append((ranks[image.label], ranks[known[image.key]]))
        keys.append(image.key)
    assert [each["key"] for each in document["records"]] == keys
    assert [(each["shape_rank"], each["texture_rank"]) for each in document["records"]] == expected
    for name, place in (("shape", 0), ("texture", 1)):
        rank = document[f"{name}_reciprocal_rank"]
        assert rank["mean"] == pytest.approx(np.mean([1 / each[place] for each in expected]))
        assert rank["low"] < rank["mean"] < rank["high"]
        assert rank["n"] == 40


def test_images_count_where_a_reference_knows_the_original(conflict: Path, tmp_path: Path) -> None:
    model, reference, kept = Answers(), Answers(), []
    for index, image in enumerate(load_test_images(conflict, 16, "small")):
        model.answers[image.pixels.numpy().tobytes()] = image.label if index % 2 else textures(conflict)[image.key]
        known = index % 4 == 1 or index % 8 == 0
        reference.answers[image.pixels.numpy().tobytes()] = image.label if known else (image.label + 1) % 10
        kept += [index % 2] if known else []
    measure = partial(measure_shape_bias, model, conflict, tmp_path / "out.json")
    document = measure(reference=reference, originals=conflict)
    assert (document["shape_bias"]["successes"], document["shape_bias"]["n"]) == (sum(kept), len(kept))
    assert document["reference"]["recognised"]["successes"] == len(kept) == document["shape_reciprocal_rank"]["n"]
    assert sum(record["counted"] for record in document["records"]) == len(kept)
    assert measure()["shape_bias"]["n"] == len(document["records"]) == 40
    assert measure()["reference"] is None
    make_cue_set(open_cue_set(OPTIONS, per_class=1, kind=TEXTURE_FREE), tmp_path / "plain")
    with pytest.raises(InputError, match="no original"):  # all are other images
        measure(reference=reference, originals=tmp_path / "plain")
    with pytest.raises(InputError, match="--originals"):
        measure(reference=reference)


def test_a_model_that_decides_neither_way_has_no_bias(conflict: Path, tmp_path: Path) -> None:
    model, known = Answers(), textures(conflict)
    for image in load_test_images(conflict, 16, "small"):
        third = next(label for label in range(10) if label not in (image.label, known[image.key]))
        model.answers[image.pixels.numpy().tobytes()] = third
    bias = measure_shape_bias(model, conflict, tmp_path / "out.json")["shape_bias"]
    assert bias == {"share": None, "low": 0.0, "high": 1.0, "successes": 0, "n": 0}


def test_texture_free_accuracy(conflict: Path, tmp_path: Path) -> None:
    make_cue_set(open_cue_set(OPTIONS, per_class=2, kind=TEXTURE_FREE), tmp_path / "plain")
    document = measure_shape_bias(Answers(), conflict, tmp_path / "out.json", texture_free=tmp_path / "plain")
    accuracy = document["texture_free"]["accuracy"]
    assert (accuracy["successes"], accuracy["n"]) == (2, 20)  # it names class 0
    assert document["texture_free"]["shards"]["name"] == "plain"


def test_images_without_another_texture_are_refused(conflict: Path, tmp_path: Path) -> None:
    make_cue_set(open_cue_set(OPTIONS, per_class=1, kind=TEXTURE_FREE), tmp_path / "plain")
    with pytest.raises(InputError, match=r"no texture of another class: give a folder of `stylize cue-conflict`"):
        measure_shape_bias(Answers(), tmp_path / "plain", tmp_path / "out.json")
    with pytest.raises(InputError, match="--batch-size is 0"):
        measure_shape_bias(Answers(), conflict, tmp_path / "out.json", batch_size=0)
    assert not (tmp_path / "out.json").exists()
