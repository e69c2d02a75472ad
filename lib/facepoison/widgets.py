"""Sliders that need no kernel: every position is a picture that was measured and drawn beforehand."""

from __future__ import annotations

import base64
import html
import io
import uuid
from collections.abc import Mapping, Sequence

from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from facepoison.figures import save

SCRIPT = """
(() => {
  const box = document.getElementById("NAME");
  const frames = [...box.querySelectorAll(".frame")];
  const slider = box.querySelector("input");
  const said = box.querySelector("output");
  const turn = () => {
    frames.forEach((frame, place) => { frame.hidden = place !== Number(slider.value); });
    said.textContent = frames[slider.value].dataset.label;
    slider.setAttribute("aria-valuetext", said.textContent);
  };
  box.querySelector(".frames-slider").hidden = false;
  slider.addEventListener("input", turn);
  turn();
})();
"""


def show_frames(frames: Mapping[str, Figure], caption: str, alts: Sequence[str], label: str) -> None:
    """Display figures one at a time, chosen by a slider; without scripts all of them stand one below the other.

    Args:
        frames: The figures by what the slider says at their place; they are closed afterwards.
        caption: What to look at, in a sentence or two.
        alts: For each figure what it shows, for readers who do not see it: at least 20 characters.
        label: What the slider moves through.

    Raises:
        ValueError: a caption or an alternative text is missing, or there are no figures.
    """
    if not frames or not caption or len(alts) != len(frames) or any(len(alt) < 20 for alt in alts):
        raise ValueError("a slider needs figures, a caption, and for each figure an alternative text of what it shows")
    parts = []
    for (name, figure), alt in zip(frames.items(), alts, strict=True):
        small = io.BytesIO()  # all frames are in the page itself: a palette makes them a quarter of the size
        Image.open(io.BytesIO(save(figure, "png", dpi=110))).convert("RGB").quantize(128).save(
            small, "png", optimize=True
        )
        source = base64.b64encode(small.getvalue()).decode()
        image = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{source}">'
        parts.append(f'<div class="frame" data-label="{html.escape(name)}">{image}</div>')
    name = f"frames-{uuid.uuid4().hex[:8]}"
    slider = (
        f'<div class="frames-slider" hidden><label>{html.escape(label)} '
        f'<input type="range" min="0" max="{len(parts) - 1}" value="0" step="1"></label> <output></output></div>'
    )
    whole = (
        f'<figure class="frames" id="{name}">{slider}{"".join(parts)}<figcaption>{html.escape(caption)}</figcaption>'
        f"</figure><script>{SCRIPT.replace('NAME', name)}</script>"
    )
    plain = "\n".join(f"{name}: {alt}" for name, alt in zip(frames, alts, strict=True))
    data = {"text/html": whole, "text/plain": plain}
    display(data, raw=True, metadata={"frames": {"caption": caption}})  # type: ignore[no-untyped-call]
