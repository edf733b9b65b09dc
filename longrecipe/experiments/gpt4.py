"""Whether LongRecipe is close to GPT-4, as the paper's abstract says: by the numbers of its Table 1."""

import pandas as pd

from longrecipe.claims import Claim, Claims, judge, number
from longrecipe.experiments import quoted
from longrecipe.experiments.benchmarks import GENERAL, TITLES

# The paper's claim is "performance close to GPT-4"; as this kit reads it: at most this many points below.
CLOSE = 5.0
_GPT4, _OURS = "gpt-4-1106-preview", "LongRecipe, llama3-8b-instruct"


def others() -> pd.DataFrame:
    """The paper's Table 1 (quoted) for other models at 128k, and LongRecipe's three models; best on NIAH(M) first."""
    rows = quoted.read("table1_methods").query("method == 'longrecipe' and target_k == 128")
    ours = rows.set_index("LongRecipe, " + rows["family"])[["niah_m", "ruler", "longbench", *GENERAL]]
    table = pd.concat([quoted.read("table1_other_llms_128k").set_index("model"), ours])
    return table.rename(columns=TITLES).sort_values(TITLES["niah_m"], ascending=False).rename_axis("model")


def close_to_gpt4() -> Claims:
    """Whether "performance close to GPT-4" holds in the paper's own numbers: LongRecipe's Llama-3 at 128k, at most 5
    points below. The paper has one number each, so there are no intervals."""
    gaps = others().loc[_OURS] - others().loc[_GPT4]
    return Claims(
        Claim(
            f"{name}: LongRecipe's Llama-3-8B is at most {CLOSE:g} points below GPT-4",
            judge(round(gap, 1) >= -CLOSE),
            f"{number(abs(gap))} points {'below' if gap < 0 else 'above'}",
            label="quoted",
        )
        for name, gap in gaps.items()
    )
