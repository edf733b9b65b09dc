import copy
import math
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AttentionInterface,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from longrecipe import models
from longrecipe.evaluate import (
    NIAH_M,
    NOISE,
    Reader,
    Report,
    copying,
    others,
    paired,
    perplexity,
    planted,
    report,
    scoring,
    sentences,
    to_read,
    worked,
    worked_table,
)
from longrecipe.evaluate.reader import cache_name, read_apart, texts_at_once

# reading once, asking often


@pytest.fixture
def texts(rng):
    return rng.integers(0, 1024, size=(3, 40))


@torch.inference_mode()
def full_logits(network, ids, last=1):
    return network(input_ids=torch.from_numpy(ids), use_cache=False).logits[:, -last:]


def greedy(network, context, n_tokens):
    """Greedy decoding without a cache."""
    start = context.shape[1]
    for _ in range(n_tokens):
        context = np.concatenate([context, full_logits(network, context).argmax(-1).numpy()], axis=1)
    return context[:, start:]


def test_asking_equals_a_forward_pass_over_everything(tiny, texts, rng):
    with torch.inference_mode():
        reader = Reader(tiny, texts)
        for width, last in ((1, 1), (6, 1), (6, 4), (2, 2)):
            questions = rng.integers(0, 1024, size=(3, width))
            expected = full_logits(tiny, np.concatenate([texts, questions], axis=1), last)
            assert expected.std() > 0.1
            logits = reader.ask(questions, last)
            assert logits.shape == (3, last, 1024)
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_texts_that_are_read_in_parts_answer_as_together(monkeypatch, tiny, texts, rng, size):
    questions = rng.integers(0, 1024, size=(3, 4))
    with torch.inference_mode():
        together = Reader(tiny, texts)
        monkeypatch.setattr(sys.modules[Reader.__module__], "BATCH_TOKENS", size * texts.shape[1])
        parts = Reader(tiny, texts)
        for _ in range(2):
            torch.testing.assert_close(parts.ask(questions), together.ask(questions), rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(parts.generate(questions, 3), together.generate(questions, 3))


SMALL = {"vocab_size": 1024, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2, "num_key_value_heads": 1}
BOTH = ["sliding_attention", "full_attention"]
# Models that cannot put caches together. Texts have 40 tokens, and questions end at 47.
OTHER_LAYERS = {
    "sliding 16": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=16)),
    "sliding 42": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=42)),
    "sliding 100": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=100)),
    "sliding and full": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=16, layer_types=BOTH)
    ),
    "recurrent and full": lambda: Qwen3NextForCausalLM(
        Qwen3NextConfig(
            **SMALL,
            head_dim=8,
            layer_types=["linear_attention", "full_attention"],
            linear_num_key_heads=1,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            mlp_only_layers=[0, 1],
        )
    ),
}


