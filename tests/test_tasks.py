import functools
import itertools
import re
from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from longrecipe.data.english import reference_texts
from longrecipe.evaluate import (
    NIAH_M,
    OTHERS,
    RULER,
    TASKS,
    association,
    common_words,
    needles,
    others,
    passkey,
    planted,
    sentences,
    single,
    tracking,
)
from longrecipe.evaluate.association import FACT, PLACES, QUESTION
from longrecipe.evaluate.tasks import (
    ASK,
    ASK_ALL,
    CLOSE,
    COMMON,
    LINK,
    LIST_OPENING,
    NOISE,
    NOTE,
    OPENING,
    WHICH,
    fact_counts,
)
from longrecipe.evaluate.wording import ADJECTIVES, NOUNS

SEEDS = range(8)


def found(wording, template, text):
    """Where a template's statements stand in a text, and what fills it: [(index, first, second)], in order."""
    pattern = re.escape(template).replace(re.escape("{value}"), r"( \d+)")
    for name in ("{key}", "{other}"):
        pattern = pattern.replace(re.escape(name), "( [a-z-]+)")
    return [(match.start(), *match.groups()) for match in re.finditer(pattern, text)]


def texts(wording, answers):
    return [wording.decode(answer) for answer in answers]


def spoken(*parts):
    return sum(map(len, parts))


# wording


def test_planted_wording_is_the_format_of_the_mini_models(tokenizer, facts):
    wording = planted(tokenizer)
    assert wording.keys == tuple(tokenizer.decode([i]) for i in facts.keys)
    assert wording.values == tuple(tokenizer.decode([i]) for i in facts.values)
    for i, j in [(0, 0), (5, 17), (-1, -1)]:
        key, value = wording.keys[i], wording.values[j]
        note, recall = (facts.statement(each, facts.keys[i], facts.values[j]) for each in (facts.note, facts.recall))
        np.testing.assert_array_equal(wording.encode(wording.text(NOTE, key=key, value=value)), note)
        for phrase in (ASK, ASK_ALL):
            question = wording.text(phrase, key=key)
            parts = [wording.encode(question), wording.answer(question, value), wording.encode(wording.text(CLOSE))]
            np.testing.assert_array_equal(np.concatenate(parts), recall)
        link = facts.statement(facts.note, facts.keys[i], facts.keys[2])
        np.testing.assert_array_equal(wording.encode(wording.text(LINK, key=key, other=wording.keys[2])), link)
        np.testing.assert_array_equal(wording.encode(wording.text(WHICH, value=value)), [*facts.recall, note[-2]])
    np.testing.assert_array_equal(wording.encode(wording.text(COMMON)), facts.recall)
    assert wording.encode(" Note:").dtype == np.int64


def blank_first(bpe):
    """As some tokenizers are: the same vocabulary, but a text's first word gets a blank."""
    bare = Tokenizer.from_str(bpe.backend_tokenizer.to_str())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return PreTrainedTokenizerFast(tokenizer_object=bare)


@pytest.mark.parametrize("which", ["mini", "bpe", "blank first"])
def test_decoding_gives_the_encoded_text(tokenizer, bpe, which):
    used = {"mini": tokenizer, "bpe": bpe, "blank first": blank_first(bpe)}[which]
    if which == "blank first":
        assert used.decode(used("name")["input_ids"]) == " name"
    for wording in (planted(used),) if which == "mini" else (sentences(used),):
        fill = {"key": wording.keys[3], "value": wording.values[5], "other": wording.keys[8]}
        written = [wording.text(phrase, **fill) for phrase in (NOTE, ASK, ASK_ALL, LINK, WHICH, COMMON, CLOSE)]
        for text in [*written, *fill.values()]:
            assert wording.decode(wording.encode(text)) == text
        # Piece by piece as in one go: a statement reads the same anywhere in a text.
        pieces = np.concatenate([wording.encode(text) for text in written])
        assert wording.decode(pieces) == "".join(written)
        question = wording.text(ASK, **fill)
        assert wording.decode(wording.answer(question, fill["value"])) == fill["value"]


def test_all_keys_and_all_values_have_the_same_number_of_tokens(wording):
    for texts, template in (
        (wording.values, wording.text(ASK)),
        (wording.keys, wording.text(WHICH)),
        (wording.keys, "{other}"),
    ):
        question = template.format(key=wording.keys[0], value=wording.values[0], other=wording.text(COMMON))
        assert len({len(wording.encode(text)) for text in texts}) == 1
        assert len({len(wording.answer(question, text)) for text in texts}) == 1
    assert len(set(wording.keys)) == len(wording.keys) >= 64 and len(set(wording.values)) == len(wording.values) >= 64


