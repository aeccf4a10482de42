import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mimcore.errors import UserError
from mimcore.study import Study

SMALL: dict[str, Any] = {
    "pools": {"digits": {"format": "digits", "images": 100, "val_images": 10}},
    "subsets": {"n16": {"pool": "digits", "images": 16}, "n64": {"pool": "digits", "images": 64}},
    "models": {"tiny": {"image_size": 64, "patch_size": 8}},
    "objectives": {"mae": {}, "mae60": {"module": "mae", "mask_ratio": 0.6}},
    "schedules": {"short": {"images_seen": 512, "batch_size": 64, "warmup_images": 64}},
    "features": {"all": {"pool": "digits"}},
    "tasks": {"linear": {"features": "all"}},
    "study": {
        "pools": ["digits"],
        "subsets": ["n16", "n64"],
        "models": ["tiny"],
        "objectives": ["mae"],
        "schedules": ["short"],
        "seeds": ["s0", "s1"],
        "features": ["all"],
        "probes": ["linear"],
        "tasks": [],
        "phases": {},
    },
}


def write(folder: Path, *changes: tuple[str, Any]) -> Path:
    """The small study with some dotted paths changed (None: removed)."""
    study = yaml.safe_load(yaml.safe_dump(SMALL))
    for path, value in changes:
        *parents, last = path.split(".")
        block = study
        for part in parents:
            block = block.setdefault(part, {})
        if value is None:
            del block[last]
        else:
            block[last] = value
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