@pytest.mark.parametrize("kind", OTHER_LAYERS)
def test_models_of_other_layers_are_asked_several_questions(monkeypatch, texts, rng, kind):
    torch.manual_seed(0)
    network = OTHER_LAYERS[kind]().eval()
    monkeypatch.setattr(sys.modules[Reader.__module__], "BATCH_TOKENS", 1)
    with torch.inference_mode():
        reader = Reader(network, texts)
        for questions in rng.integers(0, 1024, size=(3, 3, 4)):
            whole = np.concatenate([texts, questions], axis=1)
            torch.testing.assert_close(reader.ask(questions), full_logits(network, whole), rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(reader.generate(questions, 3), greedy(network, whole, 3))


def test_a_gpu_is_asked_about_as_many_texts_as_its_free_memory_holds(monkeypatch, tiny):
    """40 % of the free memory holds 5.1 texts of 40,000 tokens."""
    c, reader = tiny.config, sys.modules[Reader.__module__]
    token = 4 * 2 * c.num_hidden_layers * c.num_key_value_heads * (c.hidden_size // c.num_attention_heads)
    assert reader._cached_bytes(tiny) == token
    monkeypatch.setattr(reader, "_cached_bytes", lambda network: token)
    on_gpu, free = SimpleNamespace(config=c, device=torch.device("cuda")), int(5.1 * 40_000 * token / 0.4)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: free // 2 + 100)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free - free // 2, 10 * free))
    assert (texts_at_once(on_gpu, 40_000), texts_at_once(on_gpu, 20_000)) == (5, 10)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: free)
    assert (texts_at_once(on_gpu, 400_000), texts_at_once(on_gpu, 4096)) == (1, 4)
    assert (texts_at_once(tiny, 40_000), texts_at_once(tiny, 4096)) == (1, 4)


def test_reader_uses_no_deprecated_argument(tiny, texts):
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        Reader(tiny, texts).generate(texts[:, :4], 2)


def test_reader_passes_its_cache_by_the_older_name_to_older_models(tiny, texts):
    class Older:
        config, device = tiny.config, tiny.device

        def forward(self, input_ids, past_key_values, use_cache, logits_to_keep):
            return tiny(input_ids=input_ids, cache=past_key_values, use_cache=use_cache, logits_to_keep=logits_to_keep)

        def __call__(self, **given):
            return self.forward(**given)

    with torch.inference_mode():
        assert torch.equal(Reader(Older(), texts).ask(texts[:, :4]), Reader(tiny, texts).ask(texts[:, :4]))


def test_asking_twice_gives_the_same(tiny, texts, rng):
    questions, other = rng.integers(0, 1024, size=(2, 3, 5))
    with torch.inference_mode():
        reader = Reader(tiny, texts)
        first, said = reader.ask(questions), reader.generate(questions, 3)
        assert not torch.equal(reader.ask(other), first)
        reader.converse([other, questions], 2, np.array([14]))
        assert torch.equal(reader.ask(questions), first)
        reader.generate(other, 4)
        np.testing.assert_array_equal(reader.generate(questions, 3), said)


@pytest.mark.parametrize("n_tokens", [1, 5])
def test_generate_is_greedy_decoding(tiny, texts, rng, n_tokens):
    questions = rng.integers(0, 1024, size=(3, 6))
    with torch.inference_mode():
        said = Reader(tiny, texts).generate(questions, n_tokens)
    np.testing.assert_array_equal(said, greedy(tiny, np.concatenate([texts, questions], axis=1), n_tokens))
    assert len(np.unique(said)) > 2


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_converse_is_greedy_decoding_turn_by_turn(tiny, texts, rng, n_tokens):
    turns, close = list(rng.integers(0, 1024, size=(4, 3, 5))), np.array([14, 15])
    with torch.inference_mode():
        answers = Reader(tiny, texts).converse(turns, n_tokens, close)
    context, expected = texts, []
    for turn in turns:
        context = np.concatenate([context, turn], axis=1)
        expected.append(greedy(tiny, context, n_tokens))
        context = np.concatenate([context, expected[-1], np.tile(close, (3, 1))], axis=1)
    np.testing.assert_array_equal(answers, np.stack(expected, axis=1))
    assert len(np.unique(answers)) > 3


def test_prompts_read_apart_are_continued_as_each_alone(tiny, texts):
    prompts, read = [texts[0, :20], texts[1, :13], texts[2, :20]], []
    answer = {"max_new_tokens": 6, "do_sample": False}
    ids = torch.zeros(3, 20, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, 20 - len(prompt) :], mask[row, 20 - len(prompt) :] = torch.from_numpy(prompt), 1
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = read_apart(tiny, ids, mask, 26, advance=read.append)
        said = tiny.generate(ids, attention_mask=mask, **answer, **{cache_name(tiny): cache})[:, 20:]
    expected = [greedy(tiny, prompt[None], 6)[0] for prompt in prompts]
    np.testing.assert_array_equal(said.numpy(), np.stack(expected))
    assert len(np.unique(said)) > 3 and read == [20, 13, 20]


def test_one_prompt_one_token_and_models_with_sliding_windows_are_not_read_apart(tiny, texts):
    ids = torch.from_numpy(texts[:, :20])
    assert read_apart(tiny, ids[:1], torch.ones_like(ids[:1]), 26) is None
    one = torch.ones_like(ids)
    one[0, :-1] = 0
    assert read_apart(tiny, ids, one, 26) is None
    assert read_apart(OTHER_LAYERS["sliding 16"](), ids, torch.ones_like(ids), 26) is None


# perplexity


def test_uniform_model_has_the_perplexity_of_its_vocabulary(tiny, rng):
    blank = copy.deepcopy(tiny)
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
    assert perplexity(blank, rng.integers(0, 1024, size=200), 32) == pytest.approx(1024, rel=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 100, 16_384])
