import base64
import csv
import html
import io
from dataclasses import dataclass

import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image

from facepoison import canvas, cells, figures, widgets
from facepoison.evaluation import Answers, Estimate, Protection, Rate

SPACE = "\N{NO-BREAK SPACE}"


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    for room in (canvas, figures):
        monkeypatch.setattr(room, "display", lambda data, **rest: shown.append((data, rest["metadata"])))
    return shown


@pytest.fixture
def drawn(monkeypatch):
    kept = []
    monkeypatch.setattr(figures, "show", lambda figure, *words: kept.append(figure))
    return kept


def rising_line():
    figure, (axes,) = figures.new_figure()
    axes.plot([0, 1])
    return figure


def test_a_figure_of_lines_comes_as_svg_with_caption_alternative_text_and_numbers(displayed):
    words = {"caption": "A line.", "alt": "A line that rises from nought to one."}
    figures.show(rising_line(), **words)
    figures.show(rising_line(), **words, numbers=[("x", "y"), (0, 1 / 3), ("a,b", None)])
    (first, plain), (second, numbered) = displayed
    assert "<svg" in first["image/svg+xml"]
    assert first == second  # the same data give the same file
    assert plain["figure"] == words
    assert numbered["figure"] == words | {"csv": 'x,y\n0,0.333333\n"a,b",\n'}


