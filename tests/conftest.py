"""Fixtures that many tests share; the costly ones are made once a session, so no test may change them."""

import logging
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from IPython.core.interactiveshell import InteractiveShell
from limits import TIMEOUT
from runs import tiny_llama
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from traitlets.config import Config
from transformers import PreTrainedTokenizerFast

from longrecipe import results
from longrecipe.data import samples, selection
from longrecipe.data.english import load_english, reference_texts
from longrecipe.data.facts import fact_format
from longrecipe.evaluate import planted, sentences
from longrecipe.experiments import runner
from longrecipe.models.loading import load_tokenizer
from longrecipe.results.run import EXPERIMENTS as RUN_TABLES
from longrecipe.results.run import empty

# Machines are shared and slow at times; a property is right or wrong at any speed.
settings.register_profile("all", deadline=None)
settings.register_profile("not slow", deadline=None, max_examples=25)


def pytest_configure(config):
    """Without the slow tests, properties are tried on fewer examples."""
    settings.load_profile("not slow" if "not slow" in config.option.markexpr else "all")


@pytest.fixture(autouse=True)
def pytests_own_logging(monkeypatch):
    """Commands set up no log handlers: they would replace pytest's, and write to an stderr that is closed after the
    test."""
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)


@pytest.fixture(scope="session")
def warm_python():
    """The path of a python whose processes have torch and transformers imported when they start: see warm_server.py.

    For tests whose subject is not the start of a process. A process that must be killed takes `sys.executable`: this
    one is not the process that does the work. Where there is no Linux, the path is `sys.executable`.
    """
    if sys.platform != "linux":
        yield sys.executable
        return
    tests = Path(__file__).parent
    # Names of sockets are short, so not in pytest's folder.
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        path, place = Path(folder, "python"), Path(folder, "socket")
        words = shlex.join([sys.executable, "-I", "-S", str(tests / "warm_client.py"), str(place)])
        path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        path.chmod(0o755)
        server = [sys.executable, str(tests / "warm_server.py"), str(place)]
        process = subprocess.Popen(server, stdin=subprocess.PIPE, start_new_session=True)
        try:
            deadline = time.monotonic() + TIMEOUT
            while not place.exists():
                assert process.poll() is None, "the server of warm processes ended"
                assert time.monotonic() < deadline, "the server of warm processes did not start"
                time.sleep(0.05)
            yield str(path)
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def warm_children(warm_python, monkeypatch):
    """The package starts its own processes with `warm_python`."""
    monkeypatch.setattr(sys, "executable", warm_python)


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer("llama3")


@pytest.fixture(scope="session")
def corpus(tokenizer):
    return load_english(tokenizer)


@pytest.fixture(scope="session")
def facts(tokenizer):
    return fact_format(tokenizer)


@pytest.fixture(scope="session")
def bpe():
    """A second tokenizer, byte-level BPE of 1024 tokens learned on the spot: long words are several tokens."""
    bare = Tokenizer(BPE())
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bare.train_from_iterator(
        reference_texts(), trainers.BpeTrainer(vocab_size=1024, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=bare)


@pytest.fixture(scope="session", params=["planted", "sentences"])
def wording(request, tokenizer, bpe):
    """Both wordings: the mini models' own, and English sentences with tokenizer bpe."""
    return planted(tokenizer) if request.param == "planted" else sentences(bpe)


@pytest.fixture(scope="session")
def prose(wording):
    """Real text without numbers, as ids int64 of the wording's tokenizer."""
    return wording.encode("\n".join(reference_texts())[:60_000])


@pytest.fixture(scope="session")
def make_tiny():
    """A function from a seed to a new random model."""
    return tiny_llama


@pytest.fixture(scope="session")
def tiny(make_tiny):
    return make_tiny()


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A function that runs cells as a notebook's kernel does, which keeps their source; returns its variables."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    # A shell puts a module of its own there.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))

    def run(*cells):
        for cell in cells:
            shell.run_cell(cell, store_history=True).raise_error()
        return shell.user_ns

    return run


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def random_rows():
    """A function from a count to as many dataset rows of random tokens, four sentences each, perhaps with weights."""

    def make(count, seed=0, n_tokens=32, long=True, weighted=False):
        rng = np.random.default_rng(seed)
        lengths = np.full(4, n_tokens // 4)
        drawn = [selection.whole(rng.integers(0, 1024, size=n_tokens), lengths) for _ in range(count)]
        rows = list(samples.rows_of(drawn, long))
        weights = rng.uniform(0, 5, size=(count, n_tokens)).astype(np.float32)
        return [row | {"loss_weights": each} for row, each in zip(rows, weights, strict=True)] if weighted else rows

    return make


@pytest.fixture
def dataset(random_rows, tmp_path):
    """Five batches of two samples of four sentences, 32 tokens each."""
    return samples.store(random_rows(10), tmp_path / "data")


@pytest.fixture
def own_root(tmp_path, monkeypatch):
    """Results and cache of its own, so that a test's runs stay out of the repository."""
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGRECIPE_ROOT", str(tmp_path / "root"))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "params").symlink_to(Path(__file__).resolve().parents[1] / "params")
    return tmp_path / "root"


@pytest.fixture
def quick_text(corpus, monkeypatch):
    """The text of the session, less to measure perplexity on."""
    short = replace(corpus, held_out=corpus.held_out[:20_000])
    monkeypatch.setattr("longrecipe.data.english.load_english", lambda tokenizer, planted: short)


@pytest.fixture
def quick(own_root, monkeypatch):
    """Runs that finish at once; a list of what ran, and by which protocol."""
    ran = []

    def run(p, protocol):
        ran.append((p, protocol))
        tables = {name: empty(name) for name in RUN_TABLES[protocol.store]}
        results.save(p, protocol.store, tables, seconds=0.0, full=protocol.full)

    monkeypatch.setattr(runner, "_run", run)
    return ran
