"""Published weights in and out; the oracle is the published `nn.Sequential`, written from its description."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stylize.console import InputError
from stylize.networks.adain import AdaINNetwork, Decoder, Encoder
from stylize.networks.stylizer import Stylizer
from stylize.networks.weights import (
    decoder_from_published,
    decoder_to_published,
    default_decoder_file,
    embedded_encoder,
    encoder_from_published,
    encoder_to_published,
    export_weights,
    import_weights,
    load_pair,
    save_decoder,
)
from stylize.shards.manifest import read_manifest

PATH = Path("weights.pth")
Run = Callable[..., tuple[int, str, str]]


def convolution(first: int, last: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d((1, 1, 1, 1)), nn.Conv2d(first, last, (3, 3)), nn.ReLU()]


def published_vgg() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 3, (1, 1))]
    channels = 3
    for block, (width, count) in enumerate([(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]):
        if block:
            layers.append(nn.MaxPool2d((2, 2), (2, 2), (0, 0), ceil_mode=True))
        for _ in range(count):
            layers += convolution(channels, width)
            channels = width
    return nn.Sequential(*layers).requires_grad_(False)


def published_decoder() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 512
    for width in (256, 0, 256, 256, 256, 128, 0, 128, 64, 0, 64, 3):
        if width:
            layers += convolution(channels, width)
            channels = width
        else:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    return nn.Sequential(*layers[:-1]).requires_grad_(False)


def align(content: Tensor, style: Tensor) -> Tensor:
    """AdaIN in NumPy, float64, with biased variances."""
    x, y = content.double().numpy(), style.double().numpy()
    scale = np.sqrt((y.var((2, 3), keepdims=True) + 1e-5) / (x.var((2, 3), keepdims=True) + 1e-5))
    aligned = (x - x.mean((2, 3), keepdims=True)) * scale + y.mean((2, 3), keepdims=True)
    return torch.from_numpy(aligned).float()


def test_the_export_gives_the_same_picture_in_the_published_networks(encoder: Encoder, decoder: Decoder) -> None:
    vgg, mirror = published_vgg(), published_decoder()
    vgg.load_state_dict(encoder_to_published(encoder), strict=True)
    mirror.load_state_dict(decoder_to_published(decoder), strict=True)
    cut = nn.Sequential(*list(vgg.children())[:31])
    generator = torch.Generator().manual_seed(0)
    content = torch.rand(1, 3, 24, 32, generator=generator)
    style = torch.rand(1, 3, 40, 16, generator=generator)
    expected = mirror(align(cut(content), cut(style))).clamp(0, 1)
    network = AdaINNetwork(encoder, decoder)
    found = network(content, *network.style_statistics(style))
    assert float(found.std()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float(vgg(content).abs().max()) == 0  # relu5_4: what lies beyond relu4_1 is zero


def test_the_import_folds_the_preprocessing_exactly_also_at_the_border() -> None:
    torch.manual_seed(0)
    vgg = published_vgg()
    preprocessing = vgg[0]
    assert isinstance(preprocessing, nn.Conv2d)
    assert preprocessing.bias is not None
    preprocessing.weight.data = torch.tensor([[2.0, 1, 255], [0, 255, 3], [255, 0, 1]])[:, :, None, None]
    preprocessing.bias.data = torch.tensor([-103.9, -116.8, -123.7])
    encoder = encoder_from_published(vgg.state_dict(), PATH)
    pixels = torch.rand(1, 3, 16, 24)
    expected = dict(enumerate(_outputs(vgg, pixels)))
    for features, index in zip(encoder.layers(pixels), (3, 6, 10, 13, 17, 20, 23, 26, 30), strict=True):
        scale = float(expected[index].abs().max())
        torch.testing.assert_close(features, expected[index], rtol=1e-4, atol=1e-4 * scale)


def _outputs(network: nn.Sequential, pixels: Tensor) -> list[Tensor]:
    outputs = []
    for layer in list(network)[:31]:
        pixels = layer(pixels)
        outputs.append(pixels)
    return outputs


def test_the_imported_decoder_is_the_published_one() -> None:
    torch.manual_seed(0)
    mirror = published_decoder()
    decoder = decoder_from_published(mirror.state_dict(), PATH)
    features = torch.rand(1, 512, 3, 2)
    torch.testing.assert_close(decoder(features), mirror(features), rtol=1e-4, atol=1e-5)


def test_export_and_import_give_the_same_bits(encoder: Encoder, decoder: Decoder) -> None:
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (encoder, encoder_from_published(encoder_to_published(encoder), PATH)),
        (decoder, decoder_from_published(decoder_to_published(decoder), PATH)),
    ]
    for original, back in pairs:
        for one, other in zip(original.state_dict().values(), back.state_dict().values(), strict=True):
            assert torch.equal(one.view(torch.int32), other.view(torch.int32))


def test_the_wrong_network_is_refused(encoder: Encoder, decoder: Decoder) -> None:
    with pytest.raises(InputError, match=r"weights\.pth has no tensor 0\.weight"):
        encoder_from_published(decoder_to_published(decoder), PATH)
    with pytest.raises(InputError, match=r"weights\.pth has no tensor 1\.weight"):
        decoder_from_published(encoder_to_published(encoder), PATH)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def published(encoder: Encoder, decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a pair as its publishers saved it, in PyTorch's format of 2018."""
    folder = tmp_path_factory.mktemp("published")
    for name, state in (
        ("vgg_normalised.pth", encoder_to_published(encoder)),
        ("decoder.pth", decoder_to_published(decoder)),
    ):
        torch.save(state, folder / name, _use_new_zipfile_serialization=False)
    return folder


