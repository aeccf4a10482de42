"""The study of ``benchmarks/growth.py`` is one that the stages accept: a benchmark that starts a run must not go stale."""

import importlib.util
from pathlib import Path

import pytest

from mimcore.study import Study


@pytest.fixture
def growth():
    file = Path(__file__).parents[2] / "benchmarks" / "growth.py"
    spec = importlib.util.spec_from_file_location("growth_benchmark", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_study_is_valid_and_has_its_run(growth, tmp_path):
    (tmp_path / "params.yaml").write_text(growth.STUDY)
    assert growth.RUN in Study.read(tmp_path / "params.yaml").runs
