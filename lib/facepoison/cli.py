"""The command line: train the book's own extractors, list and fetch others, detect poison, make what is shipped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import fingerprint
from facepoison.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Poisoned pictures against face recognition.")
P = ParamSpec("P")


def _told_version(asked: bool) -> None:
    """Print the version and end, where that is asked."""
    if asked:
        from importlib.metadata import version

        typer.echo(f"facepoison {version('poisoned-once')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_told_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Poisoned pictures against face recognition."""


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


@app.command("train")
@_plainly
def train_extractor(
    name: Annotated[str, typer.Argument(help="The extractor to train, as the catalogue names it.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Draws people, weights and order; 0 is what is shipped.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(help="Folder for the weights [default: data/weights; data/repeats for another seed].")
    ] = None,
    scratch: Annotated[Path | None, typer.Option(help="Folder to resume from [default: _build/training].")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; several processes of one beat one of several.")] = 1,
) -> None:
    """Train one of the book's own extractors by its recipe and write its weights, card and hash."""
    import torch

    from facepoison.extractors import cards, catalog, recipes, train
    from facepoison.protocol import registered
    from facepoison.timeline import measure_unseen

    torch.set_num_threads(threads)
    recipe = recipes.find_recipe(name, seed)
    folder = weights or (cards.REPEATS if seed else catalog.WEIGHTS)
    build = scratch or fingerprint.LIB.parent / "_build" / "training"
    train.train(
        recipe, folder, build, partial(measure_unseen, registered()), device, lambda line: print(line, flush=True)
    )
    if not seed and folder.resolve() == catalog.WEIGHTS.resolve():
        catalog.record(name, folder / catalog.find_entry(name).file)


@app.command("measure")
@_plainly
def measure_extractors(
    names: Annotated[list[str], typer.Argument(help="Own extractors, as the catalogue names them.")],
) -> None:
    """Measure own extractors on people whom nobody has seen, and write that into their cards."""
    from facepoison.extractors import cards, catalog
    from facepoison.protocol import registered
    from facepoison.timeline import measure_unseen

    for name in names:
        said = measure_unseen(registered(), catalog.load_extractor(name))
        cards.amend_card(catalog.find_entry(name), test=said)
        typer.echo(f"{name}: {json.dumps(said)}")


@app.command()
@_plainly
def faces(
    out: Annotated[Path, typer.Option(help="Folder to write to, new or empty: a sub-folder for each person.")],
    people: Annotated[int, typer.Option(min=1, help="How many people.")] = 10,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures of each.")] = 10,
    size: Annotated[int, typer.Option(help="Height and width in pixels, a multiple of 8.")] = 64,
    population: Annotated[str, typer.Option(help="Name of the population: no two share a person.")] = "exported",
    seed: Annotated[int, typer.Option(min=0, help="Draws people and pictures.")] = 1,
) -> None:
    """Write synthetic faces as a folder of PNG files, such as other tools read."""
    from facepoison.pictures.folders import write_folder
    from facepoison.pictures.synthetic import make_pictures

    made = make_pictures(population, people, pictures, size, seed)
    write_folder(made, out)
    typer.echo(f"{out}: {people * pictures} pictures of {people} people, {size} px")


@app.command("ship")
@_plainly
def ship_results(
    kinds: Annotated[list[str] | None, typer.Argument(help="poisons, rounds or public; none for all.")] = None,
    attacks: Annotated[
        list[str] | None, typer.Option("--attack", help="Only for this attack; may be repeated.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; the number changes the last bits of a sum.")] = 1,
) -> None:
    """Make the results that come with the book anew, into data/shipped; what is in the store is not made again."""
    import torch

    from facepoison import protocol, shipping

    torch.set_num_threads(threads)
    shipping.make_shipped(
        protocol.registered(), lambda line: print(line, flush=True), kinds or shipping.KINDS, attacks or ()
    )


def _short(number: float | None, unit: float) -> str:
    """A number in a unit with three digits or more; a dash where there is none."""
    if number is None:
        return "-"
    return f"{number / unit:.0f}" if number >= 1000 * unit else f"{number / unit:.3g}"


@app.command()
@_plainly
def extractors(
    folder: Annotated[Path | None, typer.Option(help="Folder that holds other people's extractors.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array and nothing else.")] = False,
) -> None:
    """List the catalogue, and check every file that is there against its hash (and its self-test, if one lies by)."""
    from facepoison.extractors.listing import list_extractors

    rows = list_extractors(folder)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        heads = ("name", "kind", "year", "format", "status", "weights/M", "MACs/M", "size/MB", "rank-1", "gradients")
        table = Table(*heads, "licence", "paper")
        for row in rows:
            status = row.status if row.selftest is None else f"{row.status}, self-test differs by {row.selftest:.0e}"
            rank = "-" if row.rank1 is None else f"{row.rank1:.1%}"
            if row.low is not None and row.high is not None:
                rank += f" [{row.low:.1%}, {row.high:.1%}]"
            if row.n is not None:
                rank += f", n = {row.n}"
            numbers = (_short(number, 1e6) for number in (row.parameters, row.macs, row.size))
            flows = "yes" if row.differentiable else "no, a black box"
            cells = [row.name, row.kind, row.year, row.format, status, *numbers, rank, flows, row.licence, row.paper]
            table.add_row(*(escape(str(cell)) for cell in cells))
        Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "200"))).print(table)
    wrong = sum(not row.usable for row in rows)
    if wrong:
        raise InputError(f"{wrong} of the files listed above cannot be used: see there")