def test_a_figure_of_pixels_comes_as_png(displayed):
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    figures.show_pictures(pixels, "Two.", "Two black squares side by side.")
    assert "image/svg+xml" not in displayed[0][0]
    picture = Image.open(io.BytesIO(displayed[0][0]["image/png"]))
    alphas = picture.getchannel("A")
    assert picture.format == "PNG"
    assert alphas.getpixel((0, 0)) == 0  # so that the page shows around the squares, dark or white
    assert alphas.getpixel((picture.width // 4, picture.height // 2)) == 255
    assert picture.getpixel((picture.width // 4, picture.height // 2))[:3] == (0, 0, 0)


def test_lines_stand_on_white_and_are_as_wide_as_a_phone_can_show():
    figure = rising_line()
    assert figure.get_figwidth() == canvas.WIDTH
    assert Image.open(io.BytesIO(canvas.save(figure, "png"))).convert("RGBA").getpixel((0, 0)) == (255,) * 4


def test_a_sheet_says_what_its_columns_and_rows_are(drawn):
    pixels = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    figures.show_pictures(pixels, "c", "a", columns=3, labels=["LowKey", "Fawkes"], heads=["before", "after", "change"])
    (axes,) = drawn[0].axes
    height, width, _ = axes.images[0].get_array().shape
    assert [label.get_text() for label in axes.get_xticklabels()] == ["before", "after", "change"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["LowKey", "Fawkes"]
    assert axes.get_xticks().tolist() == pytest.approx([width / 6, width / 2, 5 * width / 6])
    assert axes.get_yticks().tolist() == pytest.approx([height / 4, 3 * height / 4])
    assert axes.xaxis.get_ticks_position() == "top"


@pytest.mark.parametrize(("caption", "alt"), [("", "A line that rises from nought to one."), ("A line.", "line")])
def test_a_figure_without_words_is_refused(displayed, caption, alt):
    figure, _ = figures.new_figure()
    with pytest.raises(ValueError, match="caption and an alternative text"):
        figures.show(figure, caption, alt)
    assert not displayed


def test_difference_is_grey_where_nothing_changed_and_enlarged_where_something_did():
    before = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    after = before.clone()
    after[0, 0, 0, 0], after[0, 0, 0, 1], after[0, 0, 0, 2] = 110, 90, 255
    row = figures.enlarged_difference(before, after)[0, 0, 0].tolist()
    assert row == [188, 68, 255, 128]
    assert figures.side_by_side(before, after).shape == (3, 3, 4, 4)


def test_a_table_escapes_its_cells(displayed):
    figures.show_table(["name", "value"], [("<b>", 1)], caption="a & b")
    data, metadata = displayed[0]
    assert "&lt;b&gt;" in data["text/html"]
    assert "<caption>a &amp; b</caption>" in data["text/html"]
    assert data["text/plain"] == "name | value\n<b> | 1"
    assert metadata == {"table": {"caption": "a & b"}}


def test_a_table_shows_extractors_by_their_titles_and_keeps_their_names(displayed):
    figures.show_table(["extractor", "dlib_2017"], [("arcface_2019", "arcface")], caption="c")
    data, _ = displayed[0]
    assert f'<th scope="col" title="dlib_2017">dlib{SPACE}&#x27;17</th>' in data["text/html"]
    assert f'<th scope="row" title="arcface_2019">ArcFace{SPACE}&#x27;19</th><td>arcface</td>' in data["text/html"]
    assert data["text/plain"] == "extractor | dlib_2017\narcface_2019 | arcface"


def test_rates_are_shown_with_their_interval():
    rate = Rate(0.5, 20, 120, 0.25, 0.75)
    assert cells.percent(rate) == "50\N{NO-BREAK SPACE}[25,\N{NO-BREAK SPACE}75]"
    assert cells.in_words({"a": rate}) == "a 50 %."


def test_presets_side_by_side_have_a_dash_where_a_field_is_missing():
    @dataclass(frozen=True)
    class One:
        name: str = "one"
        steps: int = 50

    @dataclass(frozen=True)
    class Two:
        name: str = "two"
        limit: float = 15 / 255

    assert cells.field_rows(One(), Two()) == [("name", "one", "two"), ("steps", "50", "–"), ("limit", "–", "0.05882")]


def outcome(value=0.5):
    rows = torch.tensor([0, 0, 1, 1])
    answers = Answers(rows, rows, rows, torch.tensor([[0], [1], [1], [0]]), torch.zeros(4, 1))
    result = Protection(answers, answers)
    vars(result)["rate"] = Rate(value, 2, 4, 0.1, 0.9, Rate(0.0, 2, 4, 0.0, 0.8))
    return result


def test_protection_rows_begin_with_their_key(displayed):
    rows = cells.protection_rows({("LowKey", "1-NN"): outcome()})
    assert rows == [("LowKey", "1-NN", "50\N{NO-BREAK SPACE}[10,\N{NO-BREAK SPACE}90]", rows[0][3], 2, 4)]


@pytest.mark.parametrize(
    "draw",
    [
        lambda **words: figures.show_protection({"LowKey": outcome(), "Fawkes": outcome(0.2)}, **words),
        lambda **words: figures.show_tradeoff({"LowKey": (30.0, outcome().rate)}, **words),
        lambda **words: figures.show_rates({"LowKey": outcome().rate}, label="error", **words),
        lambda **words: figures.show_series(["0", "1"], {"LowKey": [outcome().rate] * 2}, along="leaks", **words),
        lambda **words: figures.show_cosines(torch.linspace(0, 1, 9), torch.linspace(-1, 0, 9), **words),
        lambda **words: figures.show_curves({"a": {"step": [1, 2], "accuracy": [0.1, 0.9]}}, **words),
    ],
)
def test_every_kind_of_figure_is_drawn(displayed, draw):
    draw(caption="A caption.", alt="A figure with a few points in it.")
    data, metadata = displayed[0]
    assert "<svg" in data["image/svg+xml"]
    header, *rows = csv.reader(io.StringIO(metadata["figure"]["csv"]))
    assert rows
    assert all(len(row) <= len(header) for row in rows)


def values(line):
    return line.get_xydata().tolist()


@pytest.mark.parametrize("joined", [True, False])
def test_open_marks_stand_where_the_trainer_runs_a_surrogate(drawn, joined):
    lines = {"LowKey": [outcome().rate] * 2}
    figures.show_series(["a", "b"], lines, "c", "a", along="x", hollow={"LowKey": {"b"}}, joined=joined)
    marks = [line for line in drawn[0].axes[0].lines if line.get_marker() == "o"]
    assert [mark.get_markerfacecolor() == "white" for mark in marks] == [False, True]
    assert [values(mark) for mark in marks] == ([[[0, 50]], [[1, 50]]] if joined else [[[50, 0]], [[50, 1]]])


def test_every_line_has_a_plot_of_its_own_and_only_amounts_are_joined(drawn):
    lines = {"LowKey": [outcome().rate, outcome(0.2).rate], "on arcface_2019": [outcome(0.1).rate] * 2}
    figures.show_series(["1", "2"], lines, "c", "a", along="poisons")
    figures.show_series(["dlib_2017", "deepid_2014"], lines, "c", "a", along="extractor", joined=False)
    joined, apart = ([axes for axes in figure.axes if axes.axison] for figure in drawn)
    assert (
        [axes.get_title() for axes in joined]
        == [axes.get_title() for axes in apart]
        == ["LowKey", f"on ArcFace{SPACE}'19"]
    )
    colours = [[line.get_color() for line in axes.lines if line.get_linestyle() == "-"] for axes in joined]
    assert colours == [[figures.GREY, figures.GREY, figures.BLUE]] * 2
    assert values(joined[0].lines[-3]) == [[0, 50], [1, 20]]
    assert not [line for axes in apart for line in axes.lines if len(line.get_xdata()) > 1 and line.get_marker() != "|"]
    assert [label.get_text() for label in apart[0].get_yticklabels()] == [f"dlib{SPACE}'17", f"DeepID{SPACE}'14"]


@pytest.mark.parametrize(("joined", "mark"), [(True, "_"), (False, "|")])
def test_the_clean_error_is_a_grey_mark_beside_each_rate_that_has_one(drawn, joined, mark):
    lines = {"LowKey": [outcome().rate, Rate(0.5, 2, 4, 0.1, 0.9)]}
    figures.show_series(["a", "b"], lines, "c", "a", along="x", joined=joined)
    (clean,) = (line for line in drawn[0].axes[0].lines if line.get_marker() == mark)
    drawn_at = (clean.get_ydata() if joined else clean.get_xdata()).tolist()
    assert drawn_at[0] == 0
    assert drawn_at[1] != drawn_at[1]  # nothing to draw
    assert clean.get_color() == figures.GREY
    assert [text.get_text() for legend in drawn[0].legends for text in legend.get_texts()] == ["clean error"]


@pytest.mark.parametrize("pixels", [None, torch.zeros(3, 3, 8, 8, dtype=torch.uint8)])
def test_answers_say_named_or_missed(pixels):
    figure = figures.draw_answers({"LowKey": [True, False, False]}, pixels)
    assert [text.get_text() for text in figure.axes[0].texts] == ["named", "missed", "missed"]
    assert len(figure.axes[0].images) == (0 if pixels is None else 3)


@pytest.mark.parametrize("made", [True, False])
def test_a_real_persons_poison_is_shown_as_answers_only(made):
    before, after = torch.zeros(2, 1, 3, 8, 8, dtype=torch.uint8)
    figure = figures.draw_poison(before, after, {"probes": [True, False]}, made=made)
    assert sum(len(axes.images) for axes in figure.axes) == made
    assert [text.get_text() for text in figure.axes[-1].texts] == ["named", "missed"]
    heads = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert heads == (["before", "after", "difference × 6"] if made else [])


def test_a_slider_holds_a_frame_for_each_place_and_words_for_all(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda data, **rest: shown.append((data, rest["metadata"])))

    def draw(name):
        return figures.new_figure()[0], f"A frame of the year {name}."

    widgets.show_frames(draw, ["2014", "<2015>"], "A caption.", "Year")
    data, metadata = shown[0]
    page = BeautifulSoup(data["text/html"], "html.parser")
    assert [frame["data-label"] for frame in page.select("figure .frame")] == ["2014", "<2015>"]
    assert [image["alt"] for image in page.select("figure img")] == [draw("2014")[1], draw("<2015>")[1]]
    assert [image["class"] for image in page.select("figure img")] == [["lines"]] * 2
    assert page.select_one("input")["max"] == "1"
    assert page.figcaption.get_text() == "A caption."
    assert metadata == {"frames": {"caption": "A caption."}}
    assert data[widgets.WIDGET]["model_id"]
    with pytest.raises(ValueError, match="a slider needs"):
        widgets.show_frames(lambda name: (figures.new_figure()[0], "short"), ["2014"], "A caption.", "Year")
    with pytest.raises(ValueError, match="a slider needs"):
        widgets.show_frames(draw, [], "A caption.", "Year")


def test_a_slider_with_a_kernel_draws_anew():
    asked = []

    def draw(name):
        asked.append(name)
        return rising_line(), f"What there is to see at {name}."

    slider, said, frame = widgets.live(draw, ["a", "b < c"], "Place").children
    assert 'alt="What there is to see at a."' in frame.value
    assert said.value == "a"
    slider.value = "b < c"
    assert asked == ["a", "b < c"]
    assert 'alt="What there is to see at b &lt; c."' in frame.value
    assert said.value == "b &lt; c"  # beside the slider it would be cut


@pytest.mark.parametrize(("value", "said"), [(0.031, "+3"), (-0.002, "0"), (0.004, "0"), (-0.1, "-10")])
def test_points_have_a_sign_unless_there_are_none(value, said):
    assert (
        cells.percentage_points(Estimate(value, 4, -0.2, 0.2)) == f"{said}\N{NO-BREAK SPACE}[-20,\N{NO-BREAK SPACE}+20]"
    )


def test_a_slider_calls_extractors_by_their_titles_and_leaves_portraits_on_nothing():
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)

    def draw(name):
        return figures.draw_answers({name: [True, False]}, pixels), "Two black squares and two answers."

    slider, said, frame = widgets.live(draw, ["dlib_2017", "arcface_2019"], "Year").children
    assert html.unescape(said.value) == f"dlib{SPACE}'17"
    slider.value = "arcface_2019"
    assert html.unescape(said.value) == f"ArcFace{SPACE}'19"
    picture = BeautifulSoup(frame.value, "html.parser").img
    assert "class" not in picture.attrs
    pixel = Image.open(io.BytesIO(base64.b64decode(picture["src"].partition(",")[2]))).convert("RGBA").getpixel((0, 0))
    assert pixel[3] == 0


CURVES = {"easy": [(0.0, 0.5), (0.01, 0.99), (1.0, 1.0)], "hard": [(0.01, 0.1), (0.0, 0.0), (1.0, 1.0)]}


def test_detectors_are_drawn_twice_with_their_points_and_numbers(displayed):
    figures.show_detection(CURVES, "Two detectors.", "Two curves, one above the other.")
    data, metadata = displayed[0]
    assert "<svg" in data["image/svg+xml"]
    rows = list(csv.reader(io.StringIO(metadata["figure"]["csv"])))
    assert rows[:3] == [["", "clean_flagged", "poisoned_found"], ["easy", "0", "0.5"], ["easy", "0.01", "0.99"]]
    assert rows[4] == ["hard", "0", "0"]


def test_a_marked_threshold_lies_where_it_should_on_both_scales():
    figure = figures.draw_detection(CURVES, {"easy": (0.01, 0.99), "hard": (0.01, 0.1)})
    roc, det = figure.axes
    assert [line.get_xydata().tolist() for line in roc.lines if line.get_marker() == "o"] == [[[0.01, 99.0]]]
    (mark,) = (line.get_xydata()[0] for line in det.lines if line.get_marker() == "o")
    assert mark.tolist() == pytest.approx([-2.3263, -2.3263], abs=1e-4)


def test_rows_of_detectors_hold_what_was_found_and_the_false_alarms():
    row = {"found": Rate(0.5, 4, 8, 0.25, 0.75), "false_alarms": Rate(0.001, 4, 8, 0.0, 0.0125)}
    (row_of,) = cells.transformed_rows({("net", "JPEG 75"): {"a": row, "b": row}}, ["a", "b"])
    assert [str(cell).replace("\N{NO-BREAK SPACE}", " ") for cell in row_of] == [
        "net",
        "JPEG 75",
        "50 [25, 75]",
        "50 [25, 75]",
        "0.1 [0.0, 1.2]",
    ]


def test_rows_of_what_trainers_do_and_of_the_reply_are_in_the_order_of_their_tables():
    rate = Rate(0.5, 4, 8, 0.25, 0.75, Rate(0.0, 4, 8, 0.0, 0.5))
    row = {"attack": "a", "policy": "drop", "leak": "nothing leaked", "protection": rate}
    (row_of,) = cells.quarantine_rows([row | {"paid": Estimate(0.01, 4, -0.5, 0.5)}], str.upper)
    assert row_of[:3] == ("A", "drop", "nothing leaked")
    assert [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row_of[3:]] == [
        "50 [25, 75]",
        "0 [0, 50]",
        "+1 [-50, +50]",
    ]
    reply = {"posted": "x", "detector": "net", "found": rate, "false_alarms": rate, "protection": rate, "psnr": 30.04}
    (row_of,) = cells.reply_rows([reply], {"x": "LowKey"})
    assert (row_of[0], row_of[1], row_of[-1]) == ("LowKey", "net", "30.0")
