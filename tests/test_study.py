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
    extra = {"objective": "mae60", "module": "mae", "model": "tiny", "subset": "n16", "schedule": "short", "seed": "s1"}
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
        (
            "study.objectives",
            ["mae60"],
            "study.objectives.0: 'mae60' is a variant of module 'mae'; list its runs under study.extra",
        ),
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
    ],
)
def test_options(tmp_path: Path, path: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Study.read(write(tmp_path, (path, value))).check()


def test_a_task_among_the_probes_and_features_named_as_a_task_are_refused(tmp_path: Path) -> None:
    tune = ("tasks.finetune", {"pool": "digits", "images_seen": 64, "batch_size": 32})
    with pytest.raises(
        UserError, match=r"study.probes.1: 'finetune' works with the encoder itself; list it under study.tasks"
    ):
        Study.read(write(tmp_path, tune, ("study.probes", ["linear", "finetune"])))
    same = (("features.finetune", {"pool": "digits"}), ("study.features", ["all", "finetune"]))
    with pytest.raises(UserError, match=r"study.features.1: 'finetune' is the name of a task as well"):
        Study.read(write(tmp_path, tune, ("study.tasks", ["finetune"]), *same))


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