def test_perplexity_is_over_all_whole_windows(tiny, rng, monkeypatch, batch_tokens):
    monkeypatch.setattr(sys.modules["longrecipe.evaluate.perplexity"], "BATCH_TOKENS", batch_tokens)
    ids = rng.integers(0, 1024, size=7 * 16 + 5)
    with torch.inference_mode():
        windows = torch.from_numpy(ids[: 7 * 16]).reshape(7, 16)
        logs = tiny(input_ids=windows, use_cache=False).logits[:, :-1].log_softmax(-1)
    expected = math.exp(-logs.gather(-1, windows[:, 1:, None]).double().mean().item())
    assert perplexity(tiny, ids, 16) == pytest.approx(expected, rel=1e-4)


def test_perplexity_needs_a_whole_window(tiny):
    with pytest.raises(ValueError, match="at 32 tokens needs a text at least that long, it has 31"):
        perplexity(tiny, np.zeros(31, dtype=np.int64), 32)


# copying


class Guesser:
    """A model that says a next token for every row of ids [n] and place: guess(row, i)."""

    device = torch.device("cpu")

    def __init__(self, guess):
        self.guess, self.read = guess, []

    def __call__(self, input_ids, use_cache):
        self.read += list(input_ids.numpy())
        logits = torch.zeros(*input_ids.shape, 1024)
        for b, row in enumerate(input_ids.tolist()):
            for i in range(len(row)):
                logits[b, i, self.guess(row, i)] = 1.0
        return SimpleNamespace(logits=logits)


def say_it_again(row, i):
    """What came after the last occurrence of the present token, and 0 after a new one."""
    before = [j for j in range(i) if row[j] == row[i]]
    return row[before[-1] + 1] if before else 0


@pytest.mark.parametrize("batch_tokens", [1, 80, 16_384])
@pytest.mark.parametrize("length", [40, 41])
def test_copying_is_1_for_a_model_that_copies(monkeypatch, rng, length, batch_tokens):
    monkeypatch.setattr(sys.modules["longrecipe.evaluate.perplexity"], "BATCH_TOKENS", batch_tokens)
    copier = Guesser(say_it_again)
    assert copying(copier, np.arange(100, 400), length, n_documents=5, rng=rng) == (1.0, 0.0)
    assert len(copier.read) == 5
    for row in copier.read:
        np.testing.assert_array_equal(row[:20], row[20:])
        assert set(np.diff(row[:20])) <= {1, -299}, "a stretch of the source"
    assert len({tuple(row) for row in copier.read}) > 1


def test_model_that_does_not_copy_scores_both_copies_the_same(rng):
    # Half of the tokens are followed by the next number, which is all this model says.
    source = np.repeat(np.arange(100, 300, 4), 2) + np.tile([0, 1], 50)
    second, first = copying(Guesser(lambda row, i: row[i] + 1), source, 41, n_documents=6, rng=rng)
    assert second == first and 0.4 < first < 0.6


def test_copying_leaves_out_unpredictable_tokens(rng):
    # Right everywhere inside a copy, wrong only where the second copy begins.
    knows = Guesser(lambda row, i: row[i + 1] if i not in (15, 31) else 0)
    assert copying(knows, np.arange(100, 400), 32, n_documents=3, rng=rng) == (1.0, 1.0)


# the report


