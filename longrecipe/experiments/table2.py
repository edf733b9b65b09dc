"""Table 2: the parts of the recipe, each left out in turn (paper, section 4.3)."""

import pandas as pd

from longrecipe.claims import Claims
from longrecipe.experiments import judging, quoted
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import LEAN
from longrecipe.experiments.scores import CONTIGUOUS, GENERAL, NAMES, SELECTED, default_ratio, final, over_seeds

FIRST, RANDOM = (NAMES["longrecipe"] + SELECTED[how] for how in ("first", "random"))


def section(scores: pd.DataFrame) -> pd.DataFrame:
    """The longest target of every model, for results/README.md."""
    rows = default_ratio(scores)
    rows = final(rows[rows["target"] == rows["target"].max()])
    return over_seeds(rows, ["model", "target", "name"], ["NIAH(M)", *GENERAL])


def paper() -> pd.DataFrame:
    """The paper's Table 2 (quoted): Llama-3 to 80k, by the names of our variants."""
    names = NAMES | {"longrecipe_without_token_analysis": FIRST, "longrecipe_random_sentences": RANDOM}
    return quoted.read("table2_ablation").replace({"variant": names}).set_index("variant").rename_axis("name")


def claims(rows: pd.DataFrame) -> Claims:
    """Table 2's claims: the whole recipe against what lacks a part of it (main); then each part by itself.

    Args:
        rows: `scores.final`.
    """
    plain, control = f"{NAMES[CONTIGUOUS]}{SELECTED['first']}", "RoPE rule alone"
    whole = [("LongRecipe", other, 0.0) for other in ("PoSE", FIRST, RANDOM, NAMES[CONTIGUOUS], plain)]
    alone = [(FIRST, plain, 0.0), (NAMES[CONTIGUOUS], plain, 0.0), (NAMES[CONTIGUOUS], control, 0.0)]
    parts = judging.compared(rows, [*alone, (plain, control, 0.0)], main=False)
    return Claims([*judging.compared(rows, whole), *parts])


EXPERIMENT = Experiment(
    name="table2",
    title="Table 2: parts of the recipe",
    variants=(
        {"method": "none"},
        {"method": "pose"},
        {"method": "longrecipe", "selection": "first"},
        {"method": "longrecipe", "selection": "random"},
        {"method": "longrecipe"},
        {"method": CONTIGUOUS},
        {"method": CONTIGUOUS, "selection": "first"},
    ),
    protocol=LEAN,
    section=section,
)
