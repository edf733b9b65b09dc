r"""Impactful token analysis: which tokens change when a model learns long text (paper, section 4.1).

H is the base model, H' the same model trained on to a longer window. The score S(x_t | x_{<t}) of a token is the
LM-head logit that a model gives the token that really comes next; its shift is S_{H'} - S_H.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe.corpus import token_strings

BATCH_TOKENS = 8192
CLASSES = ("number", "word", "capitalised word", "word part", "punctuation", "newline", "other")


@torch.inference_mode()
def scores(network: PreTrainedModel, documents: np.ndarray) -> np.ndarray:
    r"""S(x_t | x_{<t}) = h_{t-1} \cdot w_{x_t}: the logit of the token that comes next (paper, section 4.1).

    One dot product a token, hidden state times one row of the LM head; logits of the whole vocabulary are never built,
    so memory does not depend on its size. Args: documents int64 [D, L]. Returns float32 [D, L - 1], for t = 1..L-1.
    """
    head, rows = network.get_output_embeddings(), []
    for batch in torch.from_numpy(documents).split(max(1, BATCH_TOKENS // documents.shape[1])):
        batch = batch.to(network.device)
        hidden = network.base_model(input_ids=batch, use_cache=False).last_hidden_state[:, :-1]
        score = (hidden * head.weight[batch[:, 1:]]).sum(-1)
        if head.bias is not None:
            score = score + head.bias[batch[:, 1:]]
        rows.append(score.float().cpu().numpy())
    return np.concatenate(rows)


def token_classes(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """The class of every token id, an index into CLASSES, from its decoded text alone (int64 [vocabulary])."""
    return np.array([CLASSES.index(_class_of(text)) for text in token_strings(tokenizer)])


def _class_of(text: str) -> str:
    bare = text.strip(" ")
    if any(c.isdigit() for c in bare):
        return "number"
    if "\n" in bare:
        return "newline"
    if bare.isalpha():
        if text.startswith(" "):
            return "capitalised word" if bare[0].isupper() else "word"
        return "word part"
    return "punctuation" if bare and bare.isascii() and bare.isprintable() else "other"


@dataclass(frozen=True)
class Analysis:
    """What the token analysis found.

    shift: float32 [D, L - 1], S_{H'} - S_H. ranking: one row a type, by lift: count, share_of_all, share_of_top, lift,
    mean_shift, sum_shift (eq. 3). by_position: the types' shares among the top tokens, one row a position index.
    """

    shift: np.ndarray
    ranking: pd.DataFrame
    by_position: pd.DataFrame

    def anchors(self, count: int) -> list[str]:
        """The `count` types whose share among the top tokens exceeds their share of all tokens by the most."""
        return self.ranking.head(count)["type"].tolist()


def analyse(
    base: PreTrainedModel,
    longer: PreTrainedModel,
    documents: np.ndarray,
    type_of_id: np.ndarray,
    type_names: Sequence[str],
    top_share: float = 0.2,
) -> Analysis:
    r"""Rank token types by how much they change from H to H' (paper, section 4.1, eq. 3 and Figure 4).

    At every position index the `top_share` of tokens with the largest shift over the documents are taken; a type's
    share among them is compared with its share among all tokens (lift = share_of_top / share_of_all), because a type
    can have a high share merely by being frequent. Eq. 3 is the sum of the shift over a type's occurrences; the mean
    is given too.

    Args: documents int64 [D, L]; type_of_id int64 [vocabulary], an index into type_names. Returns an Analysis.
    Raises ValueError where the two models' vocabularies differ or there are too few documents for the share.
    """
    if base.config.vocab_size != longer.config.vocab_size:
        raise ValueError(
            f"H has {base.config.vocab_size} vocabulary entries, H' {longer.config.vocab_size}: they must match."
        )
    n_top = round(top_share * len(documents))
    if n_top < 1:
        raise ValueError(
            f"{len(documents)} documents at top_share = {top_share} leave no token in the top; "
            f"give at least {int(np.ceil(0.5 / top_share)) + 1} documents."
        )
    shift = scores(longer, documents) - scores(base, documents)
    types = type_of_id[documents[:, 1:]]
    top_rows = np.argsort(-shift, axis=0, kind="stable")[:n_top]
    top_types = np.take_along_axis(types, top_rows, axis=0)
    names = list(type_names)
    by_position = pd.DataFrame(
        np.stack([(top_types == k).mean(axis=0) for k in range(len(names))], axis=1), columns=names
    )
    frame = pd.DataFrame({"type": types.ravel(), "shift": shift.ravel()}).groupby("type")["shift"]
    ranking = frame.agg(count="size", mean_shift="mean", sum_shift="sum").reset_index()
    ranking["share_of_all"] = ranking["count"] / types.size
    ranking["share_of_top"] = [(top_types == k).mean() for k in ranking["type"]]
    ranking["lift"] = ranking["share_of_top"] / ranking["share_of_all"]
    ranking["type"] = [names[k] for k in ranking["type"]]
    columns = ["type", "count", "share_of_all", "share_of_top", "lift", "mean_shift", "sum_shift"]
    return Analysis(shift, ranking.sort_values("lift", ascending=False, ignore_index=True)[columns], by_position)
