"""Sliders that need no kernel: every position is a picture that was measured and drawn; with a kernel, drawn anew."""

from __future__ import annotations

import base64
import html
import io
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from facepoison.canvas import holds_pictures, save
from facepoison.names import titled

WIDGET = "application/vnd.jupyter.widget-view+json"

_SCRIPT = """
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


def show_frames(draw: Callable[[str], tuple[Figure, str]], places: Iterable[str], caption: str, label: str) -> None:
    """Display figures one at a time, chosen by a slider; without scripts all of them stand one below the other.

    Where a kernel is at hand, as in JupyterLab, the slider calls ``draw`` again and shows what it computes then.

    Args:
        draw: Gives for a place the figure, which is closed afterwards, and what it shows, for readers who do not see
            it: at least 20 characters.
        places: What the slider says at its places, in order.
        caption: What to look at, in a sentence or two.
        label: What the slider moves through.

    Raises:
        ValueError: a caption or a text is missing, or there are no places.
    """
    frames = {place: _drawn(draw, place) for place in places}
    if not frames or not caption or any(len(alt) < 20 for _, alt in frames.values()):
        raise ValueError("a slider needs figures, a caption, and for each figure an alternative text of what it shows")
    parts = [
        f'<div class="frame" data-label="{html.escape(titled(place))}">{picture}</div>'
        for place, (picture, _) in frames.items()
    ]
    name = f"frames-{uuid.uuid4().hex[:8]}"
    slider = (
        f'<div class="frames-slider" hidden><label>{html.escape(label)} '
        f'<input type="range" min="0" max="{len(parts) - 1}" value="0" step="1"></label> <output></output></div>'
    )
    whole = (
        f'<figure class="frames" id="{name}">{slider}{"".join(parts)}<figcaption>{html.escape(caption)}</figcaption>'
        f"</figure><script>{_SCRIPT.replace('NAME', name)}</script>"
    )
    plain = "\n".join(f"{place}: {alt}" for place, (_, alt) in frames.items())
    computing = {"version_major": 2, "version_minor": 0, "model_id": live(draw, list(frames), label).model_id}
    data = {"text/html": whole, "text/plain": plain, WIDGET: computing}
    display(data, raw=True, metadata={"frames": {"caption": caption}})  # type: ignore[no-untyped-call]


def live(draw: Callable[[str], tuple[Figure, str]], places: Sequence[str], label: str) -> ipywidgets.VBox:
    """A slider that computes: for each place it is moved to, the figure is drawn anew. Arguments as ``show_frames``."""
    slider = ipywidgets.SelectionSlider(
        options=[(titled(place), place) for place in places],
        description=label,
        readout=False,  # it cuts what does not fit beside the slider
        continuous_update=False,
        layout=ipywidgets.Layout(width="100%"),
    )
    said, frame = ipywidgets.HTML(html.escape(titled(places[0]))), ipywidgets.HTML(_drawn(draw, places[0])[0])

    def turn(change: Mapping[str, str]) -> None:
        frame.value, _ = _drawn(draw, change["new"])
        said.value = html.escape(titled(change["new"]))

    slider.observe(turn, names="value")
    return ipywidgets.VBox([slider, said, frame])


def _drawn(draw: Callable[[str], tuple[Figure, str]], place: str) -> tuple[str, str]:
    """The figure of a place as an HTML image, and what it shows."""
    figure, alt = draw(place)
    pictures = holds_pictures(figure)
    small = io.BytesIO()  # all frames are in the page itself: a palette makes them a quarter of the size
    image = Image.open(io.BytesIO(save(figure, "png", dpi=110)))
    how = Image.Quantize.FASTOCTREE if pictures else Image.Quantize.MEDIANCUT  # the other knows no transparency
    image.convert("RGBA" if pictures else "RGB").quantize(128, how).save(small, "png", optimize=True)
    source = base64.b64encode(small.getvalue()).decode()
    kind = "" if pictures else ' class="lines"'
    return f'<img{kind} alt="{html.escape(alt)}" src="data:image/png;base64,{source}">', alt
