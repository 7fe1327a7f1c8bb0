"""Images with a robust and a faint cue, and two small networks: one undefended, one adversarially trained."""

import fcntl
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stylize.files import file_sha256
from stylize.shards import Sample, write_shard
from stylize.shards.manifest import Manifest, ShardEntry, write_manifest

CLASSES, SIZE, EPSILON = 5, 16, 8 / 255
TRAIN, TRAIN_SEED, TEST, TEST_SEED = 800, 3, 120, 2
FOLDER: Path  # where processes leave trained networks for one another; set by those who use them


def draw_images(count: int, seed: int, *, misleading: bool = False) -> tuple[Tensor, Tensor]:
    """Return 8-bit images (count, 3, SIZE, SIZE) and their labels.

    Each class has a smooth pattern, which survives an attack within 8/255, and a faint texture, which does not survive
    2/255. In `misleading` images the smooth pattern is that of any class, among blocks and stripes, and only the
    texture tells the label.
    """
    generator = torch.Generator().manual_seed(99)
    coarse = torch.randn(CLASSES, 3, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, SIZE, mode="bilinear")
    texture = torch.randint(0, 2, (CLASSES, 3, SIZE, SIZE), generator=generator) * 2 - 1
    generator.manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    shares = 0.4 * torch.rand(count, CLASSES, generator=generator)
    shown = torch.randint(0, CLASSES, (count,), generator=generator) if misleading else labels
    shares[torch.arange(count), shown] = 0.7 + 0.3 * torch.rand(count, generator=generator)
    noise = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    images = 0.5 + 0.13 * torch.einsum("nk,kchw->nchw", shares, smooth) + 4 / 255 * texture[labels] + 0.03 * noise
    if misleading:
        for shape in ((1, 1), (2, 2), (4, 4), (8, 8), (1, SIZE)):
            blocks = torch.randn(count, 3, *shape, generator=generator)
            images = images + 0.05 * F.interpolate(blocks, SIZE)
    return (images.clamp(0, 1) * 255).round() / 255, labels


def write_shards(directory: Path, tests: int = TEST) -> Path:
    """Write the images as a shard folder without styled copies: one training image a class, and the first for tests."""
    directory.mkdir(parents=True)
    spec = {
        "class_names": [f"class{label}" for label in range(CLASSES)],
        "size": SIZE,
        "styles_per_image": 0,
        "codec": "png",
        "styles": [],
        "counts": {"train": CLASSES, "test": tests},
    }
    write_manifest(directory, Manifest(spec, tuple(_shards(directory, tests))))
    return directory


def _shards(directory: Path, tests: int) -> Iterator[ShardEntry]:
    for split, start, count, seed in (("train", 0, CLASSES, 1), ("test", CLASSES, TEST, TEST_SEED)):
        images, labels = (drawn[:tests] for drawn in draw_images(count, seed))
        path = directory / f"{split}-000000.tar"
        samples = [
            Sample(f"{index:08d}", _png(image), (), int(label), {"source": f"{split}/{index:08d}.png"})
            for index, (image, label) in enumerate(zip(images, labels, strict=True), start)
        ]
        written = write_shard(path, samples, "png")
        yield ShardEntry(path.name, split, written, path.stat().st_size, file_sha256(path))


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def network(*, norms: bool = False, width: int = 12) -> nn.Sequential:
    """Return two strided convolutions and a linear head; with BatchNorm where `norms`."""
    first = [nn.Conv2d(3, width, 3, 2, 1), *([nn.BatchNorm2d(width)] if norms else []), nn.ReLU()]
    second = [nn.Conv2d(width, 2 * width, 3, 2, 1), *([nn.BatchNorm2d(2 * width)] if norms else []), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(2 * width * (SIZE // 4) ** 2, CLASSES))


def ascend(model: nn.Module, images: Tensor, labels: Tensor, steps: int = 5) -> Tensor:
    """Attack by signed gradient steps on the cross-entropy within 8/255 (Madry et al. 2018)."""
    current = images + EPSILON * (2 * torch.rand_like(images) - 1)
    for _ in range(steps):
        leaf = current.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels), leaf)
        moved = leaf.detach() + 2.5 * EPSILON / steps * gradient.sign()
        current = moved.clamp(images - EPSILON, images + EPSILON).clamp(0, 1)
    return current.detach()


def train(model: nn.Module, *, robust: bool, epochs: int) -> nn.Module:
    """Train with Adam, on attacked images where `robust`; return the model in eval mode, frozen."""
    images, labels = draw_images(TRAIN, TRAIN_SEED, misleading=not robust)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(TRAIN).view(-1, 50):
            shown = ascend(model.eval(), images[rows], labels[rows]) if robust else images[rows]
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(model.train()(shown), labels[rows]))
            optimiser.step()
    return model.eval().requires_grad_(False)


@cache
def undefended() -> nn.Module:
    """Return a network that looks at the texture alone: nothing is left of it at 2/255."""
    return _once(0, norms=True, robust=False)


@cache
def robust(seed: int = 0, *, norms: bool = False) -> nn.Module:
    """Return an adversarially trained network, which withstands 8/255."""
    return _once(seed, norms=norms, robust=True)


def _once(seed: int, *, norms: bool, robust: bool) -> nn.Module:
    """Return a network that the first process of a test run trains, while the others wait for it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made, path = network(norms=norms), FOLDER / f"{seed}-{norms}-{robust}.pt"  # noqa: F821
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                with torch.enable_grad():
                    train(made, robust=robust, epochs=15)
                torch.save(made.state_dict(), path)
    made.load_state_dict(torch.load(path))
    return made.eval().requires_grad_(False)
