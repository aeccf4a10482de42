"""What an edit makes stale: exactly what it can change. The true pipeline, over work that takes no time."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scratch_pipeline
from scratch_pipeline import PARAMS, Pipeline

from mimcore.cli.plan import _stages
from mimcore.study import Study

pytestmark = pytest.mark.filterwarnings("ignore")  # of DVC's own libraries

RUNS = [f"mae-{model}-{subset}-short-s0" for model in ("tiny", "small") for subset in ("n16", "n64")]
MODELS = ("tiny", "small")
PREPARE = [f"prepare@mae-{subset}-s0" for subset in ("n16", "n64")]
PRETRAIN = [f"pretrain@{run}" for run in RUNS]
EVALUATE = [f"evaluate@{run}-detection" for run in RUNS]
FLOORS = [f"floor@{model}-detection" for model in MODELS]
#: What goes through an encoder once, and what is made of it.
FEATURES = [*(f"features@{run}-all" for run in RUNS), *(f"features-floor@{model}-all" for model in MODELS)]
PROBES = [*(f"probe@{run}-linear" for run in RUNS), *(f"probe-floor@{model}-linear" for model in MODELS)]
OF_MODELS = [*PRETRAIN, *FLOORS, *(stage for stage in FEATURES if stage.startswith("features-floor"))]
#: Reads names and the definitions of what it gathers, so it sees every edit of those.
COLLECT = ["check", "collect"]

#: Which stages an edit of each definition makes stale by itself.
OWN = {
    "pools.digits": ["check", "index@digits"],
    **{f"subsets.{n}": [*COLLECT, f"sample@{n}-s0"] for n in ("n16", "n64")},
    **{f"models.{model}": [*COLLECT, *[s for s in OF_MODELS if f"{model}-" in s]] for model in MODELS},
    "objectives.mae": [*COLLECT, "modules", *PREPARE, *PRETRAIN],
    "schedules.short": [*COLLECT, *PRETRAIN],
    "features.all": [*COLLECT, "examples-features@all", *FEATURES],
    "tasks.linear": [*COLLECT, "modules", *PROBES],
    "tasks.detection": [*COLLECT, "modules", "examples@detection", *EVALUATE, *FLOORS],
    "fit": ["check", "fit"],
}


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every field below a definition, and one that is not there."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, f"{path}.{key}")
        yield f"{path}.not_there_before", None
    else:
        yield path, value


def another(value: Any) -> Any:
    """A value that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value, value[0]]
    return f"{value}x" if isinstance(value, str) else 1 if value is None else value + 1


def fields(kind: str) -> Iterator[tuple[str, Any, list[str]]]:
    for path, stages in OWN.items():
        value: Any = PARAMS
        for part in path.split("."):
            value = value[part]
        if path.startswith(kind):
            yield from ((field, old, stages) for field, old in leaves(value, path))


def test_every_definition_is_covered() -> None:
    named = {f"{kind}.{name}" for kind in scratch_pipeline.KINDS for name in PARAMS[kind]} | {"fit"}
    assert named == set(OWN)


def test_a_second_repro_runs_nothing_bytecode_or_not(pipeline: Pipeline) -> None:
    assert pipeline.repro() == []
    subprocess.run(["python", "-m", "compileall", "-q", "mimcore"], cwd=pipeline.root, check=True)
    written = list((pipeline.root / "mimcore").rglob("__pycache__/*.pyc"))
    assert len(written) > 50
    for file in written:
        file.touch()
    assert pipeline.stale() == set()
    assert pipeline.repro() == []
    (pipeline.root / ".dvcignore").write_text("")  # without the cure, the trap is there
    assert pipeline.stale() == {"check", "modules"}


