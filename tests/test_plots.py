from types import SimpleNamespace

import figure_cases
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from longrecipe import plots
from longrecipe.evaluate import Report
from longrecipe.experiments import figure2, fronts, scores, table1, table3, table4
from longrecipe.families import FAMILIES
from longrecipe.positions import METHODS
from longrecipe.results.rows import analysis_rows
from longrecipe.tokens import Kept, Scored, TokenTypes, rank


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def analysis():
    rng = np.random.default_rng(0)
    types = TokenTypes("pos", ("NUM", "NOUN", "INTJ"), lambda ids: np.minimum(ids, 1))
    scored = []
    for key in range(12):
        ids = rng.integers(0, 8, size=200)
        shift = rng.normal(size=199).astype(np.float32) + 3 * (ids[1:] == 0)
        scored.append(Scored(str(key), ids, np.zeros(199, np.float32), shift))
    return rank(scored, types)


def texts(axis):
    return [text.get_text() for text in axis.texts]


def alone(figure):
    """The title of a figure, which its alt text starts with."""
    title = figure.get_suptitle().replace("\n", " ")
    assert figure.get_label().startswith(title)
    return title


def test_passage_colours_tokens_above_the_threshold_and_outlines_numbers():
    pieces = ["The", " sky", " is", "\n", " 42", ".", " 7"]
    shift = np.array([0.0, 1.0, 2.0, 9.0, 5.0, -3.0, 0.0])
    figure = plots.passage(pieces, shift, threshold=1.5, is_number=[False] * 4 + [True, False, True])
    axis = figure.axes[0]
    assert texts(axis) == ["The", " sky", " is", " ", " 42", ".", " 7"]
    boxes = [(box.get_x(), box.get_y(), box.get_width()) for box in axis.patches]
    # " is" on the first line, both numbers on the second, without spaces; a newline is not coloured.
    assert boxes == [(8, 0.08, 2), (1, 1.08, 2), (5, 1.08, 1)]
    assert [box.get_linewidth() > 0 for box in axis.patches] == [False, True, True]
    lighter, deeper, none = (box.get_facecolor() for box in axis.patches)
    assert sum(deeper[:3]) < sum(lighter[:3]) and none[3] == 0
    assert alone(figure) == "1 of 2 numbers, and 43 % of all tokens, shift by 1.5 logits or more"
    assert figure.axes[1].get_xlabel() == "shift of the token, logits"


def test_passage_breaks_lines_and_does_not_parse_formulas():
    figure = plots.passage(["$a", " b$", " word"] * 4, np.zeros(12), threshold=1, is_number=[False] * 12, columns=12)
    places = [text.get_position() for text in figure.axes[0].texts]
    assert max(x for x, _ in places) < 12 and len({y for _, y in places}) > 1
    figure.canvas.draw()


def test_token_shift_shows_frequent_types_and_marks_anchors(analysis):
    figure = plots.token_shift(analysis, ["NUM"])
    left, _ = figure.axes
    figure.canvas.draw()
    assert [label.get_text() for label in left.get_yticklabels()] == ["NUM", "NOUN"]
    blue, grey = (bar.get_facecolor() for bar in left.patches)
    assert blue != grey
    first = analysis.ranking.iloc[0]
    assert alone(figure).startswith(f"Largest lift: NUM ({first['lift']:.1f}). Largest mean shift: NUM (")


