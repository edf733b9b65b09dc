"""Do one job of `longrecipe cost`, given as JSON, and print the result as JSON. `runner.run` starts it as a process."""

import json
import sys
from pathlib import Path

from longrecipe import models
from longrecipe.cost.cases import Case, Reading, Resuming
from longrecipe.cost.measure import measure, rates, train_stage
from longrecipe.data import samples
from longrecipe.settings.memory import Setup

_KINDS = {kind.__name__: kind for kind in (Case, Reading, Resuming)}


def main(job: dict) -> dict:
    """The result of a job. Its kind is that of a case, or rates, or killed: a stage that `measure` kills."""
    kind = job.pop("kind")
    if kind == "rates":
        return rates(models.config_of("llama3", job["scale"]), job["n_tokens"])
    folder = Path(job.pop("folder", ""))
    job["setup"] = Setup(**job["setup"])
    if kind == "killed":
        train_stage(Resuming(**job), samples.load(folder / "data"), folder / "killed")
        return {}
    return measure(_KINDS[kind](**job))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
