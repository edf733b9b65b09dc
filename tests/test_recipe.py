import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import PreTrainedConfig

from longrecipe import evaluate, models, positions, recipe, results, settings, tokens, train
from longrecipe.data import samples
from longrecipe.positions import METHODS
from longrecipe.recipe import cache, measuring
from longrecipe.settings import Params, ParamsError
from longrecipe.settings.schema import NO_EFFECT
from longrecipe.system.codehash import code_hash
from longrecipe.system.paths import cache_dir
from longrecipe.train.memory import rows_at_once

STAGES = ("analysis", "extend", "replay")
COLUMNS = ["task", "length", "document", "depth", "score"]
slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def prepared():
    return recipe.prepare(settings.load("llama3", target_length=1024, probe_window=512))


def test_drawn_positions_are_those_of_the_first_epoch(prepared):
    drawn = prepared.drawn_positions(3)
    assert [each.shape for each in drawn] == [(307,)] * 3
    for each in drawn:
        assert each[0] == 0 and each[-1] < 1024 and (np.diff(each) > 0).all()
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_array_equal(drawn, prepared.drawn_positions(3))
    few = prepared.drawn_positions(4, n_documents=2)
    np.testing.assert_array_equal(few[0], drawn[0])
    assert (few[0] != few[2]).any() and len({len(each) for each in few}) == 1
    # Segments are sentences: as long on average as those of the text.
    assert 5 < positions.coverage.contiguous_run(drawn) < 60


def test_varied_recipe_has_other_settings_and_the_same_text(prepared):
    other = prepared.varied(method="pose:n_chunks=3", ratio=0.1, seed=4, target_length=2048)
    assert other.params == settings.load(
        "llama3", method="pose:n_chunks=3", ratio=0.1, seed=4, target_length=2048, probe_window=512
    )
    assert other.text is prepared.text
    for stage in ("analysis", "extend", "replay"):
        assert other.folder(stage) != prepared.folder(stage) and ":" not in other.folder(stage).name
    for each in other.drawn_positions(20):
        assert len(each) == 204 and (np.diff(each) > 1).sum() <= 2
    # At its true positions, a sample is the document with gaps.
    (found,) = prepared.varied(method="source").drawn_positions(1)
    assert len(found) == 307 and found[-1] < 1024 and (np.diff(found) > 1).any()


def test_recipe_cannot_be_varied_to_invalid_settings(prepared):
    with pytest.raises(ParamsError, match="allowed are longrecipe"):
        prepared.varied(method="nope")
    with pytest.raises(ValueError, match="prepare another recipe"):
        prepared.varied(model="smollm2")


SHORT = {"n_documents": 4, "extend_steps": 2, "extend_batch_size": 2, "target_length": 512, "probe_window": 272}
SHORT |= {"replay_steps": 4, "replay_batch_size": 2, "replay_long_share": 0.5, "probe_steps": 2, "probe_batch_size": 2}
SHORT |= {"analysis_documents": 5, "merge_rule": "uniform"}


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path))


@pytest.mark.parametrize("method", ["longrecipe", *(slow(name) for name in METHODS if name != "longrecipe")])
def test_every_method_trains(method, prepared, own_cache):
    run = prepared.varied(method=method, selection="random", **SHORT)
    dataset = run.stage_one_set(run.analyse())
    assert len(dataset) == 4 and set(map(len, dataset["input_ids"])) == {run.params.train_length}
    trained = run.extend(dataset)
    assert len(trained.losses) == 2 and np.isfinite(trained.losses).all()
    batch = run.collator()([dataset[0]])
    assert batch["position_ids"].max() < 512
    if method == "source":
        # Sentences keep their places in the document, with gaps between them.
        starts = np.repeat(dataset[0]["segment_starts"], dataset[0]["segment_lengths"])
        assert (batch["position_ids"][0].numpy() - starts >= 0).all() and starts.max() > run.params.train_length


# stages that runs share


