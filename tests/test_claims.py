"""Verdicts from made-up scores, whose right answers are known."""

import numpy as np
import pandas as pd
import pytest

from longrecipe.experiments import figure2, fronts, judging, table1, table2, table3
from longrecipe.experiments.scores import GENERAL

SEEDS = 4


def frame(levels, column="NIAH(M)", noise=0.01, **about):
    """Rows a name and seed: the seeds differ by ten points, the names by their levels."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"name": name, "seed": seed, column: level + 10 * seed + rng.normal(0, noise)} | about
            for name, level in levels.items()
            for seed in range(SEEDS)
        ]
    )


def verdicts(table):
    return dict(zip(table.index, table["verdict"], strict=True))


def test_claims_are_judged_by_the_paired_interval():
    rows = frame({"ours": 50, "same": 50, "less": 40, "more": 51})
    loose = pd.DataFrame([{"name": "loose", "seed": seed, "NIAH(M)": 50 + 10 * (seed % 2)} for seed in range(SEEDS)])
    claimed = [
        ("ours", "less", 0),
        ("ours", "more", 0),
        ("ours", "more", -2),
        ("ours", "loose", 0),
        ("ours", "same", 1),
    ]
    judged = judging.compared(pd.concat([rows, loose]), claimed)
    assert judged["verdict"].tolist() == ["holds", "DOES NOT HOLD", "holds", "not settled", "DOES NOT HOLD"]
    assert judged.index[2] == "NIAH(M): ours >= more - 2"
    assert judged.index[4] == "NIAH(M): ours >= same + 1"


def test_at_most_is_at_least_the_other_way_round():
    assert judging.at_most((15.0, 14.0, 16.9), 17.0) == "holds"
    assert judging.at_most((15.0, 14.0, 17.1), 17.0) == "not settled"
    assert judging.at_most((19.0, 17.1, 21.0), 17.0) == "DOES NOT HOLD"


def test_shares_are_paired_ratios():
    rows = pd.DataFrame({"name": ["a", "b"] * 3, "seed": [0, 0, 1, 1, 2, 2], "x": [3.0, 20, 6, 40, 9, 60]})
    assert judging.share(rows, "a", "b", column="x") == (pytest.approx(15.0),) * 3


def test_what_has_no_two_pairs_is_not_measured():
    rows = pd.DataFrame({"name": ["a", "b"] * 2, "seed": [0, 0, 1, 1], "x": [3.0, 20, np.nan, 40]})
    triple = judging.share(rows, "a", "b", column="x")
    assert np.isnan(triple).all() and judging.at_most(triple, 17) == "not measured"
    assert judging.compared(rows, [("a", "b", 0)], "x")["verdict"].tolist() == ["not measured"]


def test_a_line_has_the_interval_where_there_is_one():
    table = pd.DataFrame(
        {"mean": [1.0, 2.0], "low": [0.5, np.nan], "high": [1.5, np.nan], "verdict": ["holds", "not settled"]},
        index=pd.Index(["a", "b"], name="claim"),
    )
    assert judging.lines(table).splitlines() == ["holds          a: 1.0 [0.5, 1.5]", "not settled    b: 2.0"]


@pytest.fixture
def final():
    """Rows of Table 1 at two targets; the seconds are those of a share of 15 and 18 %."""
    frames = []
    for target, seconds in ((2560, 18.0), (4096, 15.0)):
        levels = {"base": 0.0, "FLT": 50.0, "RPES": 40.0, "PoSE": 51.0, "LongRecipe": 49.0}
        rows = frame(levels, target=target).assign(recall=lambda r: np.where(r["name"] == "base", 1.0, 80.0))
        rows["RULER-like"] = rows["NIAH(M)"]
        rows["stage 1 seconds"] = np.where(rows["name"] == "LongRecipe", seconds, 100.0)
        rows["analysis and stage 1 seconds"] = rows["stage 1 seconds"] * np.where(rows["name"] == "LongRecipe", 2, 1)
        frames.append(rows)
    return pd.concat(frames)


def test_the_claims_of_table_1_are_judged_at_every_target(final):
    found = verdicts(table1.claims(final, {2560: 16.9, 4096: 17.1}))
    for target in (2560, 4096):
        assert found[f"T = {target}: base: recall is 5 % or less"] == "holds"
        assert found[f"T = {target}: NIAH(M): LongRecipe >= FLT - 2"] == "holds"
        assert found[f"T = {target}: NIAH(M): LongRecipe >= PoSE"] == "DOES NOT HOLD"
        assert found[f"T = {target}: RULER-like: LongRecipe >= RPES"] == "holds"
    share, step = "LongRecipe's are 17 % of FLT's or less", "seconds of a step, benchmark: "
    assert found[f"T = 2560: stage 1 seconds: {share}"] == "DOES NOT HOLD"
    assert found[f"T = 4096: stage 1 seconds: {share}"] == "holds"
    assert found[f"T = 4096: analysis and stage 1 seconds: {share}"] == "DOES NOT HOLD"
    assert found[f"T = 2560: {step}{share}"] == "holds"
    assert found[f"T = 4096: {step}{share}"] == "DOES NOT HOLD"
    # Without the benchmark nothing is said of it.
    assert not [claim for claim in table1.claims(final, {}).index if "benchmark" in claim]


def test_what_a_merged_model_keeps_is_judged_by_method_and_score():
    rows = frame({"FLT": 0, "LongRecipe": 0}, stage="merged")
    rows[list(GENERAL)] = [98.0, 97.0, 96.0]
    rows["perplexity kept"] += 0.1 * rows["seed"]
    found = verdicts(table3.claims(pd.concat([rows, rows.assign(stage="extended", **{"perplexity kept": 10})])))
    assert found["LongRecipe: perplexity kept is 97 % or more"] == "holds"
    assert found["FLT: copying kept is 97 % or more"] == "DOES NOT HOLD"
    assert len(found) == 2 * len(GENERAL)


def test_parts_are_judged_together_and_alone():
    levels = {
        "RoPE rule alone": 20,
        "PoSE": 60,
        "LongRecipe": 78,
        "LongRecipe, first tokens": 70,
        "LongRecipe, random sentences": 61,
        "contiguous": 15,
        "contiguous, first tokens": 6,
    }
    found = verdicts(table2.claims(frame(levels)))
    assert found["NIAH(M): LongRecipe >= LongRecipe, random sentences"] == "holds"
    assert found["NIAH(M): contiguous >= contiguous, first tokens"] == "holds"
    assert found["NIAH(M): contiguous, first tokens >= RoPE rule alone"] == "DOES NOT HOLD"
    assert found["NIAH(M): contiguous >= RoPE rule alone"] == "DOES NOT HOLD"
    assert len(found) == 9


@pytest.fixture
def by_ratio():
    """LongRecipe is within two points of FLT's 80 from 20 % on, and best at 30 %."""
    frames = [frame({"FLT": 80}, ratio=1.0), frame({"base": 0, "RoPE rule alone": 20}, ratio=0.3)]
    for ratio, level in ((0.05, 50), (0.1, 70), (0.2, 79), (0.3, 81), (0.4, 79)):
        frames.append(frame({"LongRecipe": level, "contiguous": level - 10 if ratio < 0.4 else level + 1}, ratio=ratio))
    return pd.concat(frames)