def test_position_shares_have_a_panel_for_each_source_or_say_not_measured(analysis):
    tables = analysis_rows({("pos", "all"): analysis}, n_tokens=200)
    run = SimpleNamespace(table=tables.get, params=SimpleNamespace(window=50))
    panels = [
        plots.quoted_shares("quoted", pd.Series({"NUM": 0.4, "NOUN": 0.1}), first=40, last=200, window=50),
        plots.measured_shares("here", analysis, 50, runs=[]),
        plots.measured_shares("kept", None, 50, runs=[run]),
        plots.measured_shares("absent", None, 50, runs=[]),
    ]
    figure = plots.position_shares(panels, ["NUM", "NOUN"])
    axes = figure.axes
    assert alone(figure).startswith("NUM among top tokens beyond the base's window: 40 % (quoted), ")
    assert [axis.get_title() for axis in axes] == ["quoted", "here", "kept", "absent"]
    assert "not measured" in texts(axes[3]) and "not measured" not in texts(axes[0])
    quoted, here, kept = ({line.get_label(): line for line in axis.lines} for axis in axes[:3])
    assert quoted["NUM"].get_ydata().tolist() == [0.4, 0.4]
    assert here["NUM"].get_ydata().mean() > here["NOUN"].get_ydata().mean()
    assert kept["NUM"].get_ydata().mean() == pytest.approx(here["NUM"].get_ydata().mean(), abs=0.02)
    # Dotted: the share of NUM in all tokens, an eighth.
    (dotted,) = [line.get_ydata()[0] for line in axes[2].lines if line.get_linestyle() == ":"]
    assert dotted == pytest.approx(analysis.ranking.set_index("type")["share_of_all"]["NUM"])


def test_selections_show_kept_sentences_and_anchors():
    kept = {
        "anchored": Kept(20, np.array([3, 9, 15]), np.array([2, 14]), np.array([4, 3])),
        "first": Kept(20, np.array([3, 9, 15]), np.array([0]), np.array([7])),
    }
    figure = plots.selections(kept)
    (axis,) = figure.axes
    assert alone(figure) == "Anchors kept: anchored 2 of 3, first 1 of 3"
    assert texts(axis) == [" 2 of 3", " 1 of 3"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["anchored", "first"]
    bars = [[path.get_extents().bounds[::2] for path in bar.get_paths()] for bar in axis.collections]
    assert bars[1] == [(2, 4), (14, 3)] and bars[3] == [(0, 7)]


# positions

TWO = {
    "longrecipe": [np.array([0, 1, 4, 5, 9]), np.array([0, 1, 6, 7, 8])],
    "mine": [np.arange(5), np.arange(5)],
    "flt": [np.arange(10), np.arange(10)],
}


def dots(axis):
    return [line.get_ydata().tolist() for line in axis.lines if line.get_marker() == "."]


def test_placements_show_each_token_at_its_position():
    samples = {"contiguous": np.arange(5), "draw 1": np.array([0, 1, 4, 5, 9])}
    figure = plots.placements([2, 2, 1], samples, 10)
    (axis,) = figure.axes
    places = [(int(text.get_position()[0]), text.get_text()) for text in axis.texts]
    assert places == [(place, str(token)) for row in samples.values() for token, place in enumerate(row)]
    assert alone(figure) == "Segments of 2, 2 and 1 tokens stay whole and in order in 10 positions"


def test_position_maps_have_a_panel_for_each_method():
    samples = {name: [np.arange(60) * k for k in (1, 2)] for name in ("longrecipe", "mine", "flt")}
    figure = plots.position_maps(samples, 200, n_columns=2)
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown] == ["longrecipe", "mine", "flt"]
    for axis in shown:
        assert dots(axis) == [list(range(60)), list(range(0, 120, 2))]
        (inset,) = axis.child_axes
        assert dots(inset) == [list(range(40))], "the first 40 tokens of the first sample"
    short = plots.position_maps({"pose": [np.arange(16)] * 2}, 200)
    assert dots(short.axes[0].child_axes[0]) == [list(range(16))]
    # Each method has its own colour, unknown names too.
    assert len({axis.lines[0].get_color() for axis in shown}) == 3
    figure.canvas.draw()


