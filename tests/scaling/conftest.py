import json

import pytest
import scaling_study

from mimcore.scaling.collect import collect
from mimcore.scaling.fit import fit


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory):
    """A study of 48 runs, collected and fitted; read only."""
    root = tmp_path_factory.mktemp("study")
    study = scaling_study.build(root, scaling_study.Plan(pictures=True))
    collect(study, root, root / "results")
    fit(root / "results" / "results.parquet", {"bootstrap": 200}, root / "fit")
    (root / "study.json").write_text(json.dumps(study))
    return root


@pytest.fixture
def small_plan():
    return scaling_study.Plan(
        models=("tiny",), sizes=(1024, 4096, 16384, 65536), schedules={"long": 65536}, tasks=("linear",)
    )


@pytest.fixture
def build_study(tmp_path):
    """Build, collect and fit a study; return the folder and what the fit says."""

    def build(plan, **options):
        study = scaling_study.build(tmp_path, plan)
        collect(study, tmp_path, tmp_path / "results")
        return tmp_path, fit(tmp_path / "results" / "results.parquet", {"bootstrap": 200, **options}, tmp_path / "fit")

    return build