@pytest.fixture(scope="module")
def source(facts):
    ids = np.arange(400, 600)
    return np.setdiff1d(ids, np.concatenate([facts.keys, facts.values, facts.note, facts.recall, facts.stop]))


@pytest.fixture(scope="module")
def words(tokenizer):
    return planted(tokenizer)


@pytest.fixture(scope="module")
def tiny_report(tiny, source, words):
    return report(tiny, source, words, lengths=[192, 128, 256], n_documents=2, n_facts=3, seed=5, others=others(words))


def test_report_measures_every_length(tiny_report, tiny, source, words):
    prompts, documents = tiny_report.prompts, {128: 4, 192: 1, 256: 2}
    assert list(prompts.columns) == ["task", "length", "document", "depth", "score"]
    counts = prompts.groupby("task")["length"].value_counts().unstack("task").sort_index()
    for task in ("multi-key", "multi-query"):
        assert counts[task].to_dict() == {n: 3 * count for n, count in documents.items()}
    assert counts["multi-value"].to_dict() == documents
    for task in others(words):
        assert counts[task].dropna().to_dict() == {128: 4, 256: 2}
    assert prompts.groupby("length")["document"].nunique().to_dict() == documents
    pd.testing.assert_frame_equal(tiny_report.recall, prompts[prompts["task"] == "multi-key"])
    assert tiny_report.general["perplexity"] == pytest.approx(perplexity(tiny, source, 128))
    assert set(tiny_report.general) == {"perplexity", "copying", "first_copy"}


def test_other_tasks_do_not_change_the_rest(tiny_report, tiny, source, words):
    plain = report(tiny, source, words, lengths=[128, 192, 256], n_documents=2, n_facts=3, seed=5)
    assert set(plain.prompts["task"]) == set(NIAH_M)
    rest = tiny_report.prompts[tiny_report.prompts["task"].isin(NIAH_M)]
    pd.testing.assert_frame_equal(plain.prompts, rest.reset_index(drop=True))
    assert plain.general == tiny_report.general


def test_one_length_is_measured_once(tiny, source, words):
    prompts = report(tiny, source, words, lengths=[128], n_documents=2, n_facts=2, seed=5, others=["single"]).prompts
    counts = prompts["task"].value_counts().to_dict()
    assert counts == {"multi-key": 8, "multi-query": 8, "multi-value": 4, "single": 4}


def test_share_reads_the_first_documents_beyond_the_window_and_all_inside(tiny, source, words):
    whole, some = (
        report(tiny, source, words, lengths=[128, 192, 256], n_documents=6, n_facts=2, seed=5, share=share)
        for share in (1.0, 0.5)
    )
    assert some.general == whole.general
    for length, documents in {128: 12, 192: 2, 256: 3}.items():
        key = ["document", "task", "depth"]
        first, found = (
            frame[(frame["length"] == length) & (frame["document"] < documents)].sort_values(key, ignore_index=True)
            for frame in (whole.prompts, some.prompts)
        )
        pd.testing.assert_frame_equal(found, first)
        assert (some.prompts["length"] == length).sum() == len(found) == 5 * documents


def test_unknown_task_error_lists_tasks(source, words):
    allowed = "allowed in the wording planted are single, variable tracking, common words"
    with pytest.raises(ValueError, match=rf"others = \['association', 'nil'\]: {allowed}"):
        report(
            None,
            source,
            words,
            lengths=[128],
            n_documents=2,
            n_facts=3,
            seed=0,
            others=["nil", "single", "association"],
        )


def test_perplexity_is_that_of_the_first_tokens_of_much_text(tiny, words, rng, monkeypatch):
    source = rng.integers(5, 500, size=600)
    whole, first = (perplexity(tiny, ids, 128) for ids in (source, source[:200]))
    options = {"lengths": [128], "n_documents": 2, "n_facts": 2, "seed": 0}
    assert report(tiny, source, words, **options).general["perplexity"] == whole != first
    monkeypatch.setattr(sys.modules["longrecipe.evaluate.report"], "PERPLEXITY_TOKENS", 200)
    assert report(tiny, source, words, **options).general["perplexity"] == first


