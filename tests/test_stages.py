import numpy as np
import pandas as pd
import pytest

from longrecipe import results
from longrecipe import settings as settings
from longrecipe.claims import FAILS, HOLDS, Claim, Claims
from longrecipe.evaluate import Report

COLUMNS = ["task", "length", "document", "depth", "score"]


def verdicts(numbers, params):
    return {claim.text: claim.verdict for claim in results.claims(numbers, params)}


def numbers_of(perplexity=20.0, **scores):
    """Numbers of a report, from the mean scores of its tasks by length."""
    lengths = sorted({n for each in scores.values() for n in each})
    tasks = {
        n: {task: {"mean": each[n], "low": 0.0, "high": 1.0, "prompts": 8} for task, each in scores.items()}
        for n in lengths
    }
    recall = {n: each.get("multi-key") for n, each in tasks.items()}
    return {"recall": recall, "niah_m": recall, "tasks": tasks, "perplexity": perplexity, "copying": 0.5}


def mini(base=0.05, extended=0.75, merged=0.75, inside=0.96, perplexity=21.0):
    return {
        "base": numbers_of(**{"multi-key": {256: 0.98, 4096: base}}),
        "extended": numbers_of(**{"multi-key": {256: 0.9, 4096: extended}}),
        "merged": numbers_of(perplexity, **{"multi-key": {256: inside, 4096: merged}}),
    }


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, None),
        ({"base": 0.06}, "base: recall at 4096"),
        ({"extended": 0.74}, "extended: recall at 4096"),
        ({"merged": 0.74}, "merged: recall at 4096"),
        ({"inside": 0.95}, "merged: recall at 256"),
        ({"perplexity": 21.1}, "merged: perplexity at 256"),
    ],
)
def test_a_mini_run_is_judged_by_its_stages(changes, fails):
    claims = results.claims(mini(**changes), settings.load("llama3"))
    assert len(claims) == 5
    failed = [claim.text for claim in claims if claim.verdict == FAILS]
    assert failed == [claim.text for claim in claims if fails and fails in claim.text]
    assert len(failed) == (fails is not None)


def test_the_untrained_control_is_judged_if_nothing_is_trained():
    numbers = {"base": mini()["base"], "RoPE rule alone": mini(extended=0.2)["extended"]}
    assert verdicts(numbers, settings.load("llama3", method="none")) == {
        "RoPE rule alone: recall at 4096 tokens is at least 0.75": FAILS,
        "base: recall at 4096 tokens is at most 0.05": HOLDS,
    }


@pytest.fixture
def real():
    return settings.load("smollm2", "small", profile="cpu", eval_lengths=[2048, 12288], eval_passkeys=8)


def passkeys(at_12k, at_16k, perplexity=20.0):
    lengths = {2048: 1.0, 8192: 0.5, 12288: at_12k, 16384: at_16k}
    return numbers_of(perplexity, **{"passkey": lengths, "multi-key": dict.fromkeys(lengths, 0.6)})


def test_a_real_model_is_judged_by_its_passkeys_at_every_length_beyond_the_window(real):
    beyond = "passkey at 12288 and 16384 tokens (8 trials or more each)"
    claims = [
        f"merged: {beyond} is at least 0.75",
        f"base: {beyond} is at most 0.25",
        "merged: perplexity at 2048 tokens is at most 1.03 times the base's, 20.0",
    ]

    def judged(base, merged):
        return verdicts({"base": base, "merged": merged}, real)

    assert judged(passkeys(0.25, 0.0), passkeys(0.75, 1.0, 20.6)) == dict.fromkeys(claims, HOLDS)
    assert judged(passkeys(0.0, 0.375), passkeys(0.625, 1.0, 20.7)) == dict.fromkeys(claims, FAILS)
    alone = verdicts({"RoPE rule alone": passkeys(1.0, 0.5)}, real)
    assert alone == {f"RoPE rule alone: {beyond} is at least 0.75": FAILS}
    # Without passkeys, by recall of one of several facts.
    plain = settings.changed(real, eval_passkeys=0)
    assert verdicts({"merged": passkeys(1, 1)}, plain) == {
        "merged: recall at 12288 and 16384 tokens is at least 0.75": FAILS
    }