@pytest.fixture(scope="module")
def imported(published: Path) -> Path:
    import_weights(str(published / "vgg_normalised.pth"), published / "decoder.pth", published / "imported")
    return published / "imported"


def test_an_imported_pair_is_the_published_one_and_belongs_together(
    imported: Path, encoder: Encoder, decoder: Decoder
) -> None:
    pair = load_pair(str(imported / "encoder.safetensors"), imported / "decoder.safetensors")
    for network, original in ((pair.encoder.network, encoder), (pair.decoder, decoder)):
        assert not network.training
        for name, tensor in original.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor)
    assert pair.encoder.sha256 == sha256(imported / "encoder.safetensors")
    assert pair.decoder_sha256 == sha256(imported / "decoder.safetensors")


def test_the_same_weights_always_give_the_same_files(imported: Path, tmp_path: Path) -> None:
    pair = str(imported / "encoder.safetensors"), imported / "decoder.safetensors"
    exported = export_weights(tmp_path, *pair)
    assert [path.name for path in exported] == ["vgg_normalised.pth", "decoder.pth"]
    before = [sha256(path) for path in exported]
    assert [sha256(path) for path in export_weights(tmp_path, *pair)] == before
    again = import_weights(str(exported[0]), exported[1], tmp_path / "again")
    assert [sha256(path) for path in again] == [sha256(imported / path.name) for path in again]


def test_the_embedded_pair_survives_the_round_trip_bit_for_bit(tmp_path: Path) -> None:
    vgg, mirror = export_weights(tmp_path / "pth")
    paths = import_weights(str(vgg), mirror, tmp_path)
    encoder, decoder = (load_file(path) for path in paths)
    originals = embedded_encoder().network.state_dict(), load_file(default_decoder_file())
    for found, original in zip((encoder, decoder), originals, strict=True):
        assert found.keys() == original.keys()
        for name, tensor in original.items():
            assert torch.equal(found[name].view(torch.int32), tensor.float().view(torch.int32))


def test_the_stylizer_loads_files_by_text_or_path(imported: Path) -> None:
    encoder, decoder = imported / "encoder.safetensors", imported / "decoder.safetensors"
    images = np.full((1, 16, 16, 3), 90, np.uint8)
    made = [Stylizer.load(["dots"], *pair)(images) for pair in ((encoder, decoder), (str(encoder), str(decoder)))]
    assert np.array_equal(made[0], made[1])
    with pytest.raises(InputError, match="decoder"):
        Stylizer.load(["dots"], encoder)