def trained(run):
    """All stages of a run: the extended, the replayed and the merged model."""
    analysis = run.analyse()
    extended = run.extend(run.stage_one_set(analysis))
    replayed = run.replay(extended, analysis)
    return extended, replayed, run.merge(replayed)


@pytest.mark.slow
def test_runs_share_stages_until_their_settings_differ(prepared, own_cache, monkeypatch):
    first = prepared.varied(method="pose", **SHORT)
    extended, replayed, merged = trained(first)
    assert extended.resumed_from is replayed.resumed_from is None and merged.config.max_position_embeddings == 512
    stored, store = [], samples.store
    monkeypatch.setattr(samples, "store", lambda rows, folder: stored.append(folder) or store(rows, folder))

    # Another merge trains nothing again.
    other_merge = first.varied(merge_weight=1.0)
    assert [other_merge.folder(stage) == first.folder(stage) for stage in STAGES] == [True] * 3
    again, replayed_again, original = trained(other_merge)
    assert (again.resumed_from, replayed_again.resumed_from, stored) == (2, 4, [])
    assert (again.folder, replayed_again.folder) == (extended.folder, replayed.folder)
    assert all(torch.equal(a, b) for a, b in zip(original.parameters(), first.base().parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(original.parameters(), merged.parameters(), strict=True))

    # With another rule, queries and keys keep their tuned values.
    *_, spared = trained(first.varied(merge_weight=1.0, merge_rule="spare_qk"))
    tuned, base = replayed.load().state_dict(), original.state_dict()
    for name, tensor in spared.state_dict().items():
        assert torch.equal(tensor, (tuned if "q_proj" in name or "k_proj" in name else base)[name]), name
    # Each merged model has its own folder.
    assert stored == [] and len(list(replayed.folder.parent.glob("merged*"))) == 3

    # Another replay starts from the same extended model, with its own samples.
    other_replay = first.varied(replay_kl_weight=0.0)
    assert first.params.replay_kl_weight > 0
    assert [other_replay.folder(stage) == first.folder(stage) for stage in STAGES] == [True, True, False]
    again, plain, _ = trained(other_replay)
    assert (again.resumed_from, plain.resumed_from) == (2, None)
    assert [folder.parents[1] for folder in stored] == [other_replay.folder("replay")]
    # The KL term is only used for short text: the first batch is long, the second short.
    assert plain.losses[0] == replayed.losses[0] and plain.losses[1] < replayed.losses[1]

    # Another method only shares the analysis.
    other_method = first.varied(method="rpes")
    assert [other_method.folder(stage) == first.folder(stage) for stage in STAGES] == [True, False, False]


def test_folders_of_other_code_differ(prepared, monkeypatch):
    before = [prepared.folder(stage) for stage in STAGES]
    changed = cache.CODE["extend"]
    monkeypatch.setattr(cache, "code_hash", lambda *entries: "new" if entries == changed else code_hash(*entries))
    assert [prepared.folder(stage) == old for stage, old in zip(STAGES, before, strict=True)] == [True, False, True]


def test_folders_of_other_weights_in_the_same_place_differ(tmp_path, tiny, make_tiny, tokenizer, prepared):
    run = prepared.varied()
    run = replace(run, params=run.params.model_copy(update={"weights": str(tmp_path)}))
    folders = []
    for network in (tiny, make_tiny(1), tiny):
        models.save(network, tokenizer, tmp_path)
        folders.append([run.folder(stage) for stage in STAGES])
    assert folders[0] == folders[2] and not {*folders[0]} & {*folders[1]}
    tokenizer_file = tmp_path / "tokenizer_config.json"
    tokenizer_file.write_text(tokenizer_file.read_text().replace("256", "257"))
    assert run.folder("analysis") != folders[0][0]


class Watched(Params):
    """Settings that record which of them are read."""

    def __getattribute__(self, name):
        if name in Params.model_fields:
            READ.add(name)
        return super().__getattribute__(name)


READ: set[str] = set()


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.slow
def test_folder_of_a_stage_depends_on_all_settings_that_the_stage_reads(prepared, own_cache, monkeypatch):
    plain = prepared.varied(**SHORT).params
    run = replace(prepared, params=Watched(**plain.model_dump()))
    # The names of a folder and of a run do not count as a use of a setting.
    monkeypatch.setattr(Params, "method_slug", "longrecipe")
    monkeypatch.setattr(results, "run_name", lambda params, notebook: "train-llama3")
    stages = {
        "analysis": lambda made: run.scored(),
        "extend": lambda made: run.extend(run.stage_one_set(run.analyse())),
        "replay": lambda made: run.replay(made["extend"], run.analyse()),
    }
    made = {}
    for stage, make in stages.items():
        READ.clear()
        made[stage] = make(made)
        assert {"seed", "model"} <= READ
        # Weights after eval_steps are in a folder of their own, inside that of the stage.
        for name in READ - NO_EFFECT - {"eval_steps"}:
            value = getattr(plain, name)
            other = plain.model_copy(update={name: "other" if isinstance(value, str) else 7 + (value or 0)})
            assert other.stage_key(stage) != plain.stage_key(stage), f"{stage} reads {name}"


# the export


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["yarn", "entropy_abf"])
def test_runs_with_another_rope_rule_are_exported_with_it(rule, prepared, own_cache, tmp_path):
    run = prepared.varied(rope_rule=rule, loss_weight="anchor", out=str(tmp_path / "out"), **SHORT)
    # Raises if the exported model, loaded with plain transformers, is not the one that was trained.
    found = recipe.export_checked(run, recipe.train_all(run, run.analyse()), {})["found"]
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert found["window"] == "512 tokens" and written["rope_scaling"]["rope_type"] == "yarn"
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| RoPE rule | {rule} |" in card and "| loss weights | anchor, 9 |" in card