def test_sentences_wording_depends_on_the_seed(bpe):
    wording, again, other = (sentences(bpe, seed) for seed in (0, 0, 1))
    assert (wording.keys, wording.values) == (again.keys, again.values)
    assert wording.keys != other.keys and wording.values != other.values
    assert all(re.fullmatch(r" [1-9]\d{6}", value) for value in wording.values)
    parts = [key[1:].split("-") for key in wording.keys]
    assert all(first in ADJECTIVES.split() and second in NOUNS.split() for first, second in parts)
    assert len(wording.encode(wording.values[0])) > 1 and len(wording.encode(wording.keys[0])) > 1


def test_only_sentences_announce_the_questions_at_the_start(wording, prose, rng):
    for make, phrase in ((single, OPENING), (needles, OPENING), (tracking, OPENING), (common_words, LIST_OPENING)):
        head = wording.opening(phrase)
        assert (len(head) > 0) == (wording.kind == "sentences")
        np.testing.assert_array_equal(make(wording, prose, 900, rng).ids[: len(head)], head)


# all tasks


@pytest.mark.parametrize("length", [700, 901])
@pytest.mark.parametrize(
    "make",
    [single, passkey, needles, functools.partial(needles, n_keys=1), tracking, common_words],
    ids=["single", "passkey", "needles", "needles of one key", "tracking", "common_words"],
)
def test_longest_prompt_fills_the_length(wording, prose, make, length):
    documents = [make(wording, prose, length, np.random.default_rng(seed)) for seed in SEEDS]
    sizes = set()
    for document in documents:
        asked = [question.size for question in document.questions]
        close = (len(document.turns) - 1) * len(wording.encode(wording.text(CLOSE)))
        turns = spoken(*(turn.ids for turn in document.turns), *(turn.answers[0] for turn in document.turns)) + close
        sizes.add(len(document.ids) + max(*asked, turns))
        assert document.ids.dtype == np.int64
        assert [len(question.ids) for question in document.questions] == [
            len(question.ids) for question in documents[0].questions
        ], "questions of one column are equally long"
    # A list of words ends with a whole word.
    slack = len(wording.encode(wording.keys[0])) if make is common_words else 1
    assert len(sizes) == 1 and length - slack < min(sizes) <= length


