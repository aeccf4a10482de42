"""Stages in jobs of a real Slurm: one node, started here, on loopback."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("prefect_dask", reason="needs the extra 'cluster'")
pytest.importorskip("dask_jobqueue", reason="needs the extra 'cluster'")

from scratch_cluster import ROOT, Run, checkout, end_flow, repro, start_flow

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]

SCRIPT = Path(__file__).with_name("slurm.sh")
PIPELINE = """
stages:
  draw:
    cmd: echo draw $SLURM_JOB_ID $SLURM_JOB_NAME $OMP_NUM_THREADS >> {log}; cp seed.txt drawn.txt
    deps: [seed.txt]
    outs: [drawn.txt]
  train:
    matrix: {{run: [one, two]}}
    cmd: >-
      echo train-${{item.run}} $SLURM_JOB_ID $SLURM_JOB_NAME $OMP_NUM_THREADS >> {log};
      {work}
      cat drawn.txt seed.txt > ${{item.run}}.txt
    deps: [drawn.txt]
    outs: ["${{item.run}}.txt"]
    meta: {{mimcore: {{cores: {cores}, memory_gib: 0.5}}}}
  collect:
    cmd: echo collect $SLURM_JOB_ID $SLURM_JOB_NAME $OMP_NUM_THREADS >> {log}; cat one.txt two.txt > all.txt
    deps: [one.txt, two.txt]
    outs: [all.txt]
"""
CLUSTER = """
engine: slurm
slurm:
  partition: main
  jobs: 2
  interface: lo
  walltime: "00:10:00"
  setup: ["export PYTHONPATH=$PYTHONPATH:{code}", "export OMP_NUM_THREADS=1"]
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration of a Slurm that runs."""
    if os.getuid() != 0:
        pytest.skip("only root may start Slurm's daemons")
    where = f"{os.environ['PATH']}:/usr/sbin"
    if missing := [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name, path=where)]:
        pytest.skip(f"there is no {missing[0]}: '{SCRIPT} install' takes Slurm and MUNGE from Debian")
    folder = tmp_path_factory.mktemp("slurm")
    port = 20000 + os.getpid() % 20000
    try:
        subprocess.run([SCRIPT, "start", folder, str(port)], check=True)
        yield folder / "slurm.conf"
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)


class Study:
    """A checkout whose flows run in Slurm; ``executed`` says what ran where."""

    def __init__(self, folder: Path, conf: Path, server: str, work: str = "", cores: int = 1) -> None:
        self.log, self.conf, self.server = folder / "executed", conf, server
        self.log.touch()
        self.root = checkout(folder / "study", PIPELINE.format(log=self.log, work=work, cores=cores))
        (self.root / "cluster.yaml").write_text(CLUSTER.format(code=ROOT))

    def start(self) -> "subprocess.Popen[str]":
        return start_flow(self.root, self.server, SLURM_CONF=str(self.conf))

    def run(self) -> Run:
        return end_flow(self.start())

    def executed(self) -> list[tuple[str, ...]]:
        return [tuple(line.split()) for line in self.log.read_text().splitlines()]

    def ask(self, *command: str) -> str:
        env = {**os.environ, "SLURM_CONF": str(self.conf)}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_stages_run_in_jobs_once_and_the_checkout_is_up_to_date(
    slurm: Path, prefect_server: str, tmp_path: Path
) -> None:
    study = Study(tmp_path, slurm, prefect_server)
    run = study.run()
    assert set(run.states.values()) == {"ran"}, run.output
    executed = study.executed()
    assert sorted(line[0] for line in executed) == ["collect", "draw", "train-one", "train-two"]
    for line in executed:
        assert len(line) == 4, f"not within a job: {line}"
        assert line[2] == "mimcore"
    jobs = {line[1] for line in executed}
    for job in jobs:  # Slurm itself knows them
        assert "JobName=mimcore" in study.ask("scontrol", "show", "job", job)
    assert (study.root / "all.txt").read_text() == "one\none\n" * 2
    assert "Traceback" not in run.output
    assert "WARNING" not in run.output

    asked = len(study.ask("scontrol", "show", "jobs", "--oneliner").splitlines())
    repro(study.root)
    assert study.executed() == executed, "dvc repro executed what the flow had made"
    again = study.run()
    assert set(again.states.values()) == {"cached"}
    assert study.executed() == executed
    listed = study.ask("scontrol", "show", "jobs", "--oneliner").splitlines()
    assert len(listed) == asked, "a job was asked for although nothing was stale"
    assert all("JobState=RUNNING" not in line and "JobState=PENDING" not in line for line in listed)


def test_a_stage_whose_job_ends_goes_on_in_another(slurm: Path, prefect_server: str, tmp_path: Path) -> None:
    # The first try of one stage waits for its end; the second finds the mark that it left.
    mark = tmp_path / "mark"
    work = f'if [ "${{item.run}}" = one ] && [ ! -e {mark} ]; then touch {mark}; sleep 300; fi;'
    study = Study(tmp_path, slurm, prefect_server, work)
    process = study.start()
    try:
        deadline = time.monotonic() + 300
        while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        assert mark.exists(), process.communicate(timeout=5)
        first = next(line for line in study.executed() if line[0] == "train-one")
        study.ask("scancel", first[1])
        run = end_flow(process)
    finally:
        process.kill()
    assert set(run.states.values()) == {"ran"}, run.output
    tries = [line for line in study.executed() if line[0] == "train-one"]
    assert len(tries) == 2
    assert tries[0][1] != tries[1][1], "the second try ran in the job that was cancelled"
    repro(study.root)
    assert len(study.executed()) == len(set(run.states)) + 1