def test_export_uses_the_settings_of_the_run(prepared, own_cache, tmp_path, monkeypatch):
    run = prepared.varied(out=str(tmp_path / "exported"), **SHORT)
    models.save(run.raised(), run.tokenizer, tmp_path / "replay" / "model")
    replayed = train.Trained("replay", tmp_path / "replay" / "model", [1.0], 1.0, 1, None)
    with monkeypatch.context() as patch:
        # A process that is not the main one.
        patch.setenv("RANK", "1")
        assert run.export(replayed) == tmp_path / "exported" and not (tmp_path / "exported").exists()
    merged = run.merge(replayed)
    assert not (tmp_path / "exported").exists()
    numbers = {"merged": {"niah_m": {256: {"mean": 0.5}}, "perplexity": 9.0, "tasks": {256: {}}}}
    folder = run.export(replayed, numbers)
    card = (folder / "README.md").read_text()
    assert "# llama3, 512 tokens" in card and "| merged | 0.500 | 9.00 |" in card and "license: apache-2.0" in card
    assert f"| text, SHA-256 | `{run.text.long.sha256}` |" in card
    exported = models.load(folder)
    for name, tensor in merged.state_dict().items():
        assert torch.equal(exported.state_dict()[name], tensor.to(torch.float16).float()), name
    # The export folder does not change the folders of stages.
    assert [run.folder(stage) == prepared.varied(**SHORT).folder(stage) for stage in STAGES[:1]] == [True]


# measuring


@pytest.fixture
def reported(monkeypatch, tmp_path):
    """What `evaluate.report` is called with, instead of measuring anything."""
    calls = []

    def report(*given, **options):
        calls.append((given, options))
        prompts = pd.DataFrame([("multi-value", 256, 0, np.nan, 0.1 + 0.2)], columns=COLUMNS)
        return evaluate.Report(prompts, {"perplexity": len(calls) / 3})

    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluate, "report", report)
    return calls