@pytest.mark.parametrize("make", [single, passkey, needles, tracking, common_words], ids=lambda make: make.__name__)
def test_documents_depend_only_on_the_seed(wording, prose, make):
    first, again, other = (make(wording, prose, 900, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.ids, again.ids)
    np.testing.assert_array_equal(first.questions[0].answers[0], again.questions[0].answers[0])
    assert not np.array_equal(first.ids, other.ids)


@pytest.mark.parametrize("make", [single, passkey, needles, tracking])
def test_facts_that_do_not_fit_are_an_error(wording, prose, make, rng):
    with pytest.raises(ValueError, match="facts need"):
        make(wording, prose, 8 if make in (single, passkey) else 30, rng)


def test_table_of_tasks():
    assert NIAH_M == ("multi-key", "multi-value", "multi-query") and ("single", *NIAH_M) == RULER
    assert OTHERS == ("single", "variable tracking", "common words", "association")
    assert {name for name, task in TASKS.items() if task.single_answer} == {"single", "passkey", "association"}
    # Published numbers depend on the streams.
    streams = {task.make: task.stream for task in TASKS.values()}
    assert streams == {needles: 0, single: 1, tracking: 2, common_words: 3, passkey: 4, association: 5}


@pytest.mark.parametrize("name", TASKS)
def test_documents_of_a_task_have_its_questions(wording, prose, rng, name):
    if name not in others(wording) and name in OTHERS:
        pytest.skip("real models only")
    document = TASKS[name].make(wording, prose, 900, rng)
    questions = [each for each in (*document.questions, *document.turns) if each.task == name]
    assert questions
    if TASKS[name].single_answer:
        assert len(questions) == len(document.questions) == len(questions[0].answers) == 1


# needles


@pytest.mark.parametrize(("make", "length"), [(single, 300), (passkey, 700)], ids=["single", "passkey"])
def test_single_and_passkey_hide_one_fact(wording, prose, make, length):
    depths = []
    for seed in SEEDS:
        document = make(wording, prose, length, np.random.default_rng(seed))
        text = wording.decode(document.ids)
        ((start, key, value),) = found(wording, wording.text(NOTE), text)
        (question,) = document.questions
        assert (question.task, document.turns) == (make.__name__, ())
        assert wording.decode(question.ids) == wording.text(ASK, key=key)
        assert texts(wording, question.answers) == [value]
        assert start == len(wording.decode(document.ids[: round(question.depth * len(document.ids))]))
        depths.append(question.depth)
        if make is passkey:
            around = text[len(wording.decode(wording.opening(OPENING))) :].replace(
                wording.text(NOTE, key=key, value=value), ""
            )
            assert around in NOISE * 40 and around.count("The grass is green.") > 3
    assert len(set(depths)) > 4


@pytest.mark.parametrize(("n_keys", "n_values"), [(4, 4), (2, 3), (1, 4)])
def test_needles_has_all_of_niah_in_one_document(wording, prose, n_keys, n_values):
    for seed in SEEDS:
        document = needles(wording, prose, 600, np.random.default_rng(seed), n_keys=n_keys, n_values=n_values)
        text = wording.decode(document.ids)
        notes = found(wording, wording.text(NOTE), text)
        owners = Counter(key for _, key, _ in notes)
        assert sorted(owners.values()) == sorted([1] * n_keys + [n_values])
        assert len({value for *_, value in notes}) == n_keys + n_values, "no value twice"
        alone, last = document.questions[:n_keys], document.questions[n_keys]
        assert [question.task for question in (*alone, last)] == ["multi-key"] * n_keys + ["multi-value"]
        together = document.questions[-1]
        joint = wording.kind == "sentences" and n_keys > 1
        assert len(document.questions) == n_keys + 1 + joint and (together.task == "multi-query") == joint
        places = {value: (start, key) for start, key, value in notes}
        for question in alone:
            (value,) = texts(wording, question.answers)
            start, key = places[value]
            assert owners[key] == 1 or n_values == 1
            assert wording.decode(question.ids) == wording.text(ASK, key=key)
            assert start == len(wording.decode(document.ids[: round(question.depth * len(document.ids))]))
        (frequent,) = (key for key, count in owners.items() if count == n_values)
        assert wording.decode(last.ids) == wording.text(ASK_ALL, key=frequent)
        assert set(texts(wording, last.answers)) == {value for _, key, value in notes if key == frequent}
        assert len(last.answers) == n_values and np.isnan(last.depth)
        # The conversation is about the same facts, in the same words.
        if joint:
            # One question for all keys, instead of a conversation.
            listed = [key for _, key, _ in notes if owners[key] == 1]
            assert sorted(re.findall(" [a-z]+-[a-z]+", wording.decode(together.ids))[:n_keys]) == sorted(listed)
            assert texts(wording, together.answers) == [texts(wording, each.answers)[0] for each in alone]
            assert not document.turns
            continue
        assert len(document.turns) == (n_keys if n_keys > 1 else 0)
        for turn, question in zip(document.turns, alone, strict=False):
            assert (turn.task, turn.depth) == ("multi-query", question.depth)
            for one, other in ((turn.ids, question.ids), (turn.answers, question.answers)):
                np.testing.assert_array_equal(one, other)


def test_few_facts_have_as_few_values_in_sentences(wording):
    assert fact_counts(wording, 8) == {"n_keys": 8, "n_values": 4}
    assert fact_counts(wording, 2) == {"n_keys": 2, "n_values": 4 if wording.kind == "planted" else 2}


# tracking


@pytest.mark.parametrize(("n_names", "n_chains"), [(4, 2), (3, 3)])
def test_tracking_keeps_the_order_of_chains_and_asks_for_all_keys(wording, prose, n_names, n_chains):
    mixed = 0
    for seed in SEEDS:
        document = tracking(wording, prose, 700, np.random.default_rng(seed), n_names=n_names, n_chains=n_chains)
        text = wording.decode(document.ids)
        values = {key: (start, value) for start, key, value in found(wording, wording.text(NOTE), text)}
        links = found(wording, wording.text(LINK), text)
        assert len(values) == n_chains == len({value for _, value in values.values()})
        chains = {key: [key] for key in values}
        for start, key, other in sorted(links):
            # Only a key that was named before, as the last of its chain, is handed on.
            ((first, chain),) = ((name, names) for name, names in chains.items() if names[-1] == other)
            assert values[first][0] < start
            chain.append(key)
        assert all(len(chain) == n_names for chain in chains.values())
        assert len({key for chain in chains.values() for key in chain}) == n_names * n_chains
        (question,) = document.questions
        assert question.task == "variable tracking" and np.isnan(question.depth) and not document.turns
        asked = {wording.text(WHICH, value=value): chains[key] for key, (_, value) in values.items()}
        assert texts(wording, question.answers) == asked[wording.decode(question.ids)]
        places = sorted(
            [(start, key) for key, (start, _) in values.items()] + [(start, key) for start, key, _ in links]
        )
        whose = [next(name for name, chain in chains.items() if key in chain) for _, key in places]
        mixed += sum(a != b for a, b in itertools.pairwise(whose)) > n_chains - 1
    assert mixed > len(SEEDS) / 2, "chains run side by side"


# common words


@pytest.mark.parametrize(("n_common", "times"), [(4, 4), (2, 6)])
@pytest.mark.parametrize("length", [700, 901, 4001])
def test_common_words_asks_for_the_most_frequent(wording, prose, length, n_common, times):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        document = common_words(wording, prose, length, rng, n_common=n_common, times=times)
        text = wording.decode(document.ids[len(wording.opening(LIST_OPENING)) :])
        words = re.findall(" [a-z-]+", text)
        assert "".join(words) == text and set(words) <= set(wording.keys), "nothing but words"
        counts = Counter(words)
        (question,) = document.questions
        assert (question.task, wording.decode(question.ids)) == ("common words", wording.text(COMMON))
        asked = texts(wording, question.answers)
        assert len(set(asked)) == n_common
        common, rare = ([counts[w] for w in counts if (w in asked) == kind] for kind in (True, False))
        assert len(common) == n_common and min(rare) >= 3 and max(rare) - min(rare) <= 1
        assert min(common) >= times * min(rare) and max(common) <= times * (min(rare) + 1)
        assert (max(rare) == min(rare)) or min(common) == times * max(rare)
        # As many different words as that allows.
        assert len(rare) == len(wording.keys) - n_common or min(rare) == 3
        places = np.flatnonzero(np.isin(words, asked)) / len(words)
        assert abs(places.mean() - 0.5) < 0.15, "in random order"


def test_too_short_list_is_an_error(wording, prose, rng):
    size = len(wording.encode(wording.keys[0]))
    head, asked = wording.opening(LIST_OPENING), common_words(wording, prose, 900, rng).questions[0]
    least = len(head) + asked.size + 3 * (4 * 4 + 4) * size
    with pytest.raises(ValueError, match=f"a list of {least - 1} tokens has no room for 4 common words"):
        common_words(wording, prose, least - 1, rng)
    assert len(common_words(wording, prose, least, rng).ids) == len(head) + 60 * size


# association


# Words that carry no content of their own.
PLAIN = "a all and at has have in is it next of on one people some that the them to what who with"


def content(text):
    return set(re.findall("[a-z]+", text.lower())) - set(PLAIN.split())


def test_association_question_shares_no_content_word_with_any_fact():
    assert len(PLACES) >= 8 and len(set(PLACES.values())) == len(PLACES), "one place a country"
    for country in PLACES.values():
        asked = content(QUESTION.format(country=country))
        assert country.lower() in asked and "home" in asked
        for place in PLACES:
            assert not asked & content(FACT.format(person="Nobody", place=place))


def test_association_asks_for_who_lives_next_to_a_place_in_the_country(bpe, rng):
    wording, seen = sentences(bpe), set()
    source = wording.encode("\n".join(reference_texts())[:60_000])
    for _ in range(20):
        document = association(wording, source, 600, rng)
        text, (question,) = wording.decode(document.ids), document.questions
        facts = re.findall(r" ([A-Z][a-z]+) lives next to ([^.]+)\.", text)
        assert len(facts) == len({person for person, _ in facts}) == len({place for _, place in facts}) == 4
        country = re.search(r"home in ([A-Z][a-z]+)\?", wording.decode(question.ids))[1]
        (right,) = texts(wording, question.answers)
        assert [person for person, place in facts if PLACES[place] == country] == [right.strip()]
        # No second name fits into the continuation.
        assert question.n_tokens == len(question.answers[0]) + 1
        start = round(question.depth * len(document.ids))
        assert wording.decode(document.ids[start:]).startswith(f"{right} lives next to")
        assert len(document.ids) + question.size == 600
        seen.add(country)
    assert len(seen) > 3


def test_association_of_mini_models_is_an_error(tokenizer, rng):
    wording = planted(tokenizer)
    with pytest.raises(ValueError, match="'association' asks for knowledge of the world"):
        association(wording, np.arange(500), 300, rng)
    assert others(wording) == OTHERS[:-1]
