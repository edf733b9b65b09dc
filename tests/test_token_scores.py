import copy
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaForCausalLM,
    Qwen2Config,
)

import longrecipe.tokens.scores as module
from longrecipe.tokens import SCORES, next_token_scores, read_scores, score_documents

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@torch.inference_mode()
def by_full_logits(network, ids, score="logit"):
    ids = torch.from_numpy(ids)
    logits = network(input_ids=ids, use_cache=False).logits[:, :-1]
    logits = logits.log_softmax(-1) if score == "logprob" else logits
    return logits.gather(-1, ids[:, 1:, None])[..., 0].numpy()


# scores of a batch


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_of_the_realised_next_tokens(tiny, rng, score):
    ids = rng.integers(0, 1024, size=(5, 12))
    found = next_token_scores(tiny, ids, score)
    assert found.shape == (5, 11) and found.dtype == np.float32
    np.testing.assert_allclose(found, by_full_logits(tiny, ids, score), **CLOSE)
    assert found.std() > 0.1


def test_shift_of_all_logits_keeps_log_probabilities(tiny, rng):
    shifted = copy.deepcopy(tiny)
    shifted.lm_head.bias = torch.nn.Parameter(torch.full((1024,), 3.0))
    ids = rng.integers(0, 1024, size=(2, 12))
    for score, change in (("logit", 3), ("logprob", 0)):
        gained = next_token_scores(shifted, ids, score) - next_token_scores(tiny, ids, score)
        np.testing.assert_allclose(gained, change, atol=1e-4)
    assert (next_token_scores(tiny, ids, "logprob") < 0).all()


@pytest.mark.parametrize("score", SCORES)
def test_bias_of_the_head_is_added(tiny, rng, score):
    network = copy.deepcopy(tiny)
    network.lm_head.bias = torch.nn.Parameter(torch.from_numpy(rng.normal(size=1024)).float())
    ids = rng.integers(0, 1024, size=(5, 12))
    found = next_token_scores(network, ids, score)
    np.testing.assert_allclose(found, by_full_logits(network, ids, score), **CLOSE)
    assert np.abs(found - next_token_scores(tiny, ids, score)).max() > 0.5


@pytest.mark.parametrize("entries", [1, 1024, 7 * 1024 + 5, 2**23])
def test_scores_do_not_depend_on_the_block_size(tiny, rng, monkeypatch, entries):
    ids = rng.integers(0, 1024, size=(3, 12))
    monkeypatch.setattr(module, "LOGIT_ENTRIES", entries)
    np.testing.assert_allclose(
        next_token_scores(tiny, ids, "logprob"), by_full_logits(tiny, ids, "logprob"), rtol=1e-4, atol=1e-5
    )


def test_logit_score_never_runs_the_head(tiny, rng, monkeypatch):
    def refuse(*args):
        raise AssertionError("logits of the whole vocabulary were built")

    monkeypatch.setattr(tiny.lm_head, "forward", refuse)
    ids = rng.integers(0, 1024, size=(5, 12))
    with pytest.raises(AssertionError, match="whole vocabulary"):
        tiny(input_ids=torch.from_numpy(ids))
    assert next_token_scores(tiny, ids).shape == (5, 11)


def test_bfloat16_model_gives_float32_scores(tiny, rng):
    ids = rng.integers(0, 1024, size=(3, 12))
    for score in SCORES:
        found = next_token_scores(copy.deepcopy(tiny).bfloat16(), ids, score)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, next_token_scores(tiny, ids, score), atol=0.15)


def test_unknown_score_error_lists_scores(tiny, rng, tmp_path):
    with pytest.raises(ValueError, match="score = 'loss': allowed are logit, logprob"):
        next_token_scores(tiny, rng.integers(0, 1024, size=(1, 4)), "loss")
    with pytest.raises(ValueError, match="score = 'loss': allowed are logit, logprob"):
        score_documents(tiny, tiny, [("a", np.arange(4))], tmp_path / "scores", score="loss")
    assert not (tmp_path / "scores").exists()