def test_an_encoder_can_be_imported_alone(published: Path, imported: Path, tmp_path: Path) -> None:
    (path,) = import_weights(str(published / "vgg_normalised.pth"), None, tmp_path)
    assert path.read_bytes() == (imported / "encoder.safetensors").read_bytes()


def test_nothing_is_replaced_and_nothing_is_left_half_written(published: Path, tmp_path: Path) -> None:
    encoder = str(published / "vgg_normalised.pth")
    (tmp_path / "decoder.safetensors").write_text("precious")
    with pytest.raises(InputError, match=r"decoder\.safetensors holds other weights"):
        import_weights(encoder, published / "decoder.pth", tmp_path)
    with pytest.raises(InputError, match=r"vgg_normalised\.pth has no tensor 1\.weight"):
        import_weights(encoder, Path(encoder), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["decoder.safetensors"]
    assert (tmp_path / "decoder.safetensors").read_text() == "precious"
    with pytest.raises(InputError, match="cannot be written"):
        import_weights(encoder, None, tmp_path / "decoder.safetensors")


def test_list_names_the_embedded_pair_and_imported_files(run: Run, imported: Path, tmp_path: Path) -> None:
    run("weights", "import", "--encoder", imported.parent / "vgg_normalised.pth")
    code, text, _ = run("weights", "list")
    assert code == 0
    hashes = embedded_encoder().sha256, sha256(default_decoder_file()), sha256(imported / "encoder.safetensors")
    for part in (*hashes, "CC BY 4.0", "Apache-2.0", "7.0 MB", "vgg19-torchvision", "data/weights/encoder.safetensors"):
        assert part in text


def test_import_export_and_preview_with_a_pair(run: Run, published: Path, imported: Path, class_folders: Path) -> None:
    vgg, mirror = published / "vgg_normalised.pth", published / "decoder.pth"
    code, text, _ = run("weights", "import", "--encoder", vgg, "--decoder", mirror)
    folder = Path("data/weights")
    options = ["--encoder", folder / "encoder.safetensors", "--decoder", folder / "decoder.safetensors"]
    assert (code, sha256(imported / "encoder.safetensors") in text) == (0, True)
    assert f"To use them: stylize shards {' '.join(map(str, options))}" in text
    code, text, _ = run("weights", "export", *options, "--out", "published")
    assert (code, "published/vgg_normalised.pth: 23.5 MB" in text) == (0, True)
    sheets = []
    for chosen in (options, []):
        picture = class_folders / "train/cat/000.png"
        assert run("preview", picture, "--style", "dots", "--size", 16, *chosen, "-o", "sheet.png")[0] == 0
        sheets.append(Path("sheet.png").read_bytes())
    assert sheets[0] != sheets[1]


def test_shards_name_the_files_that_made_them(run: Run, imported: Path, class_folders: Path, tmp_path: Path) -> None:
    """The embedded pair after a round trip makes the same bytes under other names; a random pair is found out."""
    vgg, mirror = export_weights(tmp_path / "pth")
    encoder, decoder = import_weights(str(vgg), mirror)
    arguments = ["shards", "--style", "dots", "--data", class_folders, "--size", 16, "--limit", 1]
    assert run(*arguments, "--encoder", encoder, "--decoder", decoder, "--out", "made")[0] == 0
    assert run(*arguments, "--out", "embedded")[0] == 0
    made, embedded = (read_manifest(Path(name)) for name in ("made", "embedded"))
    assert (made.spec["encoder_sha256"], made.spec["decoder_sha256"]) == (sha256(encoder), sha256(decoder))
    assert embedded.spec["decoder_sha256"] == sha256(default_decoder_file())
    assert [shard.sha256 for shard in made.shards] == [shard.sha256 for shard in embedded.shards]
    pair = ["--encoder", imported / "encoder.safetensors", "--decoder", imported / "decoder.safetensors"]
    code, _, error = run(*arguments, *pair, "--out", "random")
    assert (code, "does not reconstruct" in error) == (2, True)


def test_fit_decoder_trains_for_the_encoder_that_is_given(
    run: Run, imported: Path, class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr("stylize.fitting.decoder.fit_decoder", lambda *arguments: given.append(arguments[2].sha256))
    options = ["fit-decoder", "--content", class_folders, "--style", "dots", "-o", "decoder.safetensors"]
    for chosen in ([], ["--encoder", imported / "encoder.safetensors"]):
        assert run(*options, *chosen)[0] == 0
    assert given == [embedded_encoder().sha256, sha256(imported / "encoder.safetensors")]


def test_evaluate_decoder_judges_the_pair_that_is_given(run: Run, imported: Path, class_folders: Path) -> None:
    pair = ["--encoder", imported / "encoder.safetensors", "--decoder", imported / "decoder.safetensors"]
    options = ["--content", class_folders, "--style", "dots", "--held-out-fraction", 1, "--photos", 1, "--size", 16]
    assert run("evaluate-decoder", *options, *pair, "-o", "scores.json")[0] == 0
    document = json.loads(Path("scores.json").read_text())
    assert document["encoder_sha256"] == sha256(imported / "encoder.safetensors")
    assert document["decoder_sha256"] == sha256(imported / "decoder.safetensors")


@pytest.fixture
def weights(imported: Path, tmp_path: Path) -> Path:
    """Fill a folder with weights that must be refused; the good pair is `e` and `d`."""
    encoder, decoder = (imported / f"{name}.safetensors" for name in ("encoder", "decoder"))
    (tmp_path / "e").write_bytes(encoder.read_bytes())
    (tmp_path / "d").write_bytes(decoder.read_bytes())
    (tmp_path / "cut").write_bytes(encoder.read_bytes()[:-10])
    state = load_file(encoder)
    state["convolutions.3.bias"][7] = float("nan")
    save_file(state, tmp_path / "nan")
    save_decoder(tmp_path / "foreign", Decoder(), "ab" * 32, {})
    broken = load_file(decoder)
    broken["convolutions.3.bias"][7] = float("inf")
    save_file(broken, tmp_path / "inf", {"encoder_sha256": sha256(encoder)})
    torch.save({"a": torch.ones(1)}, tmp_path / "pth")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--encoder e", "The shipped decoder does not belong to --encoder e: give its own with --decoder, or train"),
        ("--encoder vgg19-torchvision", "The shipped decoder does not belong to --encoder vgg19-torchvision"),
        ("--decoder d", "d belongs to encoder"),
        ("--encoder e --decoder foreign", "foreign belongs to encoder abababababab, not to"),
        ("--encoder d --decoder d", "d is not an encoder (size mismatch"),
        ("--encoder e --decoder e", "e is not a decoder (size mismatch"),
        ("--encoder absent --decoder d", "absent is not an encoder (No such file"),
        ("--encoder cut --decoder d", "cut is not an encoder ("),
        ("--encoder pth --decoder d", "pth is not an encoder ("),
        ("--encoder . --decoder d", ". is not an encoder ("),
        ("--encoder nan --decoder d", "nan cannot be used as an encoder, it holds NaN or infinity"),
        ("--encoder e --decoder inf", "inf cannot be used as a decoder, it holds NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_images_are_looked_at(
    run: Run, weights: Path, options: str, message: str
) -> None:
    before = sorted(weights.rglob("*"))
    for command in ("shards --data absent", "preview absent.png", "weights export --out out"):
        code, out, err = run(*command.split(), *options.split())
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("Error: ")
        assert message in err
    assert sorted(weights.rglob("*")) == before


def test_import_names_what_is_wrong(run: Run, weights: Path) -> None:
    refused = {
        "e": "e has no tensor 0.weight",
        "absent": "absent cannot be read (No such file or directory)",
        "pth": "pth has no tensor 0.weight",
    }
    for file, message in refused.items():
        code, out, err = run("weights", "import", "--encoder", file)
        assert (code, out, message in err, "Traceback" in err) == (2, "", True, False)
    assert not Path("data").exists()
