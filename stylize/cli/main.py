"""Stylize image data sets with AdaIN into paired WebDataset shards."""

from pathlib import Path
from typing import Annotated

import typer

from stylize.cli.cue_conflict import cue_conflict
from stylize.cli.diff_merge import diff, merge, rederive
from stylize.cli.fit import evaluate_decoder, fit_decoder, fit_styles
from stylize.cli.pack_unpack import images, pack, unpack
from stylize.cli.params import check_params
from stylize.cli.preview import preview
from stylize.cli.shards import publish, shards
from stylize.cli.upload import upload
from stylize.cli.verify_info import index, info, verify
from stylize.cli.weights import weights_app
from stylize.console import command_app, console, run_command_line
from stylize.params import PARAMS

app = command_app(__doc__, "stylize")
for command in (shards, publish, images, preview, cue_conflict, verify, info, index, pack, unpack, upload):
    app.command(command.__name__.replace("_", "-"))(command)
for command in (diff, merge, rederive, fit_decoder, evaluate_decoder, fit_styles):
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(weights_app, name="weights")


@app.command("check-params")
def check_params_command(params: Annotated[Path, typer.Argument(help="The pipeline's parameters.")] = PARAMS) -> None:
    """Check the sections data and stylize of params.yaml, before `dvc repro` runs anything with them."""
    check_params(app, params)
    console.print(f"{params}: data and stylize are right")


def main() -> None:
    """Entry point of the console script."""
    run_command_line(app)
