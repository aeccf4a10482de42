"""The form: what it offers, what it refuses, and what each setting changes in the study file."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import TypeAdapter, ValidationError

from flows.parameters import Overrides, StudyParameters, overridden, studies, study_file
from mimcore import registry
from mimcore.errors import UserError
from mimcore.evaluation.task import TaskConfig
from mimcore.training.schedule import Schedule

ROOT = Path(__file__).resolve().parents[2]
QUICK = yaml.safe_load((ROOT / "studies/quick.yaml").read_text())
DIGITS = yaml.safe_load((ROOT / "studies/digits.yaml").read_text())
BESIDE = {"objective": "mae", "model": "small", "subset": "n64", "schedule": "short", "seed": "s1"}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def flow(parameters: StudyParameters) -> None:
    """Stands for the study flow."""


def refused(parameters: dict[str, Any]) -> list[str]:
    """What Prefect's page and server hold against the parameters of a run."""
    return [error.message for error in validate({"parameters": parameters}, parameter_schema(flow).model_dump())]


def dotted(study: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return Overrides.model_validate(fields).dotted(study)


def test_the_form_offers_the_studies_and_says_what_each_field_is() -> None:
    schema = parameter_schema(flow).model_dump()["definitions"]
    fields = schema["StudyParameters"]["properties"] | schema["Overrides"]["properties"]
    assert schema["Overrides"]["title"] == fields.pop("overrides").get("title", "Overrides")
    assert fields["study"]["enum"][0] == "current"
    assert {"cifar10", "digits", "quick", "xie2023/full", "xie2023/mini"} < set(fields["study"]["enum"])
    assert [name for name, field in fields.items() if not (field.get("title") and field.get("description"))] == []
    assert [name for name, field in fields.items() if "anyOf" in field or field.get("default", "current") is None] == []


def test_the_form_is_made_without_torch() -> None:
    code = "import sys, flows.parameters; flows.parameters.StudyParameters.model_json_schema(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_studies_are_those_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "studies/lu2023").mkdir(parents=True)
    (tmp_path / "studies/mine.yaml").touch()
    (tmp_path / "studies/lu2023/mini.yaml").touch()
    assert studies(tmp_path) == ["current", "lu2023/mini", "mine"]
    assert study_file(tmp_path, "lu2023/mini") == tmp_path / "studies/lu2023/mini.yaml"


@pytest.mark.parametrize(
    ("field", "config"),
    [(name, Schedule) for name in ("images_seen", "batch_size", "base_learning_rate", "warmup_images")]
    + [("mask_ratio", registry.load("objective", "mae").Config)]
    + [(name, TaskConfig) for name in ("train_images", "test_images")],
)
@pytest.mark.parametrize("value", [-1, 0, 1, 2, 0.5, 1.5, 1e9, "many", True, None, [1]])
def test_a_field_takes_what_mimcore_takes(field: str, config: Any, value: Any) -> None:
    """The bounds are written twice, since most of mimcore's come with torch."""
    option = config.model_fields[field]
    try:
        TypeAdapter(option.rebuild_annotation()).validate_python(value, strict=not isinstance(value, int | float))
        allowed = not isinstance(value, bool)
    except ValidationError:
        allowed = value is None  # an empty field
    assert (refused({"overrides": {field: value}}) == []) == allowed


@pytest.mark.parametrize(
    "wrong",
    [
        {"study": "digit"},
        {"study": 3},
        {"name": "two words"},
        {"name": "-x"},
        {"overrides": {"subsets": []}},
        {"overrides": {"subsets": [1]}},
        {"overrides": {"replicates": 0}},
        {"overrides": {"replicates": 101}},
        {"overrides": {"mask_rato": 0.5}},
        {"overrides": {"more": [1]}},
        {"overides": {}},
    ],
)
def test_page_and_flow_refuse_the_same(wrong: dict[str, Any]) -> None:
    assert refused(wrong)
    with pytest.raises(ValidationError):
        StudyParameters.model_validate(wrong)


def test_an_unknown_study_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match="there is no study 'digit'; did you mean 'digits'"):
        StudyParameters.model_validate({"study": "digit"})


def test_nothing_set_changes_nothing() -> None:
    assert dotted(QUICK) == {}
    assert StudyParameters().changes(ROOT) == {}


def test_an_option_of_a_schedule_goes_to_every_schedule_in_use() -> None:
    assert dotted(DIGITS, images_seen=8192, batch_size=64) == {
        "schedules.short.images_seen": 8192,
        "schedules.long.images_seen": 8192,
        "schedules.short.batch_size": 64,
        "schedules.long.batch_size": 64,
    }
    assert dotted(DIGITS, schedules=["long"], images_seen=8192) == {
        "study.schedules": ["long"],
        "schedules.long.images_seen": 8192,
    }


def test_mask_ratio_goes_to_the_objectives_that_have_one_stated_or_not() -> None:
    assert dotted(QUICK, mask_ratio=0.75) == {"objectives.mae.mask_ratio": 0.75}
    variant = QUICK | {"objectives": {"mae": {}, "plain": {"module": "mae"}}}
    run = BESIDE | {"objective": "plain", "seed": "s0"}
    variant |= {"study": QUICK["study"] | {"extra": {"plain-small-n64-short-s0": run}}}
    assert set(dotted(variant, mask_ratio=0.75)) == {"objectives.mae.mask_ratio", "objectives.plain.mask_ratio"}


