import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.interpolate import interp1d

from attack import all_curves, attack_model, candidate_order, read_result
from stylize.errors import InputError
from stylize.shards.manifest import MANIFEST_NAME
from train import load_model, load_test_images, save_model

Maker = Callable[..., Path]


@pytest.fixture
def shards(make_shard_folder: Maker) -> Path:
    return make_shard_folder(test=30)


def test_result_holds_what_redraws_its_curves(shards: Path, make_result: Maker) -> None:
    result = read_result(make_result(shards, "pairing"))
    document, records = result.document, result.records

    redrawn = all_curves(records.correct, records.l2, records.linf, largest_linf=0.004)
    stored = {(curve["interpolator"], curve["norm"]): curve for curve in document["curves"]}
    assert {(curve.interpolator, curve.norm) for curve in redrawn} == set(stored)
    for curve in redrawn:
        assert curve.__dict__ == stored[curve.interpolator, curve.norm]
    linear = stored["linear", "linf"]
    slow = [
        interp1d(x, y, bounds_error=False, fill_value=(y[0], y[-1]))(linear["distance"])
        for x, y in zip(records.linf, records.correct, strict=True)
    ]
    np.testing.assert_allclose(linear["accuracy"], np.mean(slow, axis=0), atol=1e-9)
    assert len(records.correct) == 6
    assert 0 < records.correct[:, 1:].mean() < 1  # the attack does something, and not all at once
    assert (records.linf[:, -1] <= 0.004 + 1e-6).all()


def test_clean_accuracy_and_images_are_the_models_own(shards: Path, make_result: Maker, make_model: Maker) -> None:
    document = read_result(make_result(shards, "normal")).document
    model, _ = load_model(Path(document["model"]["path"]))
    correct, labels = {}, {}
    for image in load_test_images(shards, 16, "small"):
        correct[image.key] = bool(model(image.pixels[None]).argmax() == image.label)
        labels[image.key] = image.label

    accuracy = sum(correct.values()) / 30
    assert document["clean"]["accuracy"] == accuracy
    assert document["clean"]["images"] == 30
    assert document["clean"]["standard_error"] == pytest.approx((accuracy * (1 - accuracy) / 30) ** 0.5)
    expected = [key for key in candidate_order(correct) if correct[key]][:6]
    assert [record["key"] for record in document["records"]] == expected
    assert [record["label"] for record in document["records"]] == [labels[key] for key in expected]
    assert document["candidates"] == {"walked": candidate_order(correct).index(expected[-1]) + 1, "used": 6}


def test_result_names_its_inputs_and_passes_its_checks(shards: Path, make_result: Maker) -> None:
    document = read_result(make_result(shards, "normal")).document
    model = Path(document["model"]["path"])
    assert document["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert document["model"]["card"]["class_names"] == ["class0", "class1", "class2"]
    manifest = hashlib.sha256((shards / MANIFEST_NAME).read_bytes()).hexdigest()
    assert document["shards"]["manifest_sha256"] == manifest
    assert document["shards"]["used_in_training"] is True
    assert set(document["protocol"]["interpolators"]) == {"linear", "authors"}
    assert [check for check in document["checks"] if not check["passed"]] == []
    assert len(document["loss"]) == 9
    assert document["versions"]["torch"] == torch.__version__
    assert document["hardware"]["cpu"]


def test_batch_size_and_repetition_change_nothing(shards: Path, make_model: Maker, tmp_path: Path) -> None:
    model = make_model(shards)
    documents = [
        attack_model(model, shards, tmp_path / f"{size}.json", images=5, steps=4, step_size=0.0005, batch_size=size)
        for size in (2, 2, 30)
    ]
    assert documents[0]["records"] == documents[1]["records"]
    keys = [[record["key"] for record in document["records"]] for document in documents]
    assert keys[0] == keys[2]
    for name in ("l2", "linf"):
        one, other = ([record[name] for record in documents[i]["records"]] for i in (0, 2))
        np.testing.assert_allclose(one, other, rtol=0.05)
    assert json.loads((tmp_path / "2.json").read_text())["records"] == documents[1]["records"]


def test_all_correct_images_are_used_when_there_are_too_few(shards: Path, make_model: Maker, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    document = attack_model(
        make_model(shards),
        shards,
        tmp_path / "new" / "folder" / "out.json",
        images=1000,
        steps=1,
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    right = round(document["clean"]["accuracy"] * 30)
    assert document["candidates"] == {"walked": 30, "used": right}
    assert seen[-1] == ("Attack", right, right)
    assert ("Classify test images", 30, 30) in seen
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["out.json"]


def test_no_image_is_correct(make_shard_folder: Maker, make_model: Maker, tmp_path: Path) -> None:
    shards = make_shard_folder(classes=4, train=4, test=3)  # labels 0 to 2 in the test split
    path = make_model(shards)
    model, card = load_model(path)
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    head.bias[3] += 1000
    save_model(path, model, card)
    with pytest.raises(InputError, match="none of the 3 test images"):
        attack_model(path, shards, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_class_names_must_be_the_models(make_shard_folder: Maker, make_model: Maker, tmp_path: Path) -> None:
    shards = make_shard_folder()
    renamed = make_model(shards, class_names=["class0", "cat", "class2"])
    with pytest.raises(InputError, match="Class 1 is 'cat'"):
        attack_model(renamed, shards, tmp_path / "out.json")
    more = make_shard_folder("more", classes=4)
    with pytest.raises(InputError, match=r"knows 3 classes but .* has 4"):
        attack_model(make_model(shards), more, tmp_path / "out.json")


def test_other_shards_of_the_same_classes_are_allowed_and_named(
    make_shard_folder: Maker, make_model: Maker, tmp_path: Path
) -> None:
    model = make_model(make_shard_folder(test=30))
    other = make_shard_folder("other", test=30, styles_per_image=2)
    document = attack_model(model, other, tmp_path / "out.json", images=2, steps=1)
    assert document["shards"]["used_in_training"] is False
    assert document["shards"]["name"] == "other"


def damage(document: dict[str, object], how: str) -> str:
    records = document["records"]
    assert isinstance(records, list)
    if how == "short record":
        records[0]["l2"].pop()
    elif how == "nan":
        records[0]["l2"][1] = float("nan")
    elif how == "no records":
        records.clear()
    elif how == "newer version":
        document["format_version"] = 2
    else:
        del document[how]
    return json.dumps(document)


def test_damaged_results_are_refused(shards: Path, make_result: Maker) -> None:
    path = make_result(shards, "normal", images=2, steps=2)
    sound = path.read_text()
    for how, message in (
        ("short record", "damaged"),
        ("nan", "damaged"),
        ("no records", "damaged"),
        ("clean", "damaged"),
        ("checks", "damaged"),
        ("newer version", "format version 2"),
        ("format_version", "not a result"),
    ):
        path.write_text(damage(json.loads(sound), how))
        with pytest.raises(InputError, match=message):
            read_result(path)


def test_files_that_are_no_results(tmp_path: Path) -> None:
    for content in (b"", b"{", b"[]", b"3", b'{"format_version": 1}', b"\xff\xfe"):
        path = tmp_path / "result.json"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"result\.json"):
            read_result(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_result(tmp_path / "missing.json")