def test_a_model_is_measured_once(prepared, reported):
    network = prepared.base()
    first, again = prepared.measure(network), prepared.measure(prepared.base())
    assert len(reported) == 1 and again.general == first.general == {"perplexity": 1 / 3}
    pd.testing.assert_frame_equal(again.prompts, first.prompts)
    assert again.prompts.columns.tolist() == COLUMNS and again.prompts["score"].tolist() == [0.1 + 0.2]
    others = [prepared.varied(**change) for change in ({"seed": 5}, {"eval_haystack": "noise"}, {"eval_passkeys": 2})]
    for i, run in enumerate(others):
        assert run.measure(network).general == {"perplexity": (i + 2) / 3}
    assert prepared.measure(network, share=0.4).general == {"perplexity": 5 / 3}
    # The same weights with another RoPE base, then other weights.
    assert prepared.measure(prepared.raised()).general == {"perplexity": 2.0}
    with torch.no_grad():
        network.lm_head.weight[0, 0] += 1
    assert prepared.measure(network).general == {"perplexity": 7 / 3}
    assert prepared.measure(prepared.base()).general == first.general and len(reported) == 7


def test_a_damaged_report_is_named(prepared, reported):
    prepared.measure(prepared.base())
    (path,) = (cache_dir() / "reports").glob("*.json")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"reports.*is not readable JSON.*delete it, and the model is measured again"):
        prepared.measure(prepared.base())


def test_nothing_is_kept_of_a_model_that_cannot_be_measured(prepared, reported, monkeypatch):
    monkeypatch.setattr(evaluate, "report", lambda *given, **options: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception, match="stopped"):
        prepared.measure(prepared.base())
    assert not list((cache_dir() / "reports").glob("*.json"))


def test_measure_passes_the_settings_of_the_run(prepared, reported, monkeypatch):
    class Network(str):
        config = PreTrainedConfig()

    calls, network = reported, Network("network")
    monkeypatch.setattr(tokens, "fingerprint", lambda network: "weights")
    monkeypatch.setattr(evaluate, "to_read", lambda network, precision: network)
    run = prepared.varied(eval_documents=10, eval_facts=3, seed=5)
    run.measure(network)
    run.measure(network, share=0.4, others=["single"])
    run.measure(network, share=0.01, lengths=[256])
    # The window is measured, too.
    run.varied(eval_passkeys=8, eval_lengths=[128, 600, 1024]).measure(network)
    run.varied(eval_passkeys=8).measure(network, lengths=[256])
    run.varied(eval_haystack="noise").measure(network, lengths=[256])
    options = [each for _, each in calls]
    assert run.tokenizer.decode(options[-1]["haystack"]).strip() == evaluate.NOISE.strip()
    assert all(each["haystack"] is None for each in options[:-1])
    assert [each["share"] for each in options] == [1.0, 0.4, 0.01, 1.0, 1.0, 1.0]
    assert [list(each["others"]) for each in options] == [[], ["single"], [], [], [], []]
    assert [each["n_passkeys"] for each in options] == [0, 0, 0, 8, 0, 0]
    lengths = [[256, 512, 1024], [256, 512, 1024], [256], [128, 256, 600, 1024], [256], [256]]
    assert [each["lengths"] for each in options] == lengths
    for (network, source, _), each in calls:
        assert network == "network" and np.array_equal(source, run.text.long.held_out)
        assert (each["n_documents"], each["n_facts"], each["seed"]) == (10, 3, 5)
    # Of much text only a part is read; here 8 documents of 1,024 tokens are more than the usual part.
    monkeypatch.setattr(measuring, "MOST_HELD_OUT", 100)
    run.measure(network)
    assert np.array_equal(calls[-1][0][1], run.text.long.held_out[: 8 * 1024])


@pytest.mark.parametrize(
    ("asked", "batch_size", "processes", "rows"),
    [(None, 8, 1, 8), (None, 8, 2, 4), (3, 8, 1, 2), (5, 8, 1, 4), (12, 8, 1, 8), (1, 96, 8, 1), (4, 4, 8, 1)],
)
def test_rows_at_once_is_at_most_samples_at_once(monkeypatch, asked, batch_size, processes, rows):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    assert rows_at_once(settings.load("llama3", samples_at_once=asked), batch_size) == rows
