"""The commands behind ``make``: execute, site, book, check, register, strip."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import click
import typer

from bookpress.files import PressError, why

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, no_args_is_help=True)

Profile = Annotated[str | None, typer.Option(help="Scale of the run, a profile of data/protocol.toml.")]
Dataset = Annotated[str | None, typer.Option(help="A built-in data set, or a folder of pictures by person.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of every random choice.")]
Extractors = Annotated[str | None, typer.Option(help="A folder with other people's extractors.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any other parameter of the chapters, as name=value.")]
Executed = Annotated[Path | None, typer.Option(help="A folder of executed chapters, perhaps from another machine.")]


def execute_chapters(
    profile: Profile = None,
    dataset: Dataset = None,
    seed: Seed = None,
    extractors: Extractors = None,
    other: Set = None,
) -> Path:
    """Run the chapters that are not up to date, and say where they are."""
    from bookpress import chapters, execute

    run = chapters.plan_run(Path.cwd(), profile, dataset, seed, extractors, tuple(other or ()))
    return execute.execute(Path.cwd(), run)


@cli.command()
def execute(
    profile: Profile = None,
    dataset: Dataset = None,
    seed: Seed = None,
    extractors: Extractors = None,
    other: Set = None,
) -> None:
    """Run the chapters that are not up to date."""
    folder = execute_chapters(profile, dataset, seed, extractors, other)
    print(f"The executed chapters are in {folder.relative_to(Path.cwd())}")


@cli.command()
def site(
    profile: Profile = None,
    dataset: Dataset = None,
    seed: Seed = None,
    extractors: Extractors = None,
    other: Set = None,
    executed: Executed = None,
) -> None:
    """Build the site from executed chapters, without running any."""
    from bookpress import build, chapters
    from bookpress import execute as executing

    if executed is None:
        run = chapters.plan_run(Path.cwd(), profile, dataset, seed, extractors, tuple(other or ()))
        executed = executing.folder_of(Path.cwd(), run)
    print(f"The book is at {build.build(Path.cwd(), executed)}")


@cli.command()
def book(
    profile: Profile = None,
    dataset: Dataset = None,
    seed: Seed = None,
    extractors: Extractors = None,
    other: Set = None,
) -> None:
    """Run the chapters that are not up to date, then build and check the site."""
    from bookpress import build

    folder = execute_chapters(profile, dataset, seed, extractors, other)
    print(f"The book is at {build.build(Path.cwd(), folder)}")


@cli.command()
def check() -> None:
    """Check the built site: pages, links, figures, claims, nothing from the network, nothing of this machine."""
    from bookpress import build

    print(build.check_built(Path.cwd()))


@cli.command()
def register() -> None:
    """Run the chapters at the registered setting and write what their checked cells said into ``notebooks``."""
    from bookpress import strip

    for line in strip.register(Path.cwd(), execute_chapters()):
        print(line)


@cli.command()
def strip(notebooks: list[Path]) -> None:
    """Bring notebooks into the form in which they are committed."""
    from bookpress import strip as stripping

    for path in notebooks:
        if stripping.strip_file(path):
            print(f"{path}: stripped")


def app() -> None:
    """Run a command; whatever goes wrong is said in one line with an exit code."""
    try:
        code = cli(standalone_mode=False)
    except PressError as error:
        print(error, file=sys.stderr)
        code = error.code
    except click.ClickException as error:
        print(f"{error.format_message()} (see --help)", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("\nstopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
        code = 130
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"{error.filename or 'a file'}: {why(error)}", file=sys.stderr)
        code = 1
    sys.exit(code)