# memory


class Largest(TorchDispatchMode):
    """The most float32 entries that any operation's output occupies, the network's own weights left out."""

    def __init__(self, network):
        super().__init__()
        self.weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in self.weights:
                self.entries = max(self.entries, leaf.untyped_storage().nbytes() // 4)
        return out


def largest(network, ids, score):
    with Largest(network) as seen:
        next_token_scores(network, ids, score)
    return seen.entries


@pytest.fixture(scope="module")
def wide(make_tiny):
    return make_tiny(vocab_size=16_384)


def test_memory_does_not_depend_on_the_vocabulary(tiny, wide, rng):
    ids = rng.integers(0, 1024, size=(2, 65))
    assert largest(tiny, ids, "logit") == largest(wide, ids, "logit") < 2 * 64 * 1024
    # What a run of the whole model would need: the meter sees logits where there are some.
    for network, vocabulary in ((tiny, 1024), (wide, 16_384)):
        with Largest(network) as seen, torch.inference_mode():
            network(input_ids=torch.from_numpy(ids), use_cache=False)
        assert seen.entries == 2 * 65 * vocabulary


def test_memory_of_log_probabilities_is_bounded_by_the_block(tiny, wide, rng, monkeypatch):
    entries = 2 * 16_384
    monkeypatch.setattr(module, "LOGIT_ENTRIES", entries)
    ids = rng.integers(0, 1024, size=(2, 65))
    assert entries < 2 * 64 * 1024, "even the small vocabulary's logits exceed the block"
    assert largest(tiny, ids, "logprob") == largest(wide, ids, "logprob") == entries
    longer = rng.integers(0, 1024, size=(1, 200))
    monkeypatch.setattr(module, "LOGIT_ENTRIES", 8 * entries)
    assert largest(wide, longer, "logprob") == 8 * entries


# scores of many documents


@pytest.fixture(scope="module")
def pair(make_tiny):
    return make_tiny(0), make_tiny(1)


@pytest.fixture
def documents(rng):
    """Seven documents of lengths that change, equal ones beside each other and apart."""
    lengths = (12, 12, 12, 7, 30, 30, 12)
    return [(f"text {i}", rng.integers(0, 1024, size=length)) for i, length in enumerate(lengths)]


@pytest.fixture
def batches(monkeypatch):
    """The shapes of all batches that were scored, in order."""
    seen, score = [], module.next_token_scores

    def counted(network, ids, *args):
        seen.append(ids.shape)
        return score(network, ids, *args)

    monkeypatch.setattr(module, "next_token_scores", counted)
    return seen


def assert_same(found, expected):
    found = list(found)
    assert [each.key for each in found] == [each.key for each in expected]
    for one, other in zip(found, expected, strict=True):
        for name in ("ids", "base", "longer"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_in_the_order_of_the_documents(pair, documents, tmp_path, score):
    found = score_documents(*pair, (each for each in documents), tmp_path, score=score)
    assert [each.key for each in found] == [key for key, _ in documents]
    for each, (_, ids) in zip(found, documents, strict=True):
        np.testing.assert_array_equal(each.ids, ids)
        assert each.ids.dtype == np.int64
        for values, network in zip((each.base, each.longer), pair, strict=True):
            assert values.dtype == np.float32 and values.shape == (len(ids) - 1,)
            np.testing.assert_allclose(values, by_full_logits(network, ids[None], score)[0], **CLOSE)
        np.testing.assert_array_equal(each.shift, each.longer - each.base)


def test_keys_become_strings(pair, documents, tmp_path):
    found = score_documents(*pair, enumerate(ids for _, ids in documents), tmp_path)
    assert [each.key for each in found] == ["0", "1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize(
    ("most", "shapes"),
    [
        (1, [(1, 12), (1, 12), (1, 12), (1, 7), (1, 30), (1, 30), (1, 12)]),
        (24, [(2, 12), (1, 12), (1, 7), (1, 30), (1, 30), (1, 12)]),
        (8192, [(3, 12), (1, 7), (2, 30), (1, 12)]),
    ],
)
def test_scores_do_not_depend_on_batches(pair, documents, batches, tmp_path, monkeypatch, most, shapes):
    monkeypatch.setattr(module, "BATCH_TOKENS", most)
    found = score_documents(*pair, documents, tmp_path)
    # Each batch is read by H and by H'.
    assert batches == [shape for shape in shapes for _ in pair]
    for each in found:
        np.testing.assert_allclose(each.longer, by_full_logits(pair[1], each.ids[None])[0], **CLOSE)


def test_documents_are_read_one_after_another(pair, documents, tmp_path, monkeypatch):
    drawn, at_first = [], []
    score = module.next_token_scores

    def noting(network, ids, *args):
        at_first.append(len(drawn))
        return score(network, ids, *args)

    def stream():
        for each in documents:
            drawn.append(each)
            yield each

    monkeypatch.setattr(module, "next_token_scores", noting)
    monkeypatch.setattr(module, "BATCH_TOKENS", 1)
    score_documents(*pair, stream(), tmp_path)
    assert at_first[0] == 2, "the first document is scored when the second was read, not when all were"
    assert at_first[-1] == len(documents)


def test_scores_are_kept_as_parquet(pair, documents, tmp_path):
    found = score_documents(*pair, documents, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.parquet", "scores.json"]
    table = pq.read_table(tmp_path / "00000.parquet").to_pydict()
    assert list(table) == ["key", "ids", "base", "longer"]
    assert table["key"] == [key for key, _ in documents]
    assert table["ids"] == [ids.tolist() for _, ids in documents]
    assert table["longer"][3] == found[3].longer.tolist()
    assert_same(read_scores(tmp_path), found)
    assert list(read_scores(tmp_path / "nowhere")) == []


def test_scores_are_read_from_many_files(pair, documents, tmp_path, monkeypatch):
    whole = score_documents(*pair, documents, tmp_path / "whole")
    for name, setting in (("by tokens", {"FLUSH_TOKENS": 40}), ("by time", {"FLUSH_SECONDS": 0})):
        with monkeypatch.context() as patch:
            for key, value in setting.items():
                patch.setattr(module, key, value)
            found = score_documents(*pair, documents, tmp_path / name)
        assert_same(found, whole)
        assert_same(read_scores(tmp_path / name), whole)
        # 36 + 7, 60, and the rest; by time every batch.
        assert len(list((tmp_path / name).glob("*.parquet"))) == {"by tokens": 3, "by time": 4}[name]


def test_a_second_call_scores_nothing(pair, documents, batches, tmp_path):
    first = score_documents(*pair, documents, tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    batches.clear()
    assert_same(score_documents(*pair, documents, tmp_path), first)
    # In any order, and some of them.
    assert_same(score_documents(*pair, [documents[5], documents[0]], tmp_path), [first[5], first[0]])
    assert batches == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_reloaded_models_use_the_kept_scores(pair, documents, batches, tmp_path):
    pair[0].save_pretrained(tmp_path / "model")
    first = score_documents(*pair, documents, tmp_path / "scores")
    batches.clear()
    again = LlamaForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert_same(score_documents(again, pair[1], documents, tmp_path / "scores"), first)
    assert batches == []


def test_new_documents_are_added_to_the_kept_scores(pair, documents, batches, tmp_path):
    score_documents(*pair, documents[:3], tmp_path)
    batches.clear()
    more = score_documents(*pair, [documents[4], documents[1], documents[3]], tmp_path)
    assert batches == [(1, 30)] * 2 + [(1, 7)] * 2
    assert [each.key for each in more] == ["text 4", "text 1", "text 3"]
    assert [each.key for each in read_scores(tmp_path)] == [documents[i][0] for i in (0, 1, 2, 4, 3)]


def test_interrupted_run_resumes(pair, documents, batches, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_TOKENS", 1)
    monkeypatch.setattr(module, "FLUSH_TOKENS", 20)
    whole = score_documents(*pair, documents, tmp_path / "whole")
    batches.clear()

    def stopped():
        yield from documents[:5]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        score_documents(*pair, stopped(), tmp_path / "stopped")
    # Four were scored, the first two written: the next file was not full.
    assert batches == [(1, len(ids)) for _, ids in documents[:4] for _ in pair]
    assert_same(read_scores(tmp_path / "stopped"), whole[:2])
    batches.clear()
    assert_same(score_documents(*pair, documents, tmp_path / "stopped"), whole)
    assert batches == [(1, len(ids)) for _, ids in documents[2:] for _ in pair]
    assert_same(read_scores(tmp_path / "stopped"), whole)


def test_leftover_of_a_killed_run_is_ignored(pair, documents, tmp_path):
    whole = score_documents(*pair, documents, tmp_path / "whole")
    score_documents(*pair, documents[:3], tmp_path / "killed")
    for name in ("00000.tmp", "00001.tmp", "scores.json.tmp"):
        (tmp_path / "killed" / name).write_bytes(b"PAR1 half of a file")
    assert_same(read_scores(tmp_path / "killed"), whole[:3])
    assert_same(score_documents(*pair, documents, tmp_path / "killed"), whole)


def test_run_killed_while_writing_resumes(pair, documents, tmp_path, monkeypatch):
    write = pq.write_table

    def killed(table, path):
        write(table, path)
        path.write_bytes(path.read_bytes()[:100])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            score_documents(*pair, documents, tmp_path / "killed")
    whole = score_documents(*pair, documents, tmp_path / "whole")
    assert_same(score_documents(*pair, documents, tmp_path / "killed"), whole)
    # And leaves nothing behind.
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("killed", "whole")]
    assert names[0] == names[1]


def test_removed_file_is_scored_again_and_the_others_are_kept(pair, documents, batches, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_TOKENS", 1)
    whole = score_documents(*pair, documents, tmp_path)
    (tmp_path / "00001.parquet").unlink()
    batches.clear()
    assert_same(score_documents(*pair, documents, tmp_path), whole)
    assert batches == [(1, 7)] * 2
    assert sorted(each.key for each in read_scores(tmp_path)) == [key for key, _ in documents]


# refusals


def other_weights(network):
    network.model.layers[1].mlp.down_proj.weight[3, 5] += 1e-3


def other_positions(network):
    network.config.rope_parameters = dict(network.config.rope_parameters, rope_theta=5.0e5)


@pytest.mark.parametrize("change", [other_weights, other_positions])
@pytest.mark.parametrize("place", [0, 1])
@torch.no_grad()
def test_folder_with_scores_of_other_models_is_an_error(pair, documents, tmp_path, change, place):
    score_documents(*pair, documents[:2], tmp_path)
    held = json.loads((tmp_path / "scores.json").read_text())
    others = [copy.deepcopy(network) for network in pair]
    change(others[place])
    name = ("base", "longer")[place]
    with pytest.raises(ValueError, match=rf"contains other scores \({name} {held[name]}, now \w+\): delete the folder"):
        score_documents(*others, documents[:2], tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text()) == held


def test_folder_with_another_kind_of_score_is_an_error(pair, documents, tmp_path):
    score_documents(*pair, documents[:2], tmp_path, score="logprob")
    with pytest.raises(ValueError, match=r"contains other scores \(score logprob, now logit\)"):
        score_documents(*pair, documents[:2], tmp_path)
    with pytest.raises(ValueError, match=r"contains other scores \(base \w+, now \w+, longer \w+, now \w+\)"):
        score_documents(pair[1], pair[0], documents[:2], tmp_path, score="logprob")


def text(*ids):
    return np.array(ids, dtype=np.int64)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "no documents to score: the corpus is empty"),
        ([("a", text(1, 2, 3)), ("b", text(4))], "document 'b' has 1 tokens, fewer than min_length = 2"),
        ([("b", text())], "document 'b' has 0 tokens, fewer than min_length = 2"),
        ([("a", text(1, 2)), ("b", text(1, 2)), ("a", text(3, 4))], "two documents have the key 'a'"),
        ([("a", text(1, 2)), ("a", text(1, 2))], "two documents have the key 'a'"),
        ([("c", text(5, 1024, 2000))], "document 'c' has token id 1024, outside .* vocabulary of 1024"),
        ([("c", text(5, -3))], "document 'c' has token id -3, outside .* vocabulary of 1024"),
    ],
)
def test_invalid_document_error_names_the_document(pair, tmp_path, found, message):
    with pytest.raises(ValueError, match=message):
        score_documents(*pair, iter(found), tmp_path)


def test_document_shorter_than_min_length_is_an_error(pair, documents, tmp_path):
    with pytest.raises(ValueError, match="document 'text 3' has 7 tokens, fewer than min_length = 12"):
        score_documents(*pair, documents, tmp_path, min_length=12)
    assert len(score_documents(*pair, documents, tmp_path, min_length=7)) == 7


def test_known_key_with_another_text_is_an_error(pair, documents, tmp_path):
    score_documents(*pair, documents, tmp_path)
    for other in (documents[0][1][::-1], documents[0][1][:-1]):
        with pytest.raises(ValueError, match="document 'text 0' was scored with another text"):
            score_documents(*pair, [("text 0", other)], tmp_path)


def test_models_with_different_vocabularies_are_an_error(tiny, make_tiny, tmp_path):
    with pytest.raises(ValueError, match="H has 1024 vocabulary entries, H' 1000"):
        score_documents(tiny, make_tiny(vocab_size=1000), [("a", text(1, 2))], tmp_path)


SHAPE = {
    "vocab_size": 1024,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def model_of(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


# A cap of 30 shows only where logits are large, as a trained model's are.
GEMMA = SHAPE | {"num_key_value_heads": 2, "head_dim": 8, "initializer_range": 1.0}


@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(**SHAPE, logits_scaling=8.0),
        GraniteConfig(**SHAPE, logits_scaling=0.9),
        CohereConfig(**SHAPE),
        Gemma2Config(**GEMMA),
    ],
    ids=["granite", "granite, a little", "cohere", "gemma2"],
)
def test_models_that_scale_or_cap_their_logits_are_an_error(tiny, tmp_path, config):
    network = model_of(config)
    kind = config.model_type
    with pytest.raises(
        ValueError, match=rf"^H \({kind}\) scales or caps its logits: \S+ instead of \S+ from .*\. Such"
    ):
        score_documents(network, tiny, [("a", text(1, 2))], tmp_path / "scores")
    with pytest.raises(ValueError, match=rf"^H' \({kind}\) scales or caps"):
        score_documents(tiny, network, [("a", text(1, 2))], tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(**SHAPE, logits_scaling=1.0),
        CohereConfig(**SHAPE, logit_scale=1.0),
        Gemma2Config(**GEMMA, final_logit_softcapping=None),
        Qwen2Config(**SHAPE, num_key_value_heads=2),
        GPTNeoXConfig(**SHAPE),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_models_of_other_families_are_scored(rng, tmp_path, config, dtype):
    network = model_of(config).to(dtype)
    ids = rng.integers(0, 1024, size=20)
    (found,) = score_documents(network, network, [("a", ids)], tmp_path)
    expected = by_full_logits(network.float(), ids[None])[0]
    close = 1e-4 if dtype == torch.float32 else 0.1
    np.testing.assert_allclose(found.base, expected, atol=close * np.abs(expected).max())
    np.testing.assert_array_equal(found.shift, 0)
