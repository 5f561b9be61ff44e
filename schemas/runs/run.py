"""One run of a stage: what identifies it, where it writes, whether it is done already."""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schemas.base import code_fingerprint, fingerprint, storage
from schemas.base.errors import BusyError, PhraseLensError
from schemas.console import flags as flags_lib
from schemas.datasets import commit, dataset, manifest, shards
from schemas.datasets.manifest import Shard
from schemas.runs import folders as run_folders

RUN_ID_DIGITS = 16


@dataclasses.dataclass(frozen=True)
class Run:
    """A planned run.

    Attributes:
      name: the stage's name.
      output: the dataset that it writes.
      fingerprint: of settings, code and inputs.
      settings: the config's values that decide rows.
      code: fingerprint of the sources.
      inputs: name → content hash.
      models: name → fingerprint, for the inputs that are models.
      seen: the dataset's commit token at the start.
      done: whether the same work is committed already, as the last run or an earlier one.
      retry_of: fingerprint of the work whose dead rows this run tries again; "" of others.
      after: id of the run that it takes all else from; "" of others.
      attempt: names what this attempt at the run writes for itself: a rival on another machine,
        or the one that goes on where this one died, has another. No row depends on it.
    """

    name: str
    output: str
    fingerprint: str
    settings: dict[str, Any]
    code: str
    inputs: dict[str, str]
    models: dict[str, str]
    seen: str
    done: bool
    retry_of: str = ""
    after: str = ""
    attempt: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex[:16], compare=False)

    @property
    def run_id(self) -> str:
        """Names the run's folder: a run that died finds its own files there again."""
        return self.fingerprint[:RUN_ID_DIGITS]

    def folder(self, table: str) -> str:
        """A table's folder, relative to the dataset."""
        return f"runs/{self.run_id}/{table}"

    def shard_path(self, table: str, index: int, num_shards: int, suffix: str) -> str:
        """A shard's path, relative to the dataset."""
        return f"{self.folder(table)}/part-{index:05d}-of-{num_shards:05d}.{suffix}"

    def absolute(self, relative: str) -> str:
        return storage.join(self.output, relative)

    def manifest(
        self,
        tables: dict[str, manifest.Table],
        counters: Mapping[str, int],
        num_shards: int = 0,
        model_fingerprint: str = "",
    ) -> manifest.Manifest:
        return manifest.Manifest(
            stage=self.name,
            run_id=self.run_id,
            fingerprint=self.fingerprint,
            config=self.settings,
            code=self.code,
            inputs=self.inputs,
            models=self.models,
            tables=tables,
            counters=dict(sorted(counters.items())),
            model_fingerprint=model_fingerprint,
            num_shards=num_shards,
            retry_of=self.retry_of,
        )

    def retry(self) -> "Run | None":
        """The run that tries again what died in the latest one of the same work.

        Returns:
          None where nothing died. The run is another one for each that it comes after.

        Raises:
          PhraseLensError: that work was never done.
        """
        found = latest(self.output, self.fingerprint)
        if found is None:
            raise PhraseLensError(
                f"--retry_dead of {self.output}",
                "a committed run with these flags and inputs",
                "Run the same command without --retry_dead.",
            )
        if not found.dead_rows:
            return None
        return dataclasses.replace(
            self,
            fingerprint=_retry_of(self.fingerprint, found.run_id),
            done=False,
            retry_of=self.fingerprint,
            after=found.run_id,
        )

    def restore(self) -> None:
        """Makes a run that is done the last one again, where later ones were committed."""
        last, found = manifest.read(self.output), latest(self.output, self.fingerprint)
        if found is not None and (last is None or last.run_id != found.run_id):
            commit.commit(self.output, found, self.seen)

    @property
    def scratch(self) -> str:
        """A local folder for checkpoints, kept until the run is committed."""
        return run_folders.scratch_folder(self.output, self.run_id)

    @property
    def temp(self) -> str:
        """A local folder of this attempt, which removes it when it has ended."""
        return run_folders.scratch_folder(self.output, self.run_id, self.attempt)

    @property
    def spill(self) -> str:
        """A folder that all workers of this attempt see, for what crosses a shuffle.

        Its commit removes it, won or lost.
        """
        return run_folders.spill_folder(self.output, self.run_id, self.attempt)

    @contextlib.contextmanager
    def alone(self, worker: int = 0) -> Iterator[None]:
        """Held while a process works on this run: two would mix their checkpoints and files.

        Args:
          worker: its number, where several processes work on it together.

        Raises:
          BusyError: another process of this machine works on the same run.
        """
        os.makedirs(os.path.dirname(self.scratch), exist_ok=True)
        with open(
            run_folders.lock_path(self.output, self.run_id, worker), "w", encoding="utf-8"
        ) as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(
                    f"run {self.run_id} of {self.output}",
                    "one process that works on it",
                    "Another does so now: wait for it, or stop it.",
                ) from error
            yield

    def empty_folder(self, table: str) -> str:
        """An empty local folder for a table's files: what a killed run left in it is gone."""
        folder = os.path.join(self.scratch, table)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        return folder

    def commit_files(
        self,
        table: str,
        local: str,
        counters: Mapping[str, int],
        model_fingerprint: str = "",
    ) -> bool:
        """Uploads a local folder as a table of plain files and commits it (trainers, reports).

        Returns:
          False when a rival has committed the same work already.
        """
        return self.commit_tables({table: local}, counters, model_fingerprint)

    def publish(self, table: str, local: str) -> list[Shard]:
        """Uploads the files below a local folder as a table of plain files."""
        names = storage.upload_dir(local, self.absolute(self.folder(table)))
        return shards.describe_files(self.output, self.folder(table), names)

    def commit_tables(
        self,
        local: Mapping[str, str],
        counters: Mapping[str, int],
        model_fingerprint: str = "",
    ) -> bool:
        """As `commit_files`, for several tables: name → local folder."""
        if commit.token(self.output) != self.seen:
            # Its files may hold other dates than ours: they must not be written over.
            return commit.lose(self.output, self.fingerprint)
        tables = {
            table: manifest.Table("files", "", tuple(self.publish(table, folder)))
            for table, folder in local.items()
        }
        done = self.manifest(tables, counters, model_fingerprint=model_fingerprint)
        won = commit.commit(self.output, done, self.seen)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return won