def test_what_dvc_and_a_killed_process_leave_beside_artifacts_is_not_hashed(pipeline: Pipeline) -> None:
    """DVC keeps there a line for every output that there ever was: another one in each checkout."""
    part = pipeline.root / "artifacts/index/.digits.part-17"
    part.mkdir()
    (part / "index.parquet").write_text("half")
    try:
        with pipeline.edited("artifacts/runs/.gitignore", "/mae-older-n16-short-s0\n"):
            assert pipeline.stale() == set()
            with pipeline.edited(".dvcignore", "!.gitignore\n!.*.part-*\n"):  # the trap is there
                assert {"collect", "report", "sample@n16-s0", "examples@detection"} <= pipeline.stale()
    finally:
        shutil.rmtree(part)


def test_the_first_repro_ran_every_stage(tmp_path: Path, quiet_tools: None) -> None:
    fresh = scratch_pipeline.build(tmp_path / "fresh")
    assert fresh.stale() == fresh.names()


@pytest.mark.parametrize("kind", ["pools", "subsets", "models", "objectives", "schedules", "features", "tasks", "fit"])
def test_a_field_makes_stale_what_uses_it(pipeline: Pipeline, kind: str) -> None:
    before = pipeline.params()
    for field, old, stages in fields(kind):
        pipeline.set(field, another(old))
        assert pipeline.stale() == set(stages), field
        (pipeline.root / "params.yaml").write_text(json.dumps(before, indent=1))


def test_what_changes_only_the_speed_makes_nothing_stale(pipeline: Pipeline) -> None:
    speed = {"device": "auto", "threads": 7, "workers": 3, "image_cache_mib": 1}
    for field, value in {**speed, "index_workers": 2, "index_cluster": "tcp://nowhere:1"}.items():
        pipeline.set(f"execution.{field}", value)
    assert pipeline.stale() == set()
    assert pipeline.repro() == []


def test_the_title_of_a_study_touches_its_report_alone(pipeline: Pipeline) -> None:
    pipeline.set("study.title", "Another")
    assert pipeline.stale() == {"check", "collect"}


def downstream(pipeline: Pipeline, stages: list[str]) -> set[str]:
    """The stages and all that come after them, by the graph of DVC."""
    import networkx

    with pipeline.repo() as repo:
        by_name = {stage.addressing: stage for stage in repo.index.stages}
        graph = repo.index.graph.reverse()
        reached = set().union(*({s.addressing for s in networkx.descendants(graph, by_name[n])} for n in stages))
    return reached | set(stages)


def test_an_edit_runs_all_that_follows_and_its_undoing_restores(pipeline: Pipeline) -> None:
    before, kept = artifacts(pipeline.root), pipeline.params()
    pipeline.set("models.tiny.depth", 3)
    expected = downstream(pipeline, [stage for stage in OWN["models.tiny"] if stage != "check"]) | {"check"}
    assert sorted(pipeline.repro()) == sorted(expected), "each stage ran once; none was restored from the run-cache"
    changed = artifacts(pipeline.root)
    assert {name for name in before if "tiny" in name} <= {n for n in before if changed[n] != before[n]}
    (pipeline.root / "params.yaml").write_text(json.dumps(kept, indent=1))
    assert pipeline.repro() == [], "what was made before is restored"
    assert artifacts(pipeline.root) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pools.digits.images", 101),
        ("subsets.n16.images", 17),
        ("objectives.mae.mask_ratio", 0.6),
        ("schedules.short.images_seen", 1024),
        ("features.all.train_images", 60),
        ("tasks.linear.l2", [0.1, 0.2]),
        ("tasks.detection.scales", ["1"]),
        ("fit.bootstrap", 300),
    ],
)
def test_an_edit_misses_the_run_cache(pipeline: Pipeline, field: str, value: object) -> None:
    before, kept = artifacts(pipeline.root), pipeline.params()
    (own,) = [stages for path, stages in OWN.items() if field.startswith(f"{path}.")]
    own = [stage for stage in own if stage not in COLLECT]
    pipeline.set(field, value)
    assert sorted(pipeline.repro(*own)) == sorted(own), "none was restored from the run-cache"
    assert artifacts(pipeline.root) != before
    (pipeline.root / "params.yaml").write_text(json.dumps(kept, indent=1))
    assert pipeline.repro(*own) == []
    assert artifacts(pipeline.root) == before


