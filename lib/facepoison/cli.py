"""The command line: train the book's own extractors, list all that there are, make what is shipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from rich.console import Console
from rich.table import Table

import fingerprint
from facepoison.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Poisoned pictures against face recognition.")
P = ParamSpec("P")


def _plainly(command: Callable[P, None]) -> Callable[P, None]:
    """End a command on bad input with its one line and exit code 2, without a traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except InputError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from error

    return run


@app.command()
@_plainly
def train(
    name: Annotated[str, typer.Argument(help="The extractor to train, as the catalogue names it.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    weights: Annotated[Path | None, typer.Option(help="Folder for the weights [default: data/weights].")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Folder to resume from [default: _build/training].")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; several processes of one beat one of several.")] = 1,
) -> None:
    """Train one of the book's own extractors by its recipe and write its weights, card and hash."""
    import torch

    from facepoison.extractors import catalog, training

    torch.set_num_threads(threads)
    recipe = training.find_recipe(name)
    folder = weights or catalog.WEIGHTS
    build = scratch or fingerprint.LIB.parent / "_build" / "training"
    training.train(recipe, folder, build, device, lambda line: print(line, flush=True))
    if folder.resolve() == catalog.WEIGHTS.resolve():
        catalog.record(name, folder / catalog.find_entry(name).file)


@app.command()
@_plainly
def ship(
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Make the results that come with the book anew, into data/shipped; what is in the store is not made again."""
    import torch

    from facepoison import experiment, protocol

    torch.set_num_threads(threads)
    setting = protocol.choose(**protocol.read_protocol()["registered"])
    experiment.ship(setting, lambda line: print(line, flush=True))


@app.command()
@_plainly
def extractors(
    folder: Annotated[Path | None, typer.Option(help="Folder that holds other people's extractors.")] = None,
) -> None:
    """List the catalogue, and check every file that is there against its hash (and its self-test, if one lies by)."""
    from facepoison.extractors import catalog

    table = Table("name", "year", "architecture", "kind", "input", "embedding", "licence", "file")
    damaged = 0
    for entry in catalog.catalogue().values():
        place = folder if entry.kind == "other" else catalog.WEIGHTS
        if place is None:
            state = "give --folder"
        else:
            try:
                extractor = catalog.load_extractor(entry.name, folder=place)
                test = place / f"{entry.name}.selftest.npz"
                state = (
                    f"good, self-test differs by {catalog.selftest(extractor, test):.0e}" if test.is_file() else "good"
                )
            except InputError as error:
                state, damaged = str(error), damaged + 1
        size = f"{entry.contract.size} {entry.contract.colour}"
        about = [entry.name, entry.year, entry.architecture, entry.kind, size, entry.embedding, entry.licence, state]
        table.add_row(*map(str, about))
    Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "160"))).print(table)
    if damaged:
        raise InputError(f"{damaged} of the files listed above cannot be used: see there")
