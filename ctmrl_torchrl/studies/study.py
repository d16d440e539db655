"""A study, which can be planned, run, interrupted, resumed and reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.guests import Guest, guests_of, names_in
from ctmrl_torchrl.progress import duration
from ctmrl_torchrl.stopping import Stopped, signal_name
from ctmrl_torchrl.storage import StorageError, expanded, resolved
from ctmrl_torchrl.studies.attempts import Attempt, Execute, Preparation, Prepare, WithGuests, quoted
from ctmrl_torchrl.studies.config import SEED, StudyConfig
from ctmrl_torchrl.studies.endings import Endings
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.gather import gather
from ctmrl_torchrl.studies.gathered import StudyResults
from ctmrl_torchrl.studies.grid import PlannedRun, Resolve, expand
from ctmrl_torchrl.studies.jobs import Job, Outcome, Runner
from ctmrl_torchrl.studies.progress import Progress, counted
from ctmrl_torchrl.studies.records import RunRecord, data_fingerprint
from ctmrl_torchrl.studies.runners import LocalRunner, make_runner
from ctmrl_torchrl.studies.standing import Standing

__all__ = ["Plan", "Study"]

_LOSSES = 3  # number of lost processes without progress after which a run is given up
_GOES_ON = "The same command goes on: finished runs are kept, the others resume from their checkpoints."


@dataclass(frozen=True)
class Plan:
    """The plan of a study.

    Args:
        runs: all runs. states: ``{state: number of runs}``.
        datasets: number of datasets. seconds_left: core seconds for the remaining runs; ``None`` until a run
            has finished.
    """

    runs: Sequence[PlannedRun]
    states: dict[str, int]
    datasets: int
    seconds_left: float | None

    def __str__(self) -> str:
        states = ", ".join(f"{number} {state}" for state, number in self.states.items())
        cost = (
            "unknown until a run has finished"
            if self.seconds_left is None
            else f"{self.seconds_left / 3600:.1f} core hours ({duration(self.seconds_left)} on one core)"
        )
        size = f"{counted(len(self.runs), 'run')} on {counted(self.datasets, 'dataset')}"
        return f"{size}: {states}\nstill to do: {cost}"


class Study:
    """A grid of runs and their states.

    Runs are stored under ``root/store`` by identity, so that studies share common runs. The report is written to
    ``root/NAME``.

    Args:
        config: the study.
        root: folder of all studies.
        resolve: resolves overrides to a configuration.
        prepare: collects the dataset of a run and returns a fingerprint of its content.
        execute: executes a run, given its overrides. Like ``prepare``, it is sent to other processes.
        check: checks that this machine can execute a run, given its overrides; by default, its device, memory
            and folders. It is only used by the ``local`` runner.

    Examples:
        >>> from ctmrl_torchrl.studies.config import load_study
        >>> study = Study(load_study("quick"), root="nowhere")
        >>> print(study.plan())
        6 runs on 1 dataset: 6 waiting
        still to do: unknown until a run has finished
    """

    def __init__(
        self,
        config: StudyConfig,
        root: str | Path = "studies",
        *,
        resolve: Resolve | None = None,
        prepare: Prepare | None = None,
        execute: Execute | None = None,
        check: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        from ctmrl_torchrl.studies import defaults

        self.config, self.root = config, _checked_root(root)
        self.store = self.root / "store"
        self.resolve = resolve or defaults.resolve_run
        self.prepare = prepare or defaults.prepare_data
        self.execute = execute or defaults.execute_run
        self.check = check or (defaults.check_run if resolve is None else lambda overrides: None)

    @cached_property
    def runs(self) -> list[PlannedRun]:
        """All runs of the grid."""
        return expand(self.config, self.resolve)

    @cached_property
    def _guests(self) -> tuple[Guest, ...]:
        """The user's modules whose choices the runs use, which other processes need as well."""
        guests = guests_of({name for run in self.runs for name in names_in(run.configuration)})
        for guest in guests:
            if not guest.file:
                raise StudyError(
                    f"{guest.choice!r} was registered in an interactive session, which the processes of a study "
                    "do not see; save it in a .py file, then import that file or give --plugin FILE.py."
                )
        return guests

    def key(self, run: PlannedRun) -> str | None:
        """A run's identity; ``None`` until its dataset is prepared."""
        data = data_fingerprint(self.store, run.data)
        return None if data is None else run.identity(data)

    def record(self, run: PlannedRun) -> RunRecord | None:
        """The record of a run; ``None`` until its dataset is prepared."""
        key = self.key(run)
        return None if key is None else RunRecord(self.store, key)

    def standing(self) -> Standing:
        """The records and states of all runs at this moment."""
        return Standing.read(self.store, self.runs)

    def states(self) -> list[str]:
        """The state of every run, see :meth:`RunRecord.state`."""
        return list(self.standing().states)

    def status(self) -> dict[str, int]:
        """The numbers of ``done``, ``running``, ``interrupted``, ``waiting`` and ``failed`` runs."""
        return self.standing().counts

    def plan(self) -> Plan:
        """All runs, their states, and the estimated time of the remaining ones."""
        standing = self.standing()
        return Plan(self.runs, standing.counts, len(standing.data), standing.seconds_left)

    def run(
        self, runner: Runner | None = None, *, progress: bool = True, retry_failed: bool = False
    ) -> dict[str, int]:
        """Run everything that is not done yet. It can be stopped and called again at any time.

        Args:
            runner: the runner; defaults to the study's runner.
            progress: show the progress of the study.
            retry_failed: retry runs that are recorded as failed.

        Returns:
            The status afterwards. A failed run does not stop the others; its error is stored in its record
            and in the report.

        Raises:
            StudyError: if a dataset cannot be prepared, or another process holds runs of the study.
        """
        from ctmrl_torchrl.studies.report import check_report_place

        check_report_place(
            self.root / self.config.name, self.config.name
        )  # report errors now instead of at the end
        runner = make_runner(self.config.runner) if runner is None else runner
        runs = self.runs
        if isinstance(runner, LocalRunner):
            self._check_here()
        if retry_failed:
            self._forget_failures()
        self._prepare_data(runner, progress)
        standing = self.standing()
        jobs: dict[str, Job] = {}
        done = set()
        for run, record, state in zip(runs, standing.records, standing.states, strict=True):
            assert record is not None  # its dataset is prepared now
            if state == "done" and record.settled:
                done.add(record.key)
            elif state != "failed":
                jobs.setdefault(record.key, self._job(record.key, run))
        total = len({record.key for record in standing.records if record is not None})
        progress_line = Progress(total, len(done), lambda: self._measured(runner), shown=progress)
        if jobs:
            try:
                with progress_line:
                    self._carry_out(runner, jobs, progress_line)
            except Stopped as stopped:
                raise Stopped(
                    stopped.number, f"stopped by {signal_name(stopped.number)}\n{_GOES_ON}"
                ) from None
        return self.status()

    def results(self) -> StudyResults:
        """The results of the runs, checked to be comparable; see ``studies.gather``."""
        return gather(self.config, [(run, self.record(run)) for run in self.runs])

    def report(self, folder: str | Path | None = None) -> Path:
        """Write tables, figures and the page of the study.

        Args:
            folder: output folder; ``root/NAME`` by default.

        Returns:
            The page.

        Raises:
            StudyError: if no run is done, or runs differ in a field that is not a factor of the study.
        """
        from ctmrl_torchrl.studies.report import write_report

        return write_report(self.results(), self.root / self.config.name if folder is None else Path(folder))

    def _forget_failures(self) -> None:
        standing = self.standing()
        for record, state in zip(standing.records, standing.states, strict=True):
            if record is not None and state == "failed":
                record.forget_failures()

    def _check_here(self) -> None:
        """Check that this machine can execute every remaining run, before the first one starts."""
        remaining = {
            tuple(each for each in run.overrides if not each.startswith(f"{SEED}=")): run
            for run, state in zip(self.runs, self.states(), strict=True)
            if state not in ("done", "failed")
        }
        for overrides, run in remaining.items():
            try:
                self.check(overrides)
            except ValueError as error:
                raise StudyError(f"This machine cannot run {run.label}: {error}") from error

    def _job(self, key: str, run: PlannedRun) -> Job:
        """A job with absolute data paths, so that its process may run in any folder."""
        section = run.configuration.get("dataset") or {}
        places = {name: section.get(name) for name in ("root", "path")}
        absolute = tuple(
            f"dataset.{name}={quoted(expanded(place).absolute())}"
            for name, place in places.items()
            if place is not None
        )
        data = data_fingerprint(self.store, run.data)
        training = "" if data is None else run.training(data)
        return Job(key, (*run.overrides, *absolute), str(self.store), run.label, training)

    def _carry_out(self, runner: Runner, jobs: dict[str, Job], progress: Progress) -> None:
        """Run in rounds: failed and lost runs are repeated in the next round."""
        endings = Endings()
        busy: list[str] = []
        while jobs:
            again: dict[str, Job] = {}
            for outcome in runner.run(WithGuests(Attempt(self.execute), self._guests), list(jobs.values())):
                job = jobs[outcome.key]
                if outcome.state == "done":
                    progress.advance()
                    if outcome.error:
                        torchrl_logger.warning(
                            f"{job.label} is done, but after its results were written: {outcome.error}; "
                            "figures may be missing."
                        )
                elif outcome.state == "busy":
                    busy.append(outcome.error)
                elif self._once_more(outcome, endings):
                    again[job.key] = job
            jobs = again
        if busy:
            raise StudyError(
                f"{counted(len(busy), 'run')} {'is' if len(busy) == 1 else 'are'} held by another process "
                f"({busy[0]}); run the study again when it has ended."
            )

    def _once_more(self, outcome: Outcome, endings: Endings) -> bool:
        """Whether to repeat a run; one that ended after its results were written needs its record completed."""
        record = RunRecord(self.store, outcome.key)
        times = endings.count(outcome, record)
        if times < _LOSSES:
            return record.state() != "failed"
        if record.state() not in ("done", "failed"):
            cause = "; out of memory?" if outcome.state == "lost" else ""
            record.give_up(f"{outcome.error}, {times} times{cause}")
        return False

    def _prepare_data(self, runner: Runner, progress: bool = False) -> None:
        """Prepare every required dataset once before the runs."""
        needed: dict[str, Job] = {}
        for run, state in zip(self.runs, self.states(), strict=True):
            if state not in ("done", "failed"):
                needed.setdefault(run.data, self._job(run.data, run))
        for _ in range(_LOSSES):
            # Several simultaneous bars would overwrite each other.
            prepare = Preparation(self.prepare, progress=progress and len(needed) == 1)
            work = WithGuests(prepare, self._guests)
            outcomes = list(runner.run(work, list(needed.values()))) if needed else []
            failed = [each for each in outcomes if each.state in ("failed", "busy")]
            if failed:
                job = needed[failed[0].key]
                raise StudyError(f"The data of {job.label} cannot be prepared: {failed[0].error}")
            needed = {each.key: needed[each.key] for each in outcomes if each.state == "lost"}
            if not needed:
                return
        lost = next(each for each in outcomes if each.key in needed)
        raise StudyError(
            f"The data of {needed[lost.key].label} cannot be prepared: {lost.error}, {_LOSSES} times; "
            "out of memory?"
        )

    def _measured(self, runner: Runner) -> tuple[int, int, float | None]:
        """The numbers of running and failed runs, and the seconds left."""
        standing = self.standing()
        counts = standing.counts
        return counts.get("running", 0), counts.get("failed", 0), standing.time_left(runner.workers)


def _checked_root(root: str | Path) -> Path:
    """The folder of all studies, absolute, with ``~`` for the home folder."""
    try:
        place = expanded(root).absolute()
        resolved(place / "store")
    except StorageError as error:
        raise StudyError(f"root={root}: {error}.") from error
    return place
