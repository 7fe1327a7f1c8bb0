"""`stylize weights list`, `import` and `export`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from stylize.console import command_app, console
from stylize.files import file_sha256
from stylize.interruption import imports_torch
from stylize.jobs.spec import Decoder, Encoder
from stylize.networks import TORCHVISION, WEIGHTS

IMPORT_HELP = f"vgg_normalised.pth, a file of torchvision's VGG-19, or {TORCHVISION} to download that."
weights_app = command_app("List, import and export the networks' weights.")


@weights_app.command("list")
@imports_torch
def list_command() -> None:
    """Show which weights there are: where, how large, whose, and the SHA-256 that manifests record."""
    from stylize.networks.weights import list_weights

    for record in list_weights():
        size = f"{record.bytes / 1e6:.1f} MB" if record.bytes is not None else "not downloaded yet"
        console.print(record.name)
        console.print(f"  file     {record.path}, {size}", highlight=False)
        console.print(f"  licence  {record.licence}", highlight=False)
        if record.sha256:
            console.print(f"  SHA-256  {record.sha256}", highlight=False)


@weights_app.command("import")
@imports_torch
def import_command(
    encoder: Annotated[str, typer.Option(help=IMPORT_HELP)],
    decoder: Annotated[Path | None, typer.Option(help="The decoder.pth that belongs to a vgg_normalised.pth.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = WEIGHTS,
) -> None:
    """Turn PyTorch files in the layout of pytorch-AdaIN or torchvision into files for --encoder and --decoder."""
    from stylize.networks.weights import import_weights

    paths = import_weights(encoder, decoder, out)
    _print_files(paths)
    options = ["--encoder", str(paths[0]), *(word for path in paths[1:] for word in ("--decoder", str(path)))]
    use = "shards" if decoder else "fit-decoder --content PHOTOS --style PAINTINGS -o decoder.safetensors"
    console.print(f"To use them: stylize {use} {shlex.join(options)}", highlight=False)


@weights_app.command("export")
@imports_torch
def export_command(
    out: Annotated[Path, typer.Option(help="Folder for vgg_normalised.pth and decoder.pth.")],
    encoder: Encoder = None,
    decoder: Decoder = None,
) -> None:
    """Write a pair as pytorch-AdaIN and stylize-datasets load it; layers beyond relu4_1, unused, are zero."""
    from stylize.networks.weights import export_weights

    _print_files(export_weights(out, encoder, decoder))


def _print_files(paths: list[Path]) -> None:
    for path in paths:
        console.print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {file_sha256(path)}", highlight=False)