def test_position_map_shows_covered_distances():
    figure = plots.position_map(TWO["longrecipe"], 10, window=3)
    left, right = figure.axes
    assert dots(left) == [each.tolist() for each in TWO["longrecipe"]]
    assert "base window" in texts(left)
    # Distances 1, 3, 4, 5, 8 and 9 of the first, and 1, 2, 5, 6, 7 and 8 of the second.
    assert alone(figure) == "One sample of 5 tokens shows 66.7 % of all 9 distances (mean of 2)"
    assert right.get_title() == "Pairs by distance; 2 samples show 100.0 %"
    pairs = right.lines[0]
    assert pairs.get_xdata().tolist() == [d + 0.5 for d in range(1, 10)]
    assert pairs.get_ydata()[[0, 8]].tolist() == [(2 + 3) / 2, 0.5]
    assert alone(plots.position_map(TWO["flt"][:1], 10)) == "One sample of 10 tokens shows 100.0 % of all 9 distances"


def test_distances_shows_counts_and_missing_distances():
    figure = plots.distances(TWO, 10)
    left, right = figure.axes
    assert [line.get_label() for line in right.lines] == list(TWO)
    missed = {line.get_label(): line.get_ydata().tolist() for line in right.lines}
    assert missed["longrecipe"] == pytest.approx([3 / 9, 0]) and missed["mine"] == pytest.approx([5 / 9, 5 / 9])
    counts = {line.get_label(): line.get_ydata().tolist() for line in left.lines}
    assert counts["flt"] == list(range(9, 0, -1))
    assert texts(right) == list(TWO) and alone(figure) == "After 2 samples these still miss distances: mine 55.6 %"
    figure.canvas.draw()


def test_figure_3_shows_measured_lines_and_quoted_points():
    measured = pd.DataFrame({"target": [20, 80], "longrecipe": [6.7, 26.5], "cream": [5.0, 20.0]})
    quoted = pd.DataFrame({"target": [20, 80], "longrecipe": [6.6, 26.3]})
    figure = plots.figure_3(measured, quoted)
    (axis,) = figure.axes
    assert alone(figure) == "Largest difference from the paper: longrecipe 1.5 %"
    lines = {line.get_label(): line for line in axis.lines}
    assert set(lines) == {"longrecipe", "cream", "longrecipe, quoted", "T / 3"}
    assert lines["longrecipe"].get_ydata().tolist() == [6.7, 26.5]
    assert lines["longrecipe, quoted"].get_marker() == "x"
    assert lines["longrecipe, quoted"].get_color() == lines["longrecipe"].get_color() != lines["cream"].get_color()


# training


def test_recall_heatmaps_show_multi_key_by_length_and_depth():
    rows = [("multi-key", length, 0, depth, float(depth > 0.5)) for length in (64, 256) for depth in (0.0, 0.3, 0.9)]
    rows += [("multi-key", 256, 1, 0.9, 0.0), ("multi-query", 256, 1, 0.0, 1.0), ("multi-value", 64, 0, np.nan, 1.0)]
    made = Report(pd.DataFrame(rows, columns=["task", "length", "document", "depth", "score"]), {})
    figure = plots.recall_heatmaps({"base": made, "mine": made}, n_depths=3)
    left, right = figure.axes[:2]
    assert [axis.get_title() for axis in (left, right)] == ["base", "mine"]
    assert [label.get_text() for label in left.get_xticklabels()] == ["64", "256"]
    # Rows are thirds of the text, columns are lengths.
    assert texts(left) == texts(right) == ["0.00", "0.00", "1.00", "0.50"]
    figure.canvas.draw()


def test_figures_of_nothing_say_so():
    for figure in (plots.losses({}), plots.token_shift(None, [])):
        assert len(figure.texts) == 1 and figure.get_label().startswith(figure.texts[0].get_text().rstrip("."))


def test_passkeys_are_drawn_by_length():
    def stage(*means):
        cells = {n: {"mean": m, "low": m / 2, "high": (1 + m) / 2} for n, m in zip((2048, 16384), means, strict=True)}
        return {"tasks": {n: {"passkey": each, "multi-key": {}} for n, each in cells.items()}}

    figure = plots.passkeys({"base": stage(1.0, 0.0), "merged": stage(1.0, 0.875)}, window=8192)
    (axis,) = figure.axes
    drawn = {each.get_label(): each.lines[0].get_ydata().tolist() for each in axis.containers}
    assert drawn == {"base": [1.0, 0.0], "merged": [1.0, 0.875]}
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2,048", "16,384"]
    assert "base window" in texts(axis)


