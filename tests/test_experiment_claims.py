"""Claims of the experiments, judged on made-up scores whose right answers are known."""

import numpy as np
import pandas as pd
import pytest

from longrecipe.claims import FAILS, HOLDS, NOT_MEASURED, OPEN, at_most
from longrecipe.experiments import figure2, fronts, judging, rates, table1, table2, table3, weights
from longrecipe.experiments.scores import GENERAL

SEEDS = 4
SHARE = "at most 17 % of FLT's seconds"


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


def verdicts(claims):
    return {claim.text: claim.verdict for claim in claims}


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
    assert verdicts(judging.compared(pd.concat([rows, loose]), claimed)) == {
        "NIAH(M): ours is at least as good as less": HOLDS,
        "NIAH(M): ours is at least as good as more": FAILS,
        "NIAH(M): ours is at most 2 points below more": HOLDS,
        "NIAH(M): ours is at least as good as loose": OPEN,
        "NIAH(M): ours is at least 1 points above same": FAILS,
    }


def test_a_compared_claim_has_its_difference_in_words():
    rows = frame({"ours": 50, "more": 51})
    (claim,) = judging.compared(rows, [("ours", "more", -2)], where=" at T = 64", main=False)
    assert claim.text == "NIAH(M) at T = 64: ours is at most 2 points below more" and not claim.main
    assert claim.found == "1.0 points below more, within the margin of 2" and claim.interval == "[1.0, 1.0]"


def test_shares_are_paired_ratios():
    rows = pd.DataFrame({"name": ["a", "b"] * 3, "seed": [0, 0, 1, 1, 2, 2], "x": [3.0, 20, 6, 40, 9, 60]})
    assert judging.share(rows, "a", "b", column="x") == (pytest.approx(15.0),) * 3


def test_fewer_than_two_pairs_are_not_measured():
    rows = pd.DataFrame({"name": ["a", "b"] * 2, "seed": [0, 0, 1, 1], "x": [3.0, 20, np.nan, 40]})
    triple = judging.share(rows, "a", "b", column="x")
    assert np.isnan(triple).all() and at_most(triple, 17) == NOT_MEASURED
    claims = [*judging.compared(rows, [("a", "b", 0)], "x"), judging.level("a share", triple, at_most(triple, 17))]
    assert {(claim.verdict, claim.found, claim.interval) for claim in claims} == {(NOT_MEASURED, "", "")}


def test_a_level_has_its_unit_and_interval():
    claim = judging.level("a level", (1.0, 0.5, 1.5), HOLDS)
    assert (claim.found, claim.interval) == ("1.0 %", "[0.5, 1.5]")


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
    claims = table1.claims(final, {2560: 16.9, 4096: 17.1})
    found = verdicts(claims)
    for target in (2560, 4096):
        assert found[f"recall at T = {target}: the base, untrained, has at most 5 %"] == HOLDS
        assert found[f"NIAH(M) at T = {target}: LongRecipe is at most 2 points below FLT"] == HOLDS
        assert found[f"NIAH(M) at T = {target}: LongRecipe is at least as good as PoSE"] == FAILS
        assert found[f"RULER-like at T = {target}: LongRecipe is at least as good as RPES"] == HOLDS
        assert found[f"token analysis and stage 1 at T = {target}: LongRecipe takes {SHARE}"] == FAILS
    assert found[f"training step at T = 2560: LongRecipe takes {SHARE}"] == HOLDS
    assert found[f"training step at T = 4096: LongRecipe takes {SHARE}"] == FAILS
    assert {claim.text.split(":")[0] for claim in claims if claim.main} == {
        "NIAH(M) at T = 4096",
        "training step at T = 4096",
        "token analysis and stage 1 at T = 4096",
    }


def test_without_a_benchmark_no_claim_is_made_about_a_step(final):
    assert not [claim for claim in table1.claims(final, {}) if "step" in claim.text]


def test_the_analysis_counts_as_part_of_stage_1(final):
    cheap = final.assign(**{"analysis and stage 1 seconds": final["stage 1 seconds"]})
    found = verdicts(table1.claims(cheap, {}))
    assert found[f"token analysis and stage 1 at T = 2560: LongRecipe takes {SHARE}"] == FAILS
    assert found[f"token analysis and stage 1 at T = 4096: LongRecipe takes {SHARE}"] == HOLDS


