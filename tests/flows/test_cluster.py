"""The cluster file, and how large jobs are made."""

from pathlib import Path

import pytest

pytest.importorskip("prefect", reason="needs the extra 'flows'")

from flows.cluster import Cluster, Slurm, amounts, read_cluster, size_of_job
from flows.resources import Needs
from mimcore.errors import UserError


def needs(**options: object) -> Needs:
    return Needs.model_validate(options)


def slurm(**options: object) -> Slurm:
    return Slurm.model_validate(options)


def test_stages_stay_here_without_a_cluster_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIMCORE_CLUSTER", raising=False)
    assert read_cluster(tmp_path) == Cluster.model_validate({})
    assert read_cluster(tmp_path).engine == "threads"


def test_the_variable_comes_before_the_file_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cluster.yaml").write_text("engine: slurm\n")
    other = tmp_path / "other.yaml"
    other.write_text("{engine: dask, address: 'tcp://host:8786', share: remote}\n")
    monkeypatch.delenv("MIMCORE_CLUSTER", raising=False)
    assert read_cluster(tmp_path).engine == "slurm"
    monkeypatch.setenv("MIMCORE_CLUSTER", str(other))
    assert read_cluster(tmp_path) == Cluster(engine="dask", address="tcp://host:8786", share="remote")
    other.unlink()
    with pytest.raises(UserError, match="MIMCORE_CLUSTER: there is no file"):
        read_cluster(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engine: slrum", r"cluster\.yaml\.engine: "),
        ("{engine: slurm, slurm: {partitoin: gpu}}", r"cluster\.yaml\.slurm\.partitoin: unknown option"),
        ("engine: dask", "'address' .* and 'engine: dask' belong together"),
        ("address: tcp://host:8786", "'address' .* and 'engine: dask' belong together"),
        ("[slurm]", "must hold options"),
        ("engine: [", "is not valid YAML"),
    ],
)
def test_a_mistake_is_said(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIMCORE_CLUSTER", raising=False)
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_cluster(tmp_path)


def test_a_job_holds_the_most_demanding_stage() -> None:
    stages = {"draw": needs(), "train": needs(cores=8, gpus=2), "probe": needs(cores=2, memory_gib=24)}
    assert size_of_job(slurm(), stages) == {"cores": 8, "gpus": 2, "memory_gib": 24}
    assert size_of_job(slurm(cores=32, gpus=4, memory_gib=128), stages) == {"cores": 32, "gpus": 4, "memory_gib": 128}
    assert size_of_job(slurm(), {"draw": needs()}) == {"cores": 1, "gpus": 0, "memory_gib": 1}
    with pytest.raises(UserError, match=r"train needs 2 gpus .*, but a Slurm job has 1; raise slurm\.gpus"):
        size_of_job(slurm(gpus=1), stages)


def test_auto_is_one_gpu_where_a_worker_has_any() -> None:
    auto = needs(gpus="auto", memory_gib=3)
    assert amounts(auto) == {"cores": 1, "memory_gib": 3}
    assert amounts(auto, [{"cores": 4}]) == {"cores": 1, "memory_gib": 3}
    assert amounts(auto, [{"cores": 4}, {"gpus": 2}]) == {"cores": 1, "gpus": 1, "memory_gib": 3}
    # Jobs are given GPUs for it only where the file says so.
    assert size_of_job(slurm(), {"train": auto})["gpus"] == 0
    assert size_of_job(slurm(gpus=1), {"train": auto})["gpus"] == 1