def _retry_of(work: str, run_id: str) -> str:
    """Fingerprint of the run that tries again what died in a run of this work."""
    return fingerprint.of_json({"retry_of": work, "after": run_id})


def latest(output: str, work: str) -> manifest.Manifest | None:
    """The committed run that did this work, or the last of those that tried its dead rows again.

    Args:
      output: the dataset.
      work: the fingerprint of settings, code and inputs.
    """
    last = manifest.read(output)
    # What lost a file is made again; its other shards are found whole.
    is_whole = last is not None and last.is_of(work) and commit.is_whole(output, last)
    found = last if is_whole else None
    identity = work if found is None else _retry_of(work, found.run_id)
    while True:
        run = manifest.read(output, identity[:RUN_ID_DIGITS])
        if run is not None and run.fingerprint == identity and commit.is_whole(output, run):
            found = run
        elif identity != work:  # The first may have been collected: retries of it stay in use.
            return found
        identity = _retry_of(work, identity[:RUN_ID_DIGITS])


def plan(
    name: str,
    config: Any,
    modules: Sequence[str],
    datasets: Mapping[str, str],
    raw_inputs: Mapping[str, str] | None = None,
) -> Run:
    """Identifies a run before any work.

    Args:
      name: the stage's name.
      config: its config; `config.output` is the dataset to write.
      modules: the modules whose sources, with all that they import, make its rows.
      datasets: name → folder of each input dataset or model.
      raw_inputs: name → content hash of each input that is no dataset.

    Raises:
      PhraseLensError: an input dataset is not committed.
    """
    manifests = {key: dataset.Dataset(path).manifest for key, path in datasets.items()}
    inputs = {key: found.content_hash for key, found in manifests.items()} | dict(raw_inputs or {})
    models = {
        k: found.model_fingerprint for k, found in manifests.items() if found.model_fingerprint
    }
    settings = flags_lib.settings(config)
    code = code_fingerprint.of_code(modules)
    identity = fingerprint.of_json(
        {"stage": name, "settings": settings, "code": code, "inputs": inputs}
    )
    # Before manifests are read: what a rival commits in between is then not taken for seen.
    seen = commit.token(config.output)
    return Run(
        name=name,
        output=config.output,
        fingerprint=identity,
        settings=settings,
        code=code,
        inputs=inputs,
        models=models,
        seen=seen,
        done=latest(config.output, identity) is not None,
    )