def test_runs_are_named_by_their_coordinates(tmp_path: Path) -> None:
    extra = {"objective": "mae60", "model": "tiny", "subset": "n16", "schedule": "short", "seed": "s1"}
    study = Study.read(write(tmp_path, ("study.extra", {"mae60-tiny-n16-short-s1": extra})))
    assert list(study.runs) == [
        "mae-tiny-n16-short-s0",
        "mae-tiny-n16-short-s1",
        "mae-tiny-n64-short-s0",
        "mae-tiny-n64-short-s1",
        "mae60-tiny-n16-short-s1",
    ]
    assert study.declared_run("mae60-tiny-n16-short-s1")["objective"] == {"module": "mae", "mask_ratio": 0.6}
    study.check()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("modles", {}, "modles: unknown block; did you mean 'models'?"),
        ("study.subsets", ["n16", "n46"], "study.subsets.1: there is no subsets.n46; did you mean 'n64'"),
        ("study.seeds", ["0"], r"study.seeds.0: '0' must be 's' and a number"),
        ("study.modles", [], "study.modles: unknown option; did you mean 'models'"),
        ("study.models", None, "study.models: required, but not given"),
        ("models.my-model", {}, "models.my-model: a name has letters, digits and '_' only"),
        ("subsets.n16.size", 5, "subsets.n16: an option may not be called 'size'"),
        ("subsets.n16.pool", "digit", "subsets.n16.pool: 'digit' is not among study.pools; did you mean 'digits'"),
        ("study.probes", None, "study.probes: required, but not given"),
        ("study.probes", [], "study: probes and tasks are both empty; name at least one of either"),
        (
            "study.tasks",
            ["linear"],
            "study.tasks.0: 'linear' works on frozen features; list it under study.probes, and give",
        ),
        ("tasks.linear.features", "al", "tasks.linear.features: 'al' is not among study.features; did you mean 'all'"),
        ("study.features", ["al"], "study.features.0: there is no features.al; did you mean 'all'"),
        ("features.all.pool", "digit", "features.all.pool: 'digit' is not among study.pools; did you mean 'digits'"),
        ("execution.workrs", 2, "execution.workrs: unknown option; did you mean 'workers'"),
    ],
)
def test_structure_and_names(tmp_path: Path, path: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Study.read(write(tmp_path, (path, value)))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("models.tiny.patch_size", 7, "models.tiny: patch_size 7 does not divide image_size 64"),
        ("models.tiny.patchsize", 8, "models.tiny.patchsize: unknown option; did you mean 'patch_size'"),
        (
            "schedules.short.images_seen",
            500,
            "schedules.short: images_seen 500 is not a whole number of batches of 64; nearest are 448 and 512",
        ),
        ("objectives.mae.mask_ratio", 1.5, "objectives.mae.mask_ratio: input should be less than 1"),
        ("tasks.linaer", {"features": "all"}, "tasks.linaer: there is no probe called 'linaer'; did you mean 'linear'"),
        ("features.all.pooling", "cls", "features.all.pooling: unknown option"),
        ("tasks.linear.pool", "digits", "tasks.linear.pool: unknown option"),
        ("pools.digits.format", "digitz", "pools.digits: there is no format called 'digitz'; did you mean 'digits'"),
        ("fit", {"bootstrp": 10}, "fit.bootstrp: unknown option; did you mean 'bootstrap'"),
        ("fit.pools", "apart", "fit.pools: input should be 'shifted' or 'alike'"),
        (
            "fit.outlook",
            ["linear/top5"],
            "fit.outlook: 'linear/top5' is the headline of no task of the study; did you mean",
        ),
        (
            "fit.claims",
            {"it": {"kind": "improves_with_data", "words": "So.", "at": {"model": "tny"}}},
            "fit.claims.it.at.model: 'tny' is not in the study; did you mean 'tiny'",
        ),
    ],
)
def test_options(tmp_path: Path, path: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Study.read(write(tmp_path, (path, value))).check()


AT = {"objective": "mae60", "model": "tiny", "subset": "n16", "schedule": "short", "seed": "s0"}
SECOND = "mae60-tiny-n16-short-s0-after-mae-n64-short"
THIRD = "mae60-tiny-n16-short-s0-after-mae60-n16-short-after-mae-n64-short"
PHASES = {
    THIRD: AT | {"after": SECOND, "use": "teacher"},
    SECOND: AT | {"after": "mae-tiny-n64-short-s0", "use": "weights"},
}


def test_phases_come_after_the_runs_that_they_follow(tmp_path: Path) -> None:
    study = Study.read(write(tmp_path, ("study.phases", PHASES)))
    assert list(study.runs)[-2:] == [SECOND, THIRD]
    declared = study.declared_run(THIRD)
    assert (declared["use"], declared["after"]["use"]) == ("teacher", "weights")
    assert declared["after"] == study.declared_run(SECOND)
    assert declared["after"]["after"] == study.declared_run("mae-tiny-n64-short-s0")
    assert "after" not in study.declared_run("mae-tiny-n64-short-s0")
    assert study.prepared[THIRD] == ("mae60", "n16", "s0")
    assert study.prepared_for("mae-tiny-n64-short-s1") == "mae-n64-s1"
    assert study.prepared_for(THIRD) == THIRD
    study.check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"after": "mae-tiny-n46-short-s0"}, "after: the study has no run 'mae-tiny-n46-short-s0'; did you mean"),
        ({"use": "weight"}, "use: input should be 'weights', 'teacher' or 'state'"),
        ({"after": SECOND}, f"after: it follows itself, by way of {SECOND}"),
        ({"seed": "s1"}, "call it mae60-tiny-n16-short-s1-after-mae-n64-short-s0"),
        ({"schedule": "long"}, "schedule: there is no schedules.long"),
        ({"module": "mae"}, "module: unknown option"),
        ({"use": "state"}, "objective: 'mae60' cannot go on from the state of 'mae'; only the schedule may be another"),
    ],
)
def test_mistakes_of_phases(tmp_path: Path, change: dict[str, str], message: str) -> None:
    phases = {SECOND: PHASES[SECOND] | change}
    with pytest.raises(UserError, match=message):
        Study.read(write(tmp_path, ("study.phases", phases)))


def test_a_circle_of_phases_is_named(tmp_path: Path) -> None:
    phases = {THIRD: PHASES[THIRD], SECOND: PHASES[SECOND] | {"after": THIRD}}
    with pytest.raises(UserError, match=rf"{SECOND}\.after: it follows itself, by way of {THIRD} and {SECOND}"):
        Study.read(write(tmp_path, ("study.phases", phases)))


def test_a_study_without_the_line_is_told_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"study\.phases: dvc\.yaml reads it .* add the line 'phases: \{\}' to the block"
    ):
        Study.read(write(tmp_path, ("study.phases", None)))


LENGTHS: dict[str, Any] = {
    "trunk": {"decay_images": 0, "keep_states": [256, 384]},
    "brief": {"images_seen": 384, "decay_images": 128, "validations": 4},
}


def branches(**change: Any) -> list[tuple[str, Any]]:
    """Changes to the small study: a trunk, and a branch of it whose schedule has other options."""
    made = {
        name: SMALL["schedules"]["short"] | {"decay": "wsd"} | options | (change if name == "brief" else {})
        for name, options in LENGTHS.items()
    }
    at = AT | {"objective": "mae", "schedule": "brief", "after": "mae-tiny-n16-trunk-s0", "use": "state"}
    name = "mae-tiny-n16-brief-s0-after-mae-n16-trunk"
    return [("schedules", made), ("study.schedules", ["trunk"]), ("study.phases", {name: at})]


