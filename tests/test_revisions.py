"""The commits of models and datasets of a hub in the records of a run."""

import dataclasses
import json

import numpy as np
import pytest

from longrecipe import recipe, results, settings
from longrecipe.data.corpus import Corpus
from longrecipe.models import loading
from longrecipe.models.loading import save
from longrecipe.recipe import preparing
from longrecipe.recipe.export import export
from longrecipe.recipe.run_text import RunText, commits
from longrecipe.results import revisions
from longrecipe.results.run import TABLES, empty

OLD, NEW, TEXT = "0" * 40, "1" * 40, "2" * 40
LENGTHS = {
    "window": 256,
    "target_length": 512,
    "probe_window": 272,
    "probe_length": 272,
    "analysis_length": None,
    "eval_lengths": None,
}


@pytest.fixture
def hub(make_tiny, tokenizer, tmp_path, monkeypatch):
    """A hub with the model me/own, in the layout of its cache; its latest commit is hub["latest"]."""
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    latest, snapshots = {"latest": OLD}, tmp_path / "models--me--own" / "snapshots"
    for commit in (OLD, NEW):
        save(make_tiny(), tokenizer, snapshots / commit)

    def download(name, revision, **options):
        assert name == "me/own"
        return str(snapshots / (revision or latest["latest"]))

    monkeypatch.setattr(loading, "snapshot_download", download)
    return latest


def run_of(weights="me/own"):
    return settings.load("smollm2", "small", weights=weights, **LENGTHS)


def text_of(hub=None):
    corpus = Corpus(np.arange(9), np.arange(9), "abc", hub)
    return RunText(corpus, corpus, None, None)


def test_commits_of_model_and_text_are_found(hub):
    assert commits(run_of(), text_of(f"you/texts@{TEXT}")) == {"you/texts": TEXT, "me/own": OLD}
    assert commits(run_of(f"me/own@{NEW}"), text_of()) == {"me/own": NEW}
    assert commits(settings.load("llama3"), text_of()) == {}


def test_run_with_another_commit_than_before_says_so(hub, caplog, monkeypatch):
    caplog.set_level("WARNING")
    monkeypatch.setattr(preparing.preflight, "check", lambda p: None)
    monkeypatch.setattr(preparing, "load_text", lambda p, tokenizer: text_of(f"you/texts@{TEXT}"))
    monkeypatch.setattr(preparing, "check_loaded", lambda p, text: None)
    recipe.prepare(run_of())
    recipe.prepare(run_of())
    assert not caplog.records
    hub["latest"] = NEW
    recipe.prepare(run_of())
    (said,) = caplog.messages
    assert said.startswith(f"me/own: an earlier run with these settings read commit {OLD}, this one reads {NEW}")
    assert said.endswith(f"name the revision: me/own@{OLD}.") and "you/texts" not in said


def test_saved_run_has_its_commits(hub):
    p = run_of()
    revisions.record(p, {"me/own": OLD, "you/texts": TEXT})
    folder = results.save(p, "train", {name: empty(name) for name in TABLES}, seconds=1.0)
    packages = json.loads((folder / "metrics.json").read_text())["packages"]
    assert (packages["me/own"], packages["you/texts"]) == (OLD, TEXT) and "torch" in packages
    other = results.save(settings.load("llama3"), "train", {name: empty(name) for name in TABLES}, seconds=1.0)
    others = json.loads((other / "metrics.json").read_text())["packages"]
    assert others.keys() == packages.keys() - {"me/own", "you/texts"}


def test_export_and_its_card_have_the_commits(hub, tmp_path):
    p = settings.changed(run_of(), out=str(tmp_path / "out"))
    replayed = loading.load("me/own", "small", target_length=512)
    replayed.save_pretrained(tmp_path / "replayed")
    out = export(p, tmp_path / "replayed", {"text": "abc"}, commits=commits(p, text_of()))
    assert json.loads((out / "longrecipe.json").read_text())["revisions"] == {"me/own": OLD}
    assert f"| revision of me/own | `{OLD}` |" in (out / "README.md").read_text()


def test_corpus_without_a_hub_has_no_commit():
    assert {field.name: field.default for field in dataclasses.fields(Corpus)}["hub"] is None