def test_stages_are_judged_by_what_they_cost_and_keep():
    stages = []
    for stage, kept in (("extended", 80.0), ("replayed", 95.0), ("merged", 98.0)):
        rows = frame({"FLT": 0, "LongRecipe": 0}, stage=stage)
        rows[list(GENERAL)] = [kept, 97.0, kept - 2]
        rows["perplexity kept"] += 0.1 * rows["seed"]
        stages.append(rows)
    claims = table3.claims(pd.concat(stages))
    found = verdicts(claims)
    assert found["perplexity kept: LongRecipe after extension has less than 100 %"] == HOLDS
    assert found["copying kept: LongRecipe after replay is at least as good as LongRecipe after extension"] == HOLDS
    assert found["perplexity kept: LongRecipe after merging has at least 97 %"] == HOLDS
    assert found["copying kept: FLT after merging has at least 97 %"] == FAILS
    assert len(found) == len(claims) == 4 * len(GENERAL)
    assert {claim.text.split(":")[0] for claim in claims if claim.main} == {"perplexity kept"}


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
    assert found["NIAH(M): LongRecipe is at least as good as LongRecipe, random sentences"] == HOLDS
    assert found["NIAH(M): contiguous is at least as good as contiguous, first tokens"] == HOLDS
    assert found["NIAH(M): contiguous, first tokens is at least as good as RoPE rule alone"] == FAILS
    assert found["NIAH(M): contiguous is at least as good as RoPE rule alone"] == FAILS
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
    assert found["NIAH(M): LongRecipe at 10 % is at most 2 points below FLT"] == FAILS
    assert found["NIAH(M): LongRecipe at 20 % is at most 2 points below FLT"] == HOLDS
    assert found["NIAH(M): LongRecipe at 5 % is at least as good as contiguous at 5 %"] == HOLDS
    assert found["NIAH(M): LongRecipe at 40 % is at least as good as contiguous at 40 %"] == FAILS
    assert found["NIAH(M): LongRecipe at 30 % is at least as good as LongRecipe at 40 %"] == HOLDS


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
    claims = fronts.claims(rows)
    found = verdicts(claims)
    assert found["NIAH(M): uniform merge at 0.5 is at least as good as the replayed model"] == FAILS
    assert found["perplexity kept: uniform merge at 0.5 is at least as good as the replayed model"] == HOLDS
    assert found["NIAH(M): spare_qk merge at 0.5 is at least as good as uniform merge at 0.5"] == HOLDS
    assert found["perplexity kept: spare_qk merge at 0.5 is at least as good as uniform merge at 0.5"] == FAILS
    assert found["NIAH(M): the default replay is at least as good as replay with KL 0"] == FAILS
    assert len(found) == 8 and [claim.main for claim in claims] == [True] * 6 + [False] * 2


def test_seconds_of_flt_are_scaled_from_its_few_steps_by_seed():
    # 6 of FLT's 40 steps of stage 1, and 6 of its 60 long steps of replay. Each of the other 88 takes 10 or 20 seconds.
    few = [(weights.FEW_PLAIN, 0, 60.0, 120.0), (weights.FEW_PLAIN, 1, 120.0, 240.0)]
    ours = [(weights.FIFTH_WEIGHTED, 0, 50.0, 100.0), (weights.FIFTH_WEIGHTED, 1, 50.0, 100.0)]
    others = [(weights.SHORT_WEIGHTED, 2, 50.0, 100.0), (weights.FIFTH_PLAIN, 0, 50.0, 100.0)]
    columns = ["name", "seed", "stage 1 seconds", weights.SECONDS]
    found = weights.share_of_time(pd.DataFrame([*few, *ours, *others], columns=columns))
    assert found[2:4].tolist() == pytest.approx([100 * 100 / (120 + 880), 100 * 100 / (240 + 1760)])
    # Seeds without FLT, and runs of another sweep, have no share.
    assert found.drop([2, 3]).isna().all()


def test_goals_of_weighted_recipes_are_judged_by_score_compute_and_perplexity():
    rows = frame({"whole": 70, weights.FIFTH_WEIGHTED: 71, weights.SHORT_USUAL: 66})
    tflop = {"whole": 1000.0, weights.FIFTH_WEIGHTED: 140.0, weights.SHORT_USUAL: 120.0}
    rows = rows.assign(**{weights.FLOPS: rows["name"].map(tflop), "perplexity kept": 99.0})
    found = weights.goals(rows, "whole", " here")
    ours, short = weights.FIFTH_WEIGHTED, weights.SHORT_USUAL
    assert verdicts(found) == {
        f"NIAH(M) here: {ours} is at least as good as whole": HOLDS,
        f"all training here: {ours} takes at most 15 % of FLT's FLOPs": HOLDS,
        f"perplexity kept here: {ours} has at least 97 %": HOLDS,
        f"NIAH(M) here: {short} is at most 2 points below whole": FAILS,
        f"all training here: {short} takes at most 10 % of FLT's FLOPs": FAILS,
        f"perplexity kept here: {short} has at least 97 %": HOLDS,
    }
    # Without FLT only perplexity can be judged.
    assert len(weights.goals(rows[rows["name"] != "whole"], "whole")) == 2


def test_rates_of_every_method_are_compared_on_one_seed():
    found = rates.table("llama3", 4096)
    assert list(found.columns) == ["0.0005", "0.001", "0.002"] and found.notna().all(axis=None)
    usual = weights.compared("llama3", 4096).query("seed == 0").set_index("name")["NIAH(M)"]
    assert found["0.001"].to_dict() == usual[list(rates.SEARCHED)].to_dict()
    assert rates.table("llama3", 2560).isna().all(axis=None)
