"""Studies of how extractors are trained."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from facepoison import shipped, timeline
from facepoison.extractors.cards import read_card
from facepoison.extractors.catalog import find_entry
from facepoison.extractors.recipes import find_recipe
from facepoison.extractors.train import train
from studies.common import Run, script, write

TESTED: tuple[Literal["rank_1", "tar"], ...] = ("rank_1", "tar")


def precision(run: Run) -> None:
    """Own extractors trained in float32 beside what training them in bfloat16 gave: ``precision.json``."""
    asked, began = run.setting.protocol["precision"], shipped.begin()
    rows: list[dict[str, Any]] = []
    measure = partial(timeline.measure_unseen, run.setting)
    for name in asked["extractors"]:
        recipe = replace(find_recipe(name), bfloat16=False)
        card = train(recipe, run.scratch / "precision", run.scratch, measure, report=run.say)
        for how, each in (("bfloat16", read_card(find_entry(name))), ("float32", card)):
            rates = {what: timeline.tested(each, what) for what in TESTED}
            rows.append({"extractor": name, "precision": how} | rates)
    write(run, "precision", rows, asked, began)


if __name__ == "__main__":
    sys.exit(script(__doc__, [precision]))