# resources


@pytest.fixture(scope="module")
def asked():
    return figure_cases.asked()


def test_memory_bars_end_at_the_peak_and_measured_peaks_are_marked(asked):
    table = table4.memory(asked)
    (axis,) = table4.memory_parts(table, {"80 GB": 85.0}).axes
    assert "no peak was measured on a GPU" in axis.get_xlabel()
    bars = [bar for bar in axis.patches if bar.get_width()]
    ends = [max(b.get_x() + b.get_width() for b in bars if round(b.get_y() + 0.31) == y) for y in range(len(table))]
    assert ends == pytest.approx(table["peak"].tolist())
    assert {f"{table.loc['as set up', 'peak']:.0f} GB", "80 GB"} <= set(texts(axis))
    assert any(text.startswith("up to") for text in texts(axis))
    found = table.assign(**{"measured, one batch": [70.0] + ["not measured"] * (len(table) - 1)})
    (axis,) = table4.memory_parts(found, {"80 GB": 85.0}).axes
    assert "one batch, measured" in axis.get_xlabel()
    assert [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "x"] == [70.0]


def test_cost_by_length_and_flop_parts_match_their_table(asked):
    table = table4.by_length(asked)
    figure = table4.cost_by_length(table, {"llama3": table}, 131072, gpu=asked.gpu)
    flops, hours, ratio = figure.axes
    assert texts(flops) == ["FLT", "30%"]
    assert flops.lines[0].get_ydata().tolist() == table[table["sample"] == "FLT"]["PFLOP"].tolist()
    assert "one day" in texts(hours) and texts(ratio) == ["30%: linear layers alone", "9%: attention alone", "llama3"]
    assert [label.get_text() for label in ratio.get_xticklabels()][:2] == ["8k", "32k"]
    (axis,) = table4.flop_parts(table).axes
    # At 128k a short sample takes 15 % of the FLOPs of a whole one, which is at 100.
    assert texts(axis)[4] == "15%" and max(b.get_y() + b.get_height() for b in axis.patches) == pytest.approx(100)


def test_longest_samples_say_what_does_not_fit(asked):
    table = table4.longest(asked)
    (axis,) = table4.longest_samples(table, asked.target_length, asked.short).axes
    assert texts(axis).count("does not fit") == 3
    assert "LongRecipe: 39,321" in texts(axis) and "FLT: 131,072" in texts(axis)
    assert [label.get_text() for label in axis.get_yticklabels()][:2] == ["llama3", "llama3"]


def test_step_times_are_next_to_the_model_or_say_not_measured():
    steps = pd.DataFrame(
        [("FLT", 256, 256, 2.0, 1.5, 10.0), ("LongRecipe", 256, 76, 0.5, 0.3, 2.0)],
        columns=["method", "target", "n", "measured", "modelled", "GFLOP"],
    )
    left, right = table4.step_times(steps, table4.mini_ratios(steps)).axes
    assert [line.get_ydata()[0] for line in left.lines] == [2.0, 1.5, 0.5, 0.3]
    assert [line.get_linestyle() for line in left.lines] == ["-", "--"] * 2 and texts(left) == ["FLT", "LongRecipe"]
    # Percent of FLT's: measured, by the time model and by FLOPs.
    assert [line.get_ydata()[0] for line in right.lines] == pytest.approx([25, 20, 20])
    none = table4.mini_steps(None)
    for axis in table4.step_times(none, table4.mini_ratios(none)).axes:
        assert texts(axis) == ["not measured"]


# colours

OPTIONS = ("pose:n_chunks=4", "pose:n_chunks=8", "longrecipe:max_gap=64", "longrecipe:max_gap=0", "cream:sigma=0.5")