def artifacts(root: Path) -> dict[str, bytes]:
    files = [file for file in (root / "artifacts").rglob("*") if file.is_file() and file.name != ".gitignore"]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("mimcore/objectives/mae.py", [*PREPARE, *PRETRAIN]),
        ("mimcore/objectives/another.py", []),
        ("mimcore/evaluation/linear.py", PROBES),
        ("mimcore/evaluation/detection.py", [*EVALUATE, *FLOORS]),
        ("mimcore/evaluation/probing.py", PROBES),
        ("mimcore/evaluation/extract.py", FEATURES),
        ("mimcore/evaluation/frozen.py", [*FEATURES, *PROBES]),
        ("mimcore/evaluation/task.py", [*FEATURES, *PROBES, *EVALUATE, *FLOORS]),
        ("mimcore/evaluation/knn.py", []),
        ("mimcore/evaluation/coco.py", [*EVALUATE, *FLOORS]),
        ("mimcore/scaling/laws/power.py", ["fit", "report"]),
        ("mimcore/scaling/report.html.j2", ["report"]),
        ("mimcore/scaling/collect.py", ["collect"]),
        ("mimcore/data/formats/digits.py", ["index@digits"]),
        ("mimcore/data/index.py", ["index@digits"]),
        ("mimcore/data/crops.py", PRETRAIN),
        ("mimcore/sampling/strategies/random.py", ["sample@n16-s0", "sample@n64-s0"]),
        ("mimcore/sampling/examples.py", ["examples-features@all", "examples@detection"]),
        ("mimcore/training/schedule.py", PRETRAIN),
        ("mimcore/sampling/prepare.py", PREPARE),
        ("mimcore/models/decoder.py", [*PREPARE, *PRETRAIN]),
        ("mimcore/models/hog.py", []),  # of another objective
        ("mimcore/models/encoder.py", [*PREPARE, *PRETRAIN, *FEATURES, *EVALUATE, *FLOORS]),
        ("mimcore/scaling/choose.py", ["fit"]),
        ("mimcore/scaling/imported.py", ["collect"]),
        ("mimcore/scaling/import_runs.py", []),
        ("mimcore/cli/scaling.py", []),
        ("mimcore/study.py", []),
        ("mimcore/layout.py", []),
        ("mimcore/explain.py", []),
        ("mimcore/execution.py", []),
        ("mimcore/progress.py", []),
    ],
)
def test_an_edit_of_code_makes_stale_what_imports_it(pipeline: Pipeline, file: str, stages: list[str]) -> None:
    with pipeline.edited(file):
        assert pipeline.stale() == {"check", "modules"}
        assert pipeline.repro("modules") == ["modules"]
        assert pipeline.stale() == {"check", *stages}


def test_what_a_task_needs_of_images_chooses_them_anew(pipeline: Pipeline) -> None:
    file = pipeline.root / "mimcore/evaluation/detection.py"
    file.write_text(file.read_text().replace('NEEDS: Needs = "boxes"', 'NEEDS: Needs = "masks"'))
    pipeline.repro("modules")
    assert pipeline.stale() == {"check", "examples@detection", *EVALUATE, *FLOORS}


def test_an_edit_of_code_that_does_no_work_runs_what_looks_at_all_of_it_alone(pipeline: Pipeline) -> None:
    with pipeline.edited("mimcore/progress.py", "\n# Another edit.\n"):
        assert pipeline.repro() == ["check", "modules"]