def test_a_real_base_that_is_not_asked_beyond_its_window_is_not_judged_there(real):
    base = passkeys(0.0, 0.0, 19.5)
    inside = {name: {n: cell for n, cell in base[name].items() if n <= 8192} for name in ("recall", "niah_m", "tasks")}
    numbers = {"base": base | inside, "merged": passkeys(0.875, 1.0)}
    assert verdicts(numbers, real) == {
        "merged: passkey at 12288 and 16384 tokens (8 trials or more each) is at least 0.75": HOLDS,
        "merged: perplexity at 2048 tokens is at most 1.03 times the base's, 19.5": HOLDS,
    }
    table = results.stage_table(numbers)
    assert "NIAH(M) @8192" not in table.columns and table.loc["base", ["recall @2048", "recall @8192"]].notna().all()
    assert table.loc["base", ["recall @12288", "recall @16384", "NIAH(M) @16384"]].isna().all()


def report_of(scores, task="passkey", length=512):
    return Report(pd.DataFrame([(task, length, i, 0.5, s) for i, s in enumerate(scores)], columns=COLUMNS), {})


def test_a_gain_is_the_mean_difference_of_what_both_read():
    gain = results.gain(report_of([1, 1, 1, 0, 1, 1]), report_of([0, 1, 0, 1, 0]))
    assert gain.index.tolist() == [("passkey", 512)] and gain["documents"].tolist() == [5]
    mean, low, high = gain.loc[("passkey", 512), ["gain", "low", "high"]]
    assert mean == pytest.approx(0.4) and -1 <= low < mean < high <= 1
    few = results.gain(report_of([1, 1], "multi-key"), report_of([0, 1], "multi-key"))
    assert few.index.tolist() == [("recall", 512), ("NIAH(M)", 512)]
    assert few["gain"].tolist() == [0.5, 0.5] and few[["low", "high"]].isna().all(axis=None)


def test_a_gain_of_equal_models_is_nothing():
    scores = np.random.default_rng(0).integers(0, 2, 8).astype(float)
    gain = results.gain(report_of(scores), report_of(scores)).iloc[0]
    assert gain["gain"] == 0 and np.isnan(gain["low"]) and gain["documents"] == 8


def test_a_gain_needs_both_reports():
    assert results.gain(None, report_of([1, 1])).empty and results.gain(report_of([1, 1]), None).empty


def test_claims_say_what_training_adds():
    params = settings.load("llama3")
    ours, control = (report_of(scores, "multi-key", 4096) for scores in ([1, 1, 1, 0, 1, 1], [0, 1, 0, 0, 0, 1]))
    found = results.claims(mini(), params, results.gain(ours, control))
    (claim,) = [each for each in found if "adds recall" in each.text]
    assert claim.verdict == HOLDS and claim.found == "50.0 points above the RoPE rule alone"
    assert len(results.claims(mini(), params, results.gain(ours, None))) == 5


def test_scores_are_shown_next_to_the_committed_run_of_the_same_settings():
    params = settings.load("llama3", "mini")
    numbers = {"merged": mini()["merged"] | {"first_copy": 0.4}}
    found = results.next_to_committed(numbers, params)
    assert list(found.index) == ["merged"] and found.loc["merged", ("recall", "results/")] == 0.895
    assert results.next_to_committed(numbers, settings.changed(params, seed=7)).empty


def test_mean_of_needles_is_only_called_niah_at_scale_mini():
    table = results.stage_table(mini())
    assert results.titled(table, "mini").equals(table) and any("NIAH(M)" in name for name in table.columns)
    for scale in ("small", "paper"):
        own = results.titled(table, scale)
        assert [name.replace("own needles", "NIAH(M)") for name in own.columns] == list(table.columns)
        assert not any("NIAH(M)" in name for name in own.columns)
        gain = results.titled(results.gain(report_of([1, 1], "multi-key"), report_of([0, 1], "multi-key")), scale)
        assert gain.index.tolist() == [("recall", 512), ("own needles", 512)]
        claims = results.titled(Claims([Claim("NIAH(M) is large", "holds", "NIAH(M) of 1")]), scale)
        assert (claims[0].text, claims[0].found) == ("own needles is large", "own needles of 1")