def test_facts_that_do_not_fit_the_length_are_an_error(tiny, source, words):
    with pytest.raises(ValueError, match="13 facts need"):
        report(tiny, source, words, lengths=[100], n_documents=2, n_facts=9, seed=0)


def test_numbers_of_a_report(tiny_report, words):
    numbers = tiny_report.numbers()
    assert set(numbers) == {"recall", "niah_m", "tasks", "perplexity", "copying", "first_copy"}
    assert list(numbers["recall"]) == list(numbers["niah_m"]) == list(numbers["tasks"]) == [128, 192, 256]
    assert set(numbers["tasks"][128]) == set(numbers["tasks"][256]) == {*NIAH_M, *others(words)}
    assert set(numbers["tasks"][192]) == set(NIAH_M)
    cells = [*numbers["recall"].values(), *numbers["niah_m"].values(), *numbers["tasks"][256].values()]
    assert all(set(cell) == {"mean", "low", "high", "prompts"} for cell in cells)
    assert numbers == tiny_report.numbers()


def test_numbers_are_means_of_the_rows():
    rows = [
        *[("multi-key", 256, document, 0.5, score) for document, score in ((0, 1), (0, 1), (1, 1), (1, 0))],
        *[("multi-query", 256, document, 0.5, score) for document, score in ((0, 1), (0, 0), (1, 0), (1, 1))],
        *[("multi-value", 256, document, math.nan, score) for document, score in ((0, 0.5), (1, 0.25))],
        *[("single", 256, document, 0.1, 0.0) for document in range(3)],
        ("multi-key", 64, 0, 0.5, 0.25),
    ]
    made = Report(pd.DataFrame(rows, columns=["task", "length", "document", "depth", "score"]), {"perplexity": 12.5})
    numbers = made.numbers()
    assert numbers["recall"][256]["mean"] == made.recall_at(256) == 0.75 and made.recall_at(64) == 0.25
    assert numbers["recall"][256]["prompts"] == 4 and numbers["recall"][256] == numbers["tasks"][256]["multi-key"]
    assert numbers["recall"][64] == {"mean": 0.25, "low": 0.25, "high": 0.25, "prompts": 1}
    means = {task: cell["mean"] for task, cell in numbers["tasks"][256].items()}
    assert means == {"multi-key": 0.75, "multi-query": 0.5, "multi-value": 0.375, "single": 0}
    # The mean of the three tasks, single left out; documents have (1 + 1/2 + 1/2) / 3 and (1/2 + 1/2 + 1/4) / 3.
    assert numbers["niah_m"][256] == pytest.approx({"mean": 1.625 / 3, "low": 1.25 / 3, "high": 2 / 3, "prompts": 10})
    assert numbers["perplexity"] == 12.5


def test_every_model_reads_the_same_documents_and_keeps_its_mode(make_tiny, source, words, monkeypatch):
    read = {}

    class Watched(Reader):
        def __init__(self, network, ids):
            assert not network.training
            read.setdefault(id(network), []).append(ids)
            super().__init__(network, ids)

    monkeypatch.setattr(scoring, "Reader", Watched)
    networks = make_tiny(0), make_tiny(1).train()
    for network in networks:
        report(network, source, words, lengths=[128, 192], n_documents=2, n_facts=2, seed=9, others=["common words"])
    assert [network.training for network in networks] == [False, True]
    first, second = (read[id(network)] for network in networks)
    assert len(first) == len(second) == 4
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    # Common words read the same whatever else is asked; another seed, other documents.
    report(networks[0], source, words, lengths=[128, 192], n_documents=2, n_facts=2, seed=9, others=others(words))
    assert any(np.array_equal(first[2], ids) for ids in read[id(networks[0])][4:])
    report(networks[0], source, words, lengths=[128, 192], n_documents=2, n_facts=2, seed=8, others=["common words"])
    assert not any(np.array_equal(a, b) for a, b in zip(first[:4], read[id(networks[0])][-4:], strict=True))