#: Prints the stages that would be priced, and why ``fit`` is stale.
LOOK = """
from pathlib import Path
from mimcore.cli.plan import _stages
from mimcore.explain import explain
from mimcore.modules import read_code
from mimcore.plan.stale import stale
from mimcore.study import Study
study = Study.read(Path("params.yaml"))
code = read_code(**study.modules)
print(*(stage.name for stage in stale(list(_stages(study)), code)))
print(explain("fit", code))
"""


def test_what_an_edit_costs_and_why_is_known_before_it_is_read_and_after(pipeline: Pipeline) -> None:
    def look() -> tuple[set[str], str]:
        done = subprocess.run(["python", "-c", LOOK], cwd=pipeline.root, capture_output=True, text=True, check=True)
        stages, _, why = done.stdout.strip().partition("\n")
        return set(stages.split()), why

    with pipeline.edited("mimcore/scaling/choose.py", "\n# Told.\n"):
        why = "fit is stale:\n  - code mimcore/scaling/choose.py has changed."
        assert look() == ({"check", "modules", "fit", "report"}, why)
        pipeline.repro("modules")
        assert look() == ({"check", "fit", "report"}, why)
    assert look() == ({"modules"}, "fit itself is up to date.")


def test_an_edit_of_a_listing_indexes_that_pool(pipeline: Pipeline) -> None:
    with pipeline.edited("listings/digits.json", "\n"):
        assert pipeline.stale() == {"index@digits"}


def test_imported_runs_are_gathered_anew_and_nothing_is_trained(pipeline: Pipeline) -> None:
    with pipeline.edited("imported.json", "\n"):
        assert pipeline.stale() == {"collect"}


def test_a_new_model_leaves_the_others_alone(pipeline: Pipeline) -> None:
    pipeline.set("models.large", {"image_size": 32})
    assert pipeline.stale() == {"check", "collect"}
    pipeline.set("study.models", ["tiny", "small", "large"])
    new = {name for name in pipeline.names() if "large" in name}
    assert len(new) == 2 + 2 * 3 + 3  # two runs, each measured by features, a probe and a task, and the floors of these
    assert set(pipeline.repro()) == {"check", "collect", "fit", "report", *new}


def test_a_variant_depends_on_the_module_it_names(pipeline: Pipeline) -> None:
    name = "mae60-tiny-n16-short-s0"
    at = {"objective": "mae60", "model": "tiny", "subset": "n16", "schedule": "short", "seed": "s0"}
    pipeline.set("objectives.mae60", {"module": "mae", "mask_ratio": 0.6})
    pipeline.set("study.extra", {name: at})
    extra = {
        f"prepare-extra@{name}",
        f"pretrain-extra@{name}",
        f"features-extra@{name}-all",
        f"probe-extra@{name}-linear",
    }
    extra |= {f"evaluate-extra@{name}-detection"}
    assert set(pipeline.repro()) == {"check", "modules", "collect", "fit", "report", *extra}
    with pipeline.edited("mimcore/objectives/mae.py"):
        pipeline.repro("modules")
        beside = {f"prepare-extra@{name}", f"pretrain-extra@{name}"}
        assert pipeline.stale() == {"check", *beside, *PREPARE, *PRETRAIN}
    pipeline.set("objectives.mae60.mask_ratio", 0.5)
    pipeline.repro("modules")
    assert pipeline.stale() == {"check", "collect", *beside}


FIRST = "mae-tiny-n16-short-s0"
SECOND = "pix-tiny-n64-short-s0-after-mae-n16-short"
THIRD = f"mae-tiny-n16-short-s0-after-{SECOND.replace('tiny-', '').replace('-s0', '')}"


def with_phases(pipeline: Pipeline) -> None:
    """A phase, and a phase after that."""
    at = {"model": "tiny", "schedule": "short", "seed": "s0"}
    pipeline.set("objectives.pix", {"module": "mae", "norm_pix_loss": False})
    phases = {
        SECOND: at | {"objective": "pix", "subset": "n64", "after": FIRST, "use": "weights"},
        THIRD: at | {"objective": "mae", "subset": "n16", "after": SECOND, "use": "teacher"},
    }
    pipeline.set("study.phases", phases)
    Study.read(pipeline.root / "params.yaml")