def test_a_branch_must_fit_its_trunk(tmp_path: Path) -> None:
    Study.read(write(tmp_path, *branches())).check()
    for change, message in (
        ({"decay_images": 192}, "cannot branch off schedules.trunk: the branch begins to decay at 192 images seen"),
        ({"weight_decay": 0.1}, "a branch has the options of its trunk.*; weight_decay differ"),
        ({"keep_states": [256]}, r"keep_states \[256\] of the branch must be beyond 256"),
    ):
        with pytest.raises(UserError, match=message):
            Study.read(write(tmp_path, *branches(**change))).check()
    with pytest.raises(UserError, match="mae-tiny-n16-brief-s0 is a run of the study already"):
        Study.read(write(tmp_path, *branches(), ("study.schedules", ["trunk", "brief"])))


def test_weights_go_to_a_model_of_another_image_size_alone(tmp_path: Path) -> None:
    name = "mae60-other-n16-short-s0-after-mae-tiny-n64-short"
    phases = ("study.phases", {name: PHASES[SECOND] | {"model": "other"}})
    tiny = SMALL["models"]["tiny"]
    Study.read(write(tmp_path, phases, ("models.other", tiny | {"image_size": 96}))).check()
    with pytest.raises(UserError, match=r"models\.other differs from models\.tiny in patch_size, depth; weights fit"):
        Study.read(write(tmp_path, phases, ("models.other", tiny | {"patch_size": 16, "depth": 3}))).check()


def test_a_task_among_the_probes_and_features_named_as_a_task_are_refused(tmp_path: Path) -> None:
    tune = ("tasks.finetune", {"pool": "digits", "images_seen": 64, "batch_size": 32})
    with pytest.raises(
        UserError, match=r"study.probes.1: 'finetune' works with the encoder itself; list it under study.tasks"
    ):
        Study.read(write(tmp_path, tune, ("study.probes", ["linear", "finetune"])))
    same = (("features.finetune", {"pool": "digits"}), ("study.features", ["all", "finetune"]))
    with pytest.raises(UserError, match=r"study.features.1: 'finetune' is the name of a task as well"):
        Study.read(write(tmp_path, tune, ("study.tasks", ["finetune"]), *same))


def test_shifted_pools_are_pools_of_the_study(tmp_path: Path) -> None:
    robust = ("tasks.robustness", {"pool": "digits", "shifted": ["sketches"]})
    claim = {"kind": "improves_with_data", "words": "So.", "measure": "robustness/gap_sketches"}
    changes = [
        robust,
        ("study.tasks", ["robustness"]),
        ("pools.sketches", {"format": "folder", "path": "s", "val": "."}),
    ]
    with pytest.raises(UserError, match=r"tasks\.robustness\.shifted\.0: 'sketches' is not among study\.pools"):
        Study.read(write(tmp_path, *changes))
    changes.append(("study.pools", ["digits", "sketches"]))
    study = Study.read(write(tmp_path, *changes, ("fit.claims", {"it": claim})))
    assert study.shifted_of("tasks", "robustness") == ["sketches"]
    study.check()
    with pytest.raises(UserError, match=r"'robustness' has no metric 'gap_sketchs'; did you mean 'gap_sketches'"):
        Study.read(
            write(tmp_path, *changes, ("fit.claims", {"it": claim | {"measure": "robustness/gap_sketchs"}}))
        ).check()


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path, ("models.tiny.depht", 2), ("schedules.short.images_seen", 500), ("objectives.mae.mask_ratio", 2)
    )
    with pytest.raises(UserError) as caught:
        Study.read(file).check()
    assert "has 3 mistakes" in str(caught.value)
    assert all(
        path in str(caught.value) for path in ("models.tiny.depht", "schedules.short", "objectives.mae.mask_ratio")
    )


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing; put a study in force with"):
        Study.read(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="is not valid YAML"):
        Study.read(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="must hold blocks"):
        Study.read(tmp_path / "list.yaml")


def test_ready_studies_are_valid() -> None:
    root = Path(__file__).parents[1]
    files = sorted((root / "studies").glob("*.yaml"))
    assert files
    for file in files:
        Study.read(file).check()


def test_the_committed_study_is_the_default() -> None:
    root = Path(__file__).parents[1]
    shown = [
        subprocess.run(["git", "show", f"HEAD:{file}"], cwd=root, capture_output=True, check=True).stdout
        for file in ("params.yaml", "studies/quick.yaml")
    ]
    assert shown[0] == shown[1]
