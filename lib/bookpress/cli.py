"""The commands behind ``make``: execute, site, book, check, register, strip."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bookpress.files import PressError, why

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)
asked: dict[str, object] = {}


@cli.callback()
def ask(
    *,
    profile: Annotated[str | None, typer.Option(help="Scale of the run, a profile of data/protocol.toml.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A built-in data set, or a folder of pictures by person.")] = None,
    seed: Annotated[str | None, typer.Option(help="Seed of every random choice, 0 or more.")] = None,
    extractors: Annotated[str | None, typer.Option(help="A folder with other people's extractors.")] = None,
    other: Annotated[list[str] | None, typer.Option("--set", help="Any other parameter, as name=value.")] = None,
) -> None:
    """Make the book: run its chapters, build its site, check it. What is not given comes from data/protocol.toml."""
    asked.update(profile=profile, dataset=dataset, seed=seed, extractors=extractors, others=tuple(other or ()))


def folder(*, run: bool) -> Path:
    """The executed chapters of the run that was asked for, after running what is not up to date or as they are."""
    from bookpress import chapters, execute

    planned = chapters.plan_run(Path.cwd(), **asked)  # type: ignore[arg-type]
    return execute.execute(Path.cwd(), planned) if run else execute.folder_of(Path.cwd(), planned)


@cli.command()
def execute() -> None:
    """Run the chapters that are not up to date."""
    print(f"The executed chapters are in {folder(run=True).relative_to(Path.cwd())}")


@cli.command()
def site(
    executed: Annotated[Path | None, typer.Option(help="Executed chapters, perhaps from another machine.")] = None,
) -> None:
    """Build and check the site from executed chapters, without running any."""
    from bookpress import build

    print(f"The book is at {build.build(Path.cwd(), executed or folder(run=False))}")


@cli.command()
def book() -> None:
    """Run the chapters that are not up to date, then build and check the site."""
    from bookpress import build

    print(f"The book is at {build.build(Path.cwd(), folder(run=True))}")


@cli.command()
def check() -> None:
    """Check the site as it stands: pages, links, figures, claims, nothing of the network or of this machine."""
    from bookpress import build

    print(build.check_built(Path.cwd()))


@cli.command()
def register() -> None:
    """Run the chapters at the registered setting and write what their checked cells said into notebooks/."""
    from bookpress import strip

    if any(value not in (None, ()) for value in asked.values()):
        raise PressError("register: runs at the registered setting of data/protocol.toml: leave parameters out")
    for line in strip.register(Path.cwd(), folder(run=True)):
        print(line)


@cli.command()
def strip(notebooks: list[Path]) -> None:
    """Bring notebooks into the form in which they are committed."""
    from bookpress import strip as stripping

    for path in notebooks:
        if stripping.strip_file(path):
            print(f"{path}: stripped")


def app() -> None:
    """Run a command; whatever goes wrong is said in short words with an exit code."""
    try:
        cli()
    except PressError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
    except OSError as error:
        print(f"{error.filename}: {why(error)}" if error.filename else why(error), file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == 130:  # typer has swallowed Ctrl-C
            print("\nstopped: what was finished is kept, the same command goes on from there", file=sys.stderr)
        raise
