import numpy as np
import pytest

from longrecipe.data.english import reference_texts
from longrecipe.evaluate import needles, sentences
from longrecipe.evaluate.tasks import OPENING
from longrecipe.experiments import needle_wording
from longrecipe.experiments.needle_wording import VARIANTS


@pytest.fixture(scope="module")
def text(bpe):
    return sentences(bpe).encode("\n".join(reference_texts())[:40_000])


def test_each_variant_has_a_row_for_each_task(tiny, bpe, text):
    found = needle_wording.measure(tiny, bpe, text, length=1000, n_documents=2)
    assert list(found.columns) == ["variant", "task", "mean", "low", "high", "documents", "length"]
    tasks = found.groupby("variant")["task"].agg(lambda names: sorted(names))
    assert set(tasks.index) == set(VARIANTS)
    assert all(names == ["four turns", "multi-key", "multi-query", "multi-value"] for names in tasks)
    assert found[["mean", "low", "high"]].stack().between(0, 1).all() and (found["documents"] == 2).all()


def test_unknown_variant_error_lists_variants(tiny, bpe, text):
    with pytest.raises(ValueError, match=r"variants = .'nil'.: allowed are former wording, "):
        needle_wording.measure(tiny, bpe, text, variants=["nil"])


def test_variants_change_what_they_say(bpe, text):
    def document(name):
        wording, source = needle_wording._wording(VARIANTS[name], bpe, text)
        return wording.decode(needles(wording, source, 1200, np.random.default_rng(0)).ids)

    former, today = document("former wording"), document("and new sentences: today's wording")
    assert former.count("The secret number of ") == 8 and former.count("\n") > 3
    assert today.startswith(OPENING.sentences) and today.count("\n") == 1
    assert "\n" in document("today's, text with line breaks").removeprefix(OPENING.sentences)
