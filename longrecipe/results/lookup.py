"""Finding finished runs by their settings: those of results/, and those of this machine, which come first."""

from longrecipe.results import committed, store
from longrecipe.results.run import EXPERIMENTS, Run, run_name
from longrecipe.settings import Params, changed
from longrecipe.system.files import locked
from longrecipe.system.paths import cache_dir


def finished(experiment: str, **wanted: object) -> list[Run]:
    """The finished runs of an experiment whose settings have the wanted values, by name.

    A run of this machine replaces the run of results/ with the same settings. Damaged runs of this machine are left
    out, with a warning. Raises ValueError with the file and the fix if a table of results/ is damaged.
    """
    runs = sorted(_by_identity(experiment).values(), key=lambda run: run.name)
    return [run for run in runs if all(getattr(run.params, name) == value for name, value in wanted.items())]


def by_setting(experiment: str, **wanted: object) -> list[list[Run]]:
    """The finished runs of an experiment as in `finished`, those that differ in the seed alone together."""
    groups: dict[str, list[Run]] = {}
    for run in finished(experiment, **wanted):
        groups.setdefault(run_name(changed(run.params, seed=0), experiment), []).append(run)
    return list(groups.values())


def find(params: Params, experiment: str) -> Run | None:
    """The finished run of some settings; None if there is none. Raises ValueError as `finished`."""
    return _by_identity(experiment).get(run_name(params, experiment))


def find_committed(params: Params, experiment: str) -> Run | None:
    """The run of results/ with some settings; None if there is none. Raises ValueError as `finished`."""
    return _committed(experiment).get(run_name(params, experiment))


def load(params: Params, experiment: str) -> Run:
    """The finished run of some settings.

    Raises FileNotFoundError if it has not finished, and ValueError with the file and the fix if it is damaged.
    """
    run = find(params, experiment)
    return run if run is not None else store.load(store.run_dir(params, experiment))


def collect() -> None:
    """Write the tables of results/ from their runs and those of this machine."""
    with locked(cache_dir() / "runs", "collects the finished runs"):
        committed.write([run for experiment in EXPERIMENTS for run in finished(experiment)])


def _by_identity(experiment: str) -> dict[str, Run]:
    """Runs by the name that their settings have today: neither a new setting nor a changed default loses one."""
    return _committed(experiment) | {run.identity: run for run in store.stored(experiment)}


def _committed(experiment: str) -> dict[str, Run]:
    return {run.identity: run for run in committed.read() if run.experiment == experiment}
