"""The runs that the campaign disturbs: a tiny model and text of one's own, through every stage of the recipe."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import yaml
from runs import tiny_llama

from longrecipe import recipe, results, settings
from longrecipe.experiments import protocols, runner
from longrecipe.models.loading import load_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = {
    "model": "own",
    "scale": "small",
    "weights": "./model",
    "text": "./text.jsonl",
    "replay_text": "./chats.jsonl",
    "window": 256,
    "target_length": 512,
    "probe_window": 272,
    "probe_length": None,
    "analysis_length": None,
    "analysis_documents": 5,
    "probe_steps": 2,
    "probe_batch_size": 2,
    "n_documents": 8,
    "extend_steps": 6,
    "extend_batch_size": 2,
    "replay_steps": 4,
    "replay_batch_size": 2,
    "replay_long_share": 0.5,
    "warmup_steps": 0,
    "precision": "fp32",
    "samples_at_once": 1,
    "fused_loss": False,
    "checkpointing": False,
    "offload_activations": False,
    "optimizer": "adamw_fp32",
    "fp32_weights": True,
    "save_steps": 2,
    "eval_documents": 2,
    "eval_facts": 2,
    "eval_lengths": [256],
}


@dataclass(frozen=True)
class Place:
    """The folders of one trial: cache and export, next to a model and text that all trials share."""

    folder: Path
    material: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def out(self) -> Path:
        return self.folder / "exports" / "longer"

    @property
    def written(self) -> tuple[Path, ...]:
        """What a run may write to."""
        return self.cache, self.out.parent

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a run in this place."""
        return {
            "LONGRECIPE_CACHE": str(self.cache),
            "LONGRECIPE_ROOT": str(self.root),
            "PYTHONPATH": str(REPOSITORY),
            "TOKENIZERS_PARALLELISM": "false",
        }


def make_place(folder: Path, material: Path) -> Place:
    """An empty place for a trial."""
    place = Place(folder, material)
    for each in (place.cache, place.root, place.out.parent):
        each.mkdir(parents=True)
    (place.root / "params").symlink_to(REPOSITORY / "params")
    return place


def make_material(folder: Path) -> Path:
    """A params file, a tiny Llama, long text and chats."""
    folder.mkdir(parents=True)
    tiny_llama().save_pretrained(folder / "model")
    load_tokenizer("llama3").save_pretrained(folder / "model")
    sentence = "In {0} there were {0} of them, and the others went away. "
    rows = [{"text": "".join(sentence.format(100 * i + k) for k in range(120))} for i in range(6)]
    (folder / "text.jsonl").write_text("\n".join(map(json.dumps, rows)))
    chats = [{"instruction": f"Say {i}.", "output": f"It is {i}. " * 60} for i in range(8)]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    (folder / "own.yaml").write_text(yaml.dump(SETTINGS))
    return folder


def run_recipe(place: Place) -> None:
    """Every stage of one run, measured, exported and saved."""
    p = settings.load("own.yaml", out=str(place.out))
    run = recipe.prepare(p)
    analysis = run.analyse()
    extended = run.extend(run.stage_one_set(analysis))
    replayed = run.replay(extended, analysis)
    # Every model is read, as notebook 03 does.
    networks = {"extended": extended.load(), "replayed": replayed.load(), "merged": run.merge(replayed)}
    reports = {name: run.measure(network, lengths=[p.window]) for name, network in networks.items()}
    numbers = {name: report.numbers() for name, report in reports.items()}
    run.export(replayed, numbers)
    tables = {"scores": results.score_rows(numbers), "depths": results.depth_rows(reports)}
    results.save(p, "train", tables, seconds=0.0)


def run_sweep(place: Place) -> None:
    """A sweep of two lean runs, which share the token analysis."""
    changes = {"selection": "random", "out": str(place.out), "eval_lengths": None, "target_length": 512}
    grid = [settings.load("own.yaml", method=method, **changes) for method in ("pose", "longrecipe")]
    runner.run(grid, protocols.LEAN)
    found = results.finished("grid")
    assert len(found) == len(grid), f"{len(found)} of {len(grid)} runs have finished"


WORK = {"recipe": run_recipe, "sweep": run_sweep}


def enter(place: Place) -> None:
    """Make this process one that runs in a place."""
    os.environ.update(place.environment)
    os.chdir(place.material)