def test_passkeys_are_asked_at_every_length_on_separate_documents(tiny, source, words):
    lengths, options = [96, 128, 192], {"n_documents": 2, "n_facts": 2, "seed": 9}
    plain = report(tiny, source, words, lengths=lengths, **options)
    found = report(tiny, source, words, lengths=lengths, **options, n_passkeys=5, share=0.5, others=others(words))
    passkeys = found.prompts.query("task == 'passkey'")
    assert passkeys.groupby("length").size().to_dict() == {96: 3, 128: 5, 192: 5}
    assert passkeys["document"].tolist() == [0, 1, 2, *[0, 1, 2, 3, 4] * 2]
    pd.testing.assert_frame_equal(
        found.recall.query("length != 192").reset_index(drop=True),
        plain.recall.query("length != 192").reset_index(drop=True),
    )


def test_lengths_above_the_longest_are_left_out_and_change_nothing_else(tiny, source, words):
    options = {"lengths": [96, 128, 192], "n_documents": 4, "n_facts": 2, "seed": 9, "n_passkeys": 5}
    everything, some = report(tiny, source, words, **options), report(tiny, source, words, **options, longest=128)
    kept = everything.prompts.query("length <= 128").reset_index(drop=True)
    pd.testing.assert_frame_equal(some.prompts, kept)
    assert some.general == everything.general and set(kept["length"]) == {96, 128}


def test_only_niah_documents_are_made_from_the_haystack(tiny, source, words, monkeypatch):
    module = sys.modules["longrecipe.evaluate.report"]  # the package has a function of that name
    read, ask = [], module.ask

    def spy(*given, source, **named):
        read.append(source)
        return ask(*given, source=source, **named)

    monkeypatch.setattr(module, "ask", spy)
    haystack = words.encode(NOISE)
    options = {"n_documents": 2, "n_facts": 2, "seed": 9, "others": ["single"]}
    plain = report(tiny, source, words, lengths=[128, 192], **options)
    assert all(text is source for text in read)
    read.clear()
    noisy = report(tiny, source, words, lengths=[128, 192], **options, haystack=haystack)
    # NIAH(M) at both lengths, then the single fact.
    assert [text is haystack for text in read] == [True, True, False, False] and noisy.general == plain.general


def test_paired_takes_the_prompts_that_both_models_were_asked():
    columns = ["task", "length", "document", "depth", "score"]
    asked = [("multi-key", 256, document, depth, 1.0) for document in (0, 1, 2) for depth in (0.25, 0.75)]
    more = [*asked, ("single", 256, 0, 0.5, 1.0), ("multi-value", 256, 0, math.nan, 0.75)]
    one = Report(pd.DataFrame(more, columns=columns), {})
    other = Report(pd.DataFrame([(*row[:4], 0.5) for row in more[:4] + more[-1:]], columns=columns), {})
    both = paired(one, other)
    assert list(both.columns) == columns and len(both) == 5
    assert both.query("task == 'multi-key'")[["document", "depth"]].values.tolist() == [
        [0, 0.25],
        [0, 0.75],
        [1, 0.25],
        [1, 0.75],
    ]
    assert both["score"].tolist() == [0.5] * 4 + [0.25]
    assert (paired(other, one)["score"] == -both["score"]).all()