def test_lists_keep_names_in_the_order_of_the_study() -> None:
    assert dotted(QUICK, subsets=["n8192", "n64"], models=["tiny"], probes=["linear"], test_images=50) == {
        "study.subsets": ["n64", "n8192"],
        "study.models": ["tiny"],
        "study.probes": ["linear"],
        "tasks.detection.test_images": 50,
        "features.scenes.test_images": 50,
    }


def test_features_that_no_probe_is_left_to_use_go_as_well() -> None:
    study = QUICK["study"] | {"features": ["scenes", "more"], "probes": ["linear", "knn"]}
    tasks = QUICK["tasks"] | {"knn": {"features": "more"}}
    assert dotted(QUICK | {"study": study, "tasks": tasks}, probes=["knn"]) == {
        "study.probes": ["knn"],
        "study.features": ["more"],
    }


def test_runs_beside_the_grid_go_with_what_they_need() -> None:
    study = QUICK | {"study": QUICK["study"] | {"seeds": ["s0", "s1"], "extra": {"mae-small-n64-short-s1": BESIDE}}}
    assert "study.extra" not in dotted(study, subsets=["n64"])
    for fields in ({"subsets": ["n256"]}, {"models": ["tiny"]}, {"replicates": 1}):
        assert dotted(study, **fields)["study.extra"] == {}


def test_phases_go_with_what_they_need_and_with_the_run_before_them() -> None:
    at = BESIDE | {"seed": "s0", "subset": "n64", "model": "small"}
    second, third = (
        "mae-small-n64-short-s0-after-mae-n256-short",
        "mae-small-n64-short-s0-after-mae-n64-short-after-mae-n256-short",
    )
    phases = {
        second: at | {"after": "mae-small-n256-short-s0", "use": "weights"},
        third: at | {"after": second, "use": "weights"},
    }
    study = QUICK | {"study": QUICK["study"] | {"phases": phases}}
    assert "study.phases" not in dotted(study, subsets=["n64", "n256"], models=["small"])
    for fields in ({"subsets": ["n256"]}, {"subsets": ["n64"]}, {"models": ["tiny"]}):
        assert dotted(study, **fields)["study.phases"] == {}
    tiny = phases[second] | {"model": "tiny", "after": "mae-tiny-n256-short-s0"}
    both = QUICK | {"study": QUICK["study"] | {"phases": phases | {"mae-tiny-n64-short-s0-after-mae-n256-short": tiny}}}
    assert set(dotted(both, models=["tiny"])["study.phases"]) == {"mae-tiny-n64-short-s0-after-mae-n256-short"}


@given(count=st.integers(1, 20), declared=st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True))
def test_replicates_begin_with_the_seeds_that_were_run(count: int, declared: list[int]) -> None:
    seeds = [f"s{i}" for i in declared]
    found = dotted(QUICK | {"study": QUICK["study"] | {"seeds": seeds}}, replicates=count)["study.seeds"]
    assert len(set(found)) == len(found) == count
    assert found[: len(seeds)] == seeds[:count]


def test_any_option_can_be_set_by_its_path() -> None:
    more = {"models.tiny.depth": 6, "fit.bootstrap": 10, "models.wide": {"embed_dim": 256}}
    changed = overridden(QUICK, dotted(QUICK, more=more))
    assert changed["models"] == QUICK["models"] | {
        "tiny": QUICK["models"]["tiny"] | {"depth": 6},
        "wide": {"embed_dim": 256},
    }
    assert changed["fit"] == {"bootstrap": 10, "confidence": 0.95}
    assert QUICK["models"]["tiny"]["depth"] == 4


def test_what_does_not_apply_is_refused_all_at_once_with_the_nearest_names() -> None:
    more = {"model.tiny.depth": 6, "models.tinny.depth": 6, "study.models.0": "tiny", "schedules..x": 1}
    with pytest.raises(UserError) as error:
        dotted(QUICK, subsets=["n65"], probes=["linar"], more=more)
    said = str(error.value).splitlines()
    assert len(said) == 6
    for words in (
        "no 'n65'; did you mean 'n64'",
        "no 'linar'; did you mean 'linear'",
        "no block 'model'",
        "did you mean 'tiny'",
    ):
        assert any(words in line for line in said), words
    assert "overrides.more: study.models.0: study.models is no mapping; give study.models whole." in said


@pytest.mark.parametrize(
    "more",
    [
        {"schedules.short.images_seen": 64},
        {"schedules.short": {"images_seen": 64, "warmup_images": 0}},
        {"models.tiny": {}, "models.tiny.depth": 6},
    ],
)
def test_one_place_cannot_be_set_twice(more: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="leave one out"):
        dotted(QUICK, images_seen=32, more=more)


def test_mimcore_judges_the_study_that_the_overrides_make() -> None:
    parameters = StudyParameters.model_validate(
        {
            "study": "quick",
            "overrides": {"images_seen": 1000, "more": {"models.tiny.depht": 6, "models.small.num_heads": 3}},
        }
    )
    with pytest.raises(UserError) as error:
        parameters.changes(ROOT)
    said = str(error.value)
    assert said.startswith("studies/quick.yaml with these overrides has 3 mistakes:")
    assert "did you mean 'depth'" in said
    assert "nearest are 992 and 1024" in said
    accepted = StudyParameters.model_validate({"study": "quick", "overrides": {"images_seen": 4096}})
    assert accepted.changes(ROOT) == {"schedules.short.images_seen": 4096}