def test_ratios_are_judged_against_flt_and_the_control(by_ratio):
    found = verdicts(figure2.claims(by_ratio))
    assert found["NIAH(M): LongRecipe at 10% >= FLT - 2"] == "DOES NOT HOLD"
    assert found["NIAH(M): LongRecipe at 20% >= FLT - 2"] == "holds"
    assert found["NIAH(M): LongRecipe at 5% >= contiguous at 5%"] == "holds"
    assert found["NIAH(M): LongRecipe at 40% >= contiguous at 40%"] == "DOES NOT HOLD"
    assert found["NIAH(M): LongRecipe at 30% >= LongRecipe at 40%"] == "holds"


def test_the_smallest_ratio_is_the_first_that_holds(by_ratio):
    assert figure2.smallest_ratio(by_ratio) == 0.2
    assert figure2.smallest_ratio(by_ratio[~by_ratio["ratio"].isin([0.2, 0.3, 0.4])]) is None


def test_alternatives_of_replay_and_merging_are_judged_long_and_short():
    usual, other = "120 steps, 50% long, KL 4", "120 steps, 50% long, KL 0"
    rows = []
    for replay, rule, weight, long in [
        (usual, "uniform", 0.0, 79),
        (usual, "spare_qk", 0.0, 79),
        (usual, "uniform", 0.5, 60),
        (usual, "spare_qk", 0.5, 75),
        (usual, "spare_qk", 0.25, 78),
        (other, "spare_qk", 0.0, 80),
    ]:
        rows.append(frame({"LongRecipe": long, "PoSE": 0}, replay=replay, rule=rule, weight=weight))
    rows = pd.concat(rows).assign(**{"perplexity kept": lambda r: 100 - r["NIAH(M)"]})
    found = verdicts(fronts.claims(rows))
    assert found["NIAH(M): spare_qk at 0.5 >= uniform at 0.5"] == "holds"
    assert found["perplexity kept: spare_qk at 0.5 >= uniform at 0.5"] == "DOES NOT HOLD"
    assert found[f"NIAH(M): {usual} >= {other}"] == "DOES NOT HOLD"
    assert len(found) == 6