def test_other_precision_returns_a_copy_with_the_same_rope_frequencies(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    network = models.load("llama3")
    assert to_read(network, "fp32") is network
    copied = to_read(network, "bf16")
    assert (network.dtype, copied.dtype) == (torch.float32, torch.bfloat16)
    frequencies = [dict(each.named_buffers())["model.rotary_emb.inv_freq"] for each in (network, copied)]
    assert frequencies[1].dtype == torch.float32 and torch.equal(*frequencies)
    # Of the same weights as a model that is loaded so, position by position.
    loaded = models.load("llama3", dtype=torch.bfloat16)
    loaded.set_attn_implementation(copied.config._attn_implementation)
    x = torch.arange(300)[None]
    with torch.inference_mode():
        assert torch.equal(copied(input_ids=x).logits, loaded(input_ids=x).logits)


def test_bfloat16_on_cpu_attends_in_float32_and_keeps_torch_settings(rng, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    network, before = models.load("mistral"), torch.get_float32_matmul_precision()
    copied = to_read(network, "bf16")
    loaded = models.load("mistral", dtype=torch.bfloat16)
    assert to_read(loaded).config._attn_implementation == "float32_sdpa" and to_read(copied) is copied
    assert loaded.config._attn_implementation == "sdpa"
    assert (network.config._attn_implementation, copied.config._attn_implementation) == ("sdpa", "float32_sdpa")
    query, key = torch.from_numpy(rng.normal(size=(2, 1, 4, 30, 16)).astype("float32")).bfloat16()
    attend = AttentionInterface()["float32_sdpa"]
    module = SimpleNamespace(num_key_value_groups=2, is_causal=True, training=False)
    read, _ = attend(module, query, key[:, :2], key[:, 2:], None)
    exact = F.scaled_dot_product_attention(
        query.float(), *(each.float().repeat_interleave(2, dim=1) for each in (key[:, :2], key[:, 2:])), is_causal=True
    )
    # Half a unit in the last place of bfloat16, and what two ways to multiply differ by.
    torch.testing.assert_close(read.float(), exact.transpose(1, 2), rtol=2**-8 + 1e-4, atol=1e-5)
    assert read.dtype == torch.bfloat16 and torch.get_float32_matmul_precision() == before
    # One token, with a mask of either kind: scores are rounded to bfloat16.
    seen = torch.arange(30)[None, None, None] >= torch.tensor([3])
    least = torch.finfo(torch.bfloat16).min
    for mask in (None, seen, torch.where(seen, 0.0, least).bfloat16()):
        last = query[:, :, -1:], key[:, :2], key[:, 2:]
        once, _ = attend(module, *last, mask, scaling=0.3)
        whole, _ = sdpa_attention_forward(
            module, *(x.float() for x in last), mask if mask is None else seen, scaling=0.3
        )
        assert once.dtype == torch.bfloat16 and once.shape == whole.shape
        torch.testing.assert_close(once.float(), whole, rtol=0.02, atol=0.02)
    assert not torch.allclose(once, attend(module, *last, None, scaling=0.3)[0]), "a mask that hides something"
    # Read in pieces as in one: what was read before is seen, what comes is not.
    ids = rng.integers(0, 1024, size=(2, 60))
    with torch.inference_mode():
        whole = Reader(copied, ids[:, :50]).ask(ids[:, 50:], last=10)
        assert whole.std() > 1, "of tolerances that tell something"
        torch.testing.assert_close(whole, full_logits(copied, ids, 10).float(), rtol=0.05, atol=0.1)


# one worked question


def test_worked_question_is_the_first_one_that_a_report_asks(tiny, source, words):
    asked = worked(tiny, words, source, length=128, n_facts=3, seed=5)
    assert asked.fact in asked.before + asked.fact + asked.after and asked.question.startswith(" Recall:")
    key = asked.question.removeprefix(" Recall:")
    assert asked.fact == f" Note:{key}{asked.right}." and asked.length == 128
    assert 0 < asked.distance < 128
    prompts = report(tiny, source, words, lengths=[128, 256], n_documents=2, n_facts=3, seed=5).prompts
    first = prompts.query("task == 'multi-key' and length == 128").iloc[0]
    assert first["score"] == (asked.answer == asked.right)
    assert 0 < asked.right_probability <= asked.answer_probability <= 1
    assert worked_table([asked]).loc[128, "right answer"] == asked.right.strip()
    assert f"<mark>{asked.fact}</mark>" in asked._repr_html_()


def test_worked_question_in_sentences_finds_its_fact(tiny, tokenizer, corpus):
    wording = sentences(tokenizer)
    asked = worked(tiny, wording, corpus.held_out, length=480, n_facts=2)
    assert asked.fact.startswith(" One of the secret numbers for") and asked.fact.endswith(f"{asked.right}.")