def table_names():
    """The names of all methods in tables, with options and selections."""
    base = [scores.NAMES.get(name, name) for name in (*METHODS, *OPTIONS)]
    return [*base, *("LongRecipe" + more for more in scores.SELECTED.values() if more), "base", "stratified, random"]


@pytest.mark.parametrize("names", [[*METHODS, *OPTIONS], table_names()], ids=["methods", "names in tables"])
def test_every_name_has_its_own_colour_and_marker(names):
    found = {name: (plots.colour(name), plots.marker(name)) for name in [*names, "a name nobody knows", "another", ""]}
    assert len(set(found.values())) == len(found)
    assert all(matplotlib.colors.is_color_like(colour) for colour, _ in found.values())
    assert found["longrecipe" if "longrecipe" in found else "LongRecipe"] == ("#0072B2", "o")


def test_known_names_have_colours_of_the_palette():
    stages = ("base", "H'", "extended", "replayed", "merged", "contiguous", "paper's setting")
    assert {plots.colour(name) for name in (*METHODS, *FAMILIES, *stages)} <= set(plots.PALETTE.values())


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_the_colour_of_their_record_by_name_and_title(name):
    assert plots.colour(name) == plots.colour(METHODS[name].title) == METHODS[name].colour
    assert plots.marker(name) == plots.marker(METHODS[name].title) == METHODS[name].marker


def test_colours_of_names_are_the_same_in_every_process():
    assert plots.colour("pose:n_chunks=4") == "#2187D2" and plots.colour("another") == "#1A0AD0"


def scored(names, columns=("NIAH(M)", "seconds")):
    """A table of `over_seeds`, one row per name."""
    columns = pd.MultiIndex.from_product([columns, ["mean", "low", "high"]])
    return pd.DataFrame([[50.0 + i, 48.0 + i, 52.0 + i] * 2 for i in range(len(names))], index=names, columns=columns)


def test_figures_of_methods_accept_every_name():
    names = [*table_names(), "a name that nobody knows"]
    table = scored(names)
    quoted = {"ours": pd.Series({"PoSE": 40.0})}
    (axis,) = table1.figure({"ours": table}, quoted).axes
    assert sorted(label.get_text() for label in axis.get_yticklabels()) == sorted(names)
    figure2.cost_figure(table, {"LongRecipe": scored([0.1, 0.3]), "pose:n_chunks=4": scored([0.1, 0.3])}, "seconds")
    ratios = pd.DataFrame({"ratio_percent": [30], "niah_m": [80], "ruler": [70], "longbench": [30]})
    figure2.figure({name: scored([0.1, 0.3]) for name in names}, ratios)
    kept = pd.concat(dict.fromkeys(table3.COLUMNS, table["NIAH(M)"]), axis="columns")
    stages = pd.concat(dict.fromkeys(("extended", "merged", "a stage of mine"), kept)).swaplevel()
    table3.figure(stages)
    rows = [(name, "usual", rule, w, 1.0, 2.0) for name in names for rule in ("uniform", "spare_qk") for w in (0, 0.5)]
    fronts.figure(pd.DataFrame(rows, columns=["name", "replay", "rule", "weight", "perplexity kept", "NIAH(M)"]))
    steps = pd.DataFrame(
        [(name, 256, 76, 0.5, 0.3, 2.0) for name in names],
        columns=["method", "target", "n", "measured", "modelled", "GFLOP"],
    )
    table4.step_times(steps, table4.mini_ratios(steps))


def test_figures_of_stages_accept_every_name():
    spread = {"mean": 0.5, "low": 0.4, "high": 0.6, "prompts": 8}
    stage = {"tasks": {n: {"passkey": spread, "multi-key": spread} for n in (256, 1024)}, "perplexity": 20.0}
    stage |= {name: {256: spread, 1024: spread} for name in ("recall", "niah_m")}
    numbers = dict.fromkeys(("base", "probe", "a stage of mine"), stage)
    assert len(plots.retention(numbers).axes) == 4
    (axis,) = plots.passkeys(numbers, 256).axes
    assert len({each.lines[0].get_color() for each in axis.containers}) == 3