def stages_of(phase: str) -> set[str]:
    measured = {f"features-phase@{phase}-all", f"probe-phase@{phase}-linear", f"evaluate-phase@{phase}-detection"}
    return {f"pretrain-phase@{phase}", *measured}


def test_a_phase_runs_again_where_it_or_what_it_follows_changes(pipeline: Pipeline) -> None:
    with_phases(pipeline)
    prepared = {f"prepare-phase@{name}" for name in (SECOND, THIRD)}
    ran = pipeline.repro()
    assert set(ran) == {
        "check",
        "modules",
        "collect",
        "fit",
        "report",
        *prepared,
        *stages_of(SECOND),
        *stages_of(THIRD),
    }
    assert ran.index(f"pretrain-phase@{SECOND}") < ran.index(f"pretrain-phase@{THIRD}")
    priced = {stage.name for stage in _stages(Study.read(pipeline.root / "params.yaml"))}
    assert priced == pipeline.names(), "'mimcore plan' names every stage as DVC does"
    kept = pipeline.params()
    own = {f"prepare-phase@{SECOND}", f"pretrain-phase@{SECOND}"}
    changes: list[tuple[str, Any, set[str]]] = [
        ("objectives.pix.norm_pix_loss", True, own),
        (f"study.phases.{SECOND}.use", "teacher", own - prepared),
        (f"study.phases.{SECOND}.after", "mae-tiny-n64-short-s0", own - prepared),
    ]
    for field, value, stages in changes:  # neither the run before it, nor, as yet, the phase after it
        pipeline.set(field, value)
        assert pipeline.stale() - {"modules"} == {"check", "collect", *stages}, field
        assert sorted(pipeline.repro(*sorted(stages))) == sorted(stages), "none was restored from the run-cache"
        assert f"pretrain-phase@{THIRD}" in pipeline.stale(), field
        (pipeline.root / "params.yaml").write_text(json.dumps(kept, indent=1))
        assert pipeline.repro(*sorted(stages)) == []
    pipeline.set("models.tiny.depth", 3)
    assert {f"pretrain@{FIRST}", f"pretrain-phase@{SECOND}", f"pretrain-phase@{THIRD}"} <= pipeline.stale()
    (pipeline.root / "params.yaml").write_text(json.dumps(kept, indent=1))
    assert f"pretrain-phase@{SECOND}" in downstream(pipeline, [f"pretrain@{FIRST}"])
    assert f"probe-phase@{THIRD}-linear" in downstream(pipeline, [f"pretrain@{FIRST}"])


def test_a_worktree_with_the_same_cache_runs_nothing_and_stays_apart(pipeline: Pipeline, tmp_path: Path) -> None:
    tree = Pipeline(tmp_path / "worktree")
    subprocess.run(["git", "worktree", "add", "--quiet", str(tree.root)], cwd=pipeline.root, check=True)
    try:
        cache = str(pipeline.root / ".dvc/cache")
        subprocess.run(["python", "-m", "dvc", "cache", "dir", "--local", cache], cwd=tree.root, check=True)
        shutil.copy(pipeline.root / "dvc.lock", tree.root / "dvc.lock")
        assert tree.repro() == []
        assert tree.stale() == set()
        before = artifacts(pipeline.root)
        assert artifacts(tree.root) == before
        tree.set("models.tiny.embed_dim", 96)
        own = [stage for stage in OWN["models.tiny"] if stage not in COLLECT]
        assert tree.stale() == set(OWN["models.tiny"])
        assert sorted(tree.repro(*own)) == sorted(own)
        assert artifacts(tree.root) != before
        assert artifacts(pipeline.root) == before
        assert pipeline.stale() == set()
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree.root)], cwd=pipeline.root, check=True)