@app.command("fetch")
@_plainly
def fetch_weights(
    name: Annotated[str, typer.Argument(help="An extractor, as the catalogue names it, or lpips, for LowKey.")],
) -> None:
    """Download somebody else's weights into ~/.cache/facepoison (or FACEPOISON_CACHE), checked before they are kept."""
    from facepoison.attacks import lpips
    from facepoison.extractors import downloads

    if name == "lpips":
        typer.echo(f"{lpips.fetch_lpips()}: the weights of LPIPS 0.1 on AlexNet")
        return
    got = downloads.fetch(name)
    typer.echo(f"{got.path}: {'downloaded' if got.new else 'was there'}, {got.bytes} bytes, SHA-256 {got.sha256}")
    if not got.verified:
        typer.echo(f"{name} is unverified: if this hash is its publisher's, write it and the size into its entry")


@app.command("detect")
@_plainly
def detect_poison(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Face crops, not resized, at most 1024 px a side.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="First calibrate on clean pictures, a sub-folder a person.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Of another detector than the book's network.")] = None,
) -> None:
    """Say how probable it is that pictures of faces are poisoned; calibrate on clean ones of your own first."""
    if not files and calibrate is None:
        raise typer.BadParameter("give FILE..., --calibrate FOLDER, or both")
    from facepoison import calibration, detect
    from facepoison.extractors.catalog import cache_folder

    path = weights or detect.DETECTORS / f"{detect.DEFAULT}.safetensors"
    detector = calibration.load(path)
    if calibrate is not None:
        kept = cache_folder() / calibration.KEPT_IN
        calibration.write(calibration.calibrate(calibrate, detector, lambda line: print(line, flush=True)), kept)
        typer.echo(f"{kept}: written")
    if not files:
        return
    used, said = calibration.in_use(detector, path)
    for line in said:
        typer.secho(line, bold=True)
    typer.echo("probability of being poisoned [95 % range], if as many pictures are poisoned as clean (even odds)")
    wrong = []
    for file in files:
        try:
            logits = detect.scores(detector, calibration.read_picture(file)[None])
        except InputError as error:
            wrong.append(error)
            continue
        value, low, high = used.probability(logits)[0].tolist()
        typer.echo(f"{file}: {value:.2f} [{low:.2f}, {high:.2f}]")
    for one in wrong[:-1]:
        typer.echo(f"error: {one}", err=True)
    if wrong:
        raise wrong[-1]
