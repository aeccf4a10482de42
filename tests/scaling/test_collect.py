import csv
import hashlib
import json
import math
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scaling_study

from mimcore.errors import UserError
from mimcore.scaling.collect import collect
from mimcore.scaling.mapping import RESULTS_MAP, observe
from mimcore.scaling.table import SCHEMA, read_results, runs_of, write_results


def edit(path, change):
    metrics = json.loads(path.read_text())
    change(metrics)
    path.write_text(json.dumps(metrics))


@pytest.fixture
def study(tmp_path, small_plan):
    return scaling_study.build(tmp_path, small_plan)


RUN = "mae-tiny-n4096-long-s0"


def test_every_number_arrives_with_its_coordinates(tmp_path, study):
    collect(study, tmp_path, tmp_path / "results")
    table = pq.read_table(tmp_path / "results" / "results.parquet")
    assert table.schema.equals(SCHEMA)
    rows = read_results(tmp_path / "results" / "results.parquet")
    # 8 runs with 3 losses, the minimum and 2 metrics of one task; 1 model with 2 floors.
    assert len(rows) == 8 * 6 + 2
    recorded = json.loads((tmp_path / "evals" / RUN / "linear" / "metrics.json").read_text())["subjects"]["run"]["top1"]
    (row,) = (row for row in rows if row.run == RUN and row.metric == "top1")
    assert (row.value, row.standard_error, row.headline) == (recorded["value"], 0.004, True)
    assert (row.objective, row.model, row.subset, row.schedule, row.seed) == ("mae", "tiny", "n4096", "long", "s0")
    assert (row.unique_images, row.images_seen, row.encoder_params) == (4096, 65536, 5_400_000)
    (pixels,) = (row for row in rows if row.kind == "pixels")
    assert (pixels.run, pixels.model, pixels.unique_images, pixels.value) == (None, "tiny", None, 0.29)


def test_a_run_has_the_pool_of_its_subset_and_so_has_an_imported_one(tmp_path, study):
    for name, run in study["runs"].items():
        pool = "far" if run["coordinates"]["subset"] == "n65536" else "near"
        run["definition"] = {**run["definition"], "subset": {"name": run["coordinates"]["subset"], "pool": pool}}
        edit(
            tmp_path / "runs" / name / "metrics.json",
            lambda metrics, run=run: metrics.update(definition=run["definition"]),
        )
    facts = {"unique_images": 65536, "images_seen": 65536, "encoder_params": 1000, "flops": None}
    value = {
        "task": "pretrain",
        "metric": "val_loss",
        "value": 0.5,
        "standard_error": None,
        "higher_is_better": False,
        "headline": True,
    }
    elsewhere = [
        {
            "run": f"mae-huge-{subset}-long-s0",
            "file": "theirs.csv",
            "digest": "0",
            "objective": "mae",
            "model": "huge",
            "subset": subset,
        }
        | {"schedule": "long", "seed": "s0", **facts, "values": [value]}
        for subset in ("n65536", "n3")
    ]
    (tmp_path / "imported.json").write_text(json.dumps(elsewhere))
    collect(study, tmp_path, tmp_path / "results", tmp_path / "imported.json")
    pools = {
        run.name: run.pool for run in runs_of(read_results(tmp_path / "results" / "results.parquet"), imported=True)
    }
    assert pools[RUN] == "near"
    assert pools["mae-tiny-n65536-long-s0"] == pools["mae-huge-n65536-long-s0"] == "far"
    assert pools["mae-huge-n3-long-s0"] is None
    # What the mapping said of an unknown subset holds; of one of the study's it must be what the study says.
    (tmp_path / "imported.json").write_text(json.dumps([elsewhere[0], {**elsewhere[1], "pool": "third"}]))
    collect(study, tmp_path, tmp_path / "results", tmp_path / "imported.json")
    rows = read_results(tmp_path / "results" / "results.parquet")
    assert {run.pool for run in runs_of(rows, imported=True) if run.source == "imported"} == {"far", "third"}
    (tmp_path / "imported.json").write_text(json.dumps([{**elsewhere[0], "pool": "near"}]))
    with pytest.raises(
        UserError,
        match=r"from theirs.csv as of pool 'near', and the study's subset 'n65536' is of 'far'; correct 'pool'",
    ):
        collect(study, tmp_path, tmp_path / "results", tmp_path / "imported.json")


def test_the_minimum_of_the_validation_loss_is_read_off_the_curve(tmp_path, study):
    collect(study, tmp_path, tmp_path / "results")
    curve = pq.read_table(tmp_path / "runs" / RUN / "curve.parquet").to_pylist()
    (run,) = (r for r in runs_of(read_results(tmp_path / "results" / "results.parquet")) if r.name == RUN)
    assert run.values["pretrain", "val_loss_minimum"] == min(p["loss"] for p in curve if p["split"] == "val")
    assert run.rise >= 0


def test_artifacts_that_the_study_does_not_name_are_left_alone(tmp_path, study):
    old = study["runs"].pop(RUN)
    study["evals"].pop(RUN)
    assert old
    assert collect(study, tmp_path, tmp_path / "results")["runs"] == 7
    rows = read_results(tmp_path / "results" / "results.parquet")
    assert RUN not in {row.run for row in rows}
    assert RUN not in pq.read_table(tmp_path / "results" / "curves.parquet")["run"].to_pylist()


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_bytes_depend_on_the_inputs_alone(tmp_path, study):
    collect(study, tmp_path, tmp_path / "results")
    turned = {**study, "runs": dict(reversed(study["runs"].items()))}
    collect(turned, tmp_path, tmp_path / "again")
    assert digests(tmp_path / "results") == digests(tmp_path / "again")
    rows = read_results(tmp_path / "results" / "results.parquet")
    write_results(tmp_path / "turned.parquet", list(reversed(rows)))
    assert (tmp_path / "turned.parquet").read_bytes() == (tmp_path / "results" / "results.parquet").read_bytes()


@pytest.mark.parametrize(
    ("place", "field", "old", "new", "named"),
    [
        (
            f"runs/{RUN}",
            ("objective", "mask_ratio"),
            "0.75",
            0.6,
            "objective.mask_ratio = 0.75, but the study says 0.6",
        ),
        (f"runs/{RUN}", ("schedule", "warmup"), "nothing", 1, "schedule.warmup = nothing, but the study says 1"),
        (f"evals/{RUN}/linear", ("task", "epochs"), "10", 20, "task.epochs = 10, but the study says 20"),
        ("floors/tiny/linear", ("task", "epochs"), "10", 20, "task.epochs = 10, but the study says 20"),
    ],
)
def test_another_definition_is_refused(tmp_path, study, place, field, old, new, named):
    study = json.loads(json.dumps(study))
    kind, *of = place.split("/")
    definition = study[kind][of[0]]["definition"] if kind == "runs" else study[kind][of[0]][of[1]]
    definition[field[0]][field[1]] = new
    with pytest.raises(UserError, match="dvc repro") as refused:
        collect(study, tmp_path, tmp_path / "results")
    assert named in str(refused.value)
    assert place in str(refused.value)
    assert not (tmp_path / "results").exists()


def test_tuples_in_a_definition_equal_the_lists_of_json(tmp_path, study):
    edit(tmp_path / "runs" / RUN / "metrics.json", lambda m: m["definition"].update(betas=[0.9, 0.95]))
    study["runs"][RUN]["definition"]["betas"] = (0.9, 0.95)
    collect(study, tmp_path, tmp_path / "results")


def test_what_is_missing_is_named_and_counted(tmp_path, study):
    for name in (RUN, "mae-tiny-n1024-long-s1"):
        (tmp_path / "evals" / name / "linear" / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"n1024-long-s1/linear/metrics.json is missing \(and 1 more\)"):
        collect(study, tmp_path, tmp_path / "results")


@pytest.mark.parametrize(
    ("place", "change", "named"),
    [
        (
            f"runs/{RUN}",
            lambda m: m["metrics"].update(val_loss=math.nan),
            "metrics.val_loss.* nan, not a finite number",
        ),
        (f"runs/{RUN}", lambda m: m["metrics"].pop("seen_loss"), "metrics.seen_loss is missing"),
        (f"runs/{RUN}", lambda m: m["facts"].pop("flops"), "facts.flops is missing"),
        (f"runs/{RUN}", lambda m: m["facts"].update(unique_images=0), "facts.unique_images is 0, not positive"),
        (f"runs/{RUN}", lambda m: m.pop("definition"), "has no 'definition'"),
        (f"evals/{RUN}/linear", lambda m: m["subjects"]["run"]["top1"].update(value=None), "run.top1.value is missing"),
        (f"evals/{RUN}/linear", lambda m: m["subjects"].update(pixels={}), "subjects must be of run"),
        (f"evals/{RUN}/linear", lambda m: m["subjects"]["run"]["other"].update(headline=True), "one headline metric"),
        ("floors/tiny/linear", lambda m: m["subjects"]["untrained"]["top1"].update(value=math.inf), "not a finite"),
    ],
)
def test_a_number_that_is_missing_or_not_one_is_an_error(tmp_path, study, place, change, named):
    edit(tmp_path / place / "metrics.json", change)
    with pytest.raises(UserError, match=named) as refused:
        collect(study, tmp_path, tmp_path / "results")
    assert "\n" not in str(refused.value)


def test_a_broken_curve_is_an_error(tmp_path, study):
    path = tmp_path / "runs" / RUN / "curve.parquet"
    table = pq.read_table(path)
    points = table.to_pylist()
    points[0]["loss"] = math.nan
    pq.write_table(pa.Table.from_pylist(points), path)
    with pytest.raises(UserError, match="loss at 1024 images seen is nan"):
        collect(study, tmp_path, tmp_path / "results")
    pq.write_table(table.drop_columns("grad_norm"), path)
    with pytest.raises(UserError, match="lacks the columns grad_norm"):
        collect(study, tmp_path, tmp_path / "results")
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a Parquet file"):
        collect(study, tmp_path, tmp_path / "results")


def test_mixed_libraries_are_said(tmp_path, study):
    edit(tmp_path / "runs" / RUN / "metrics.json", lambda m: m["libraries"].update(torch="2.14.0"))
    (warning,) = collect(study, tmp_path, tmp_path / "results")["warnings"]
    assert "torch 2.14.0 and 2.15.0" in warning
    assert json.loads((tmp_path / "results" / "notes.json").read_text())["warnings"] == [warning]


def test_the_headline_is_small_and_holds_the_best_beside_the_floors(whole_study):
    headline = json.loads((whole_study / "results" / "headline.json").read_text())
    rows = read_results(whole_study / "results" / "results.parquet")
    numbers = [value for value in flatten(headline) if isinstance(value, int | float)]
    assert len(numbers) <= 10
    assert headline["runs"] == 48
    assert headline["val_loss"]["mae"] == min(row.value for row in rows if row.metric == "val_loss")
    assert headline["tasks"]["linear"]["top1"]["floor"] == 0.29


def flatten(value):
    return [leaf for part in value.values() for leaf in flatten(part)] if isinstance(value, dict) else [value]


def test_the_plots_of_dvc_have_a_row_per_run_and_thin_curves(whole_study):
    with (whole_study / "results" / "scaling.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 48
    assert {"unique_images", "series", "seed", "val_loss", "linear_top1"} <= set(rows[0])
    with (whole_study / "results" / "curves.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) <= 48 * 2 * 40


def test_a_table_with_a_hole_is_refused(tmp_path, whole_study):
    rows = read_results(whole_study / "results" / "results.parquet")
    write_results(tmp_path / "r.parquet", [replace(rows[0], value=math.nan), *rows[1:]])
    with pytest.raises(UserError, match="is nan"):
        read_results(tmp_path / "r.parquet")
    with pytest.raises(UserError, match="dvc repro"):
        read_results(tmp_path / "absent.parquet")


def followed(root):
    """A study with two phases and a branch, their numbers those of the runs that they are copied from."""
    plan = scaling_study.Plan(("tiny",), (1024, 4096), {"short": 1024, "long": 4096}, ("s0",), tasks=("linear",))
    study = scaling_study.build(root, plan)

    def add(name, like, after, use, objective="mae"):
        definition = {**study["runs"][like]["definition"], "use": use, "after": study["runs"][after]["definition"]}
        coordinates = study["runs"][like]["coordinates"] | {"objective": objective}
        study["runs"][name] = {"coordinates": coordinates, "definition": definition, "after": after, "use": use}
        study["evals"][name] = {}
        shutil.copytree(root / "runs" / like, root / "runs" / name)
        edit(root / "runs" / name / "metrics.json", lambda metrics: metrics.update(definition=definition))

    second = "pix-tiny-n4096-long-s0-after-mae-n4096-short"
    third = "pix-tiny-n1024-short-s0-after-pix-n4096-long-after-mae-n4096-short"
    add(second, "mae-tiny-n4096-long-s0", "mae-tiny-n4096-short-s0", "weights", "pix")
    add(third, "mae-tiny-n1024-short-s0", second, "teacher", "pix")
    branch = "mae-tiny-n4096-short-s0-after-mae-n4096-long"
    add(branch, "mae-tiny-n4096-short-s0", "mae-tiny-n4096-long-s0", "state")
    return study, second, third, branch


def test_phases_stand_apart_and_count_what_came_before(tmp_path):
    study, second, third, branch = followed(tmp_path)
    collect(study, tmp_path, tmp_path / "results")
    rows = {row.run: row for row in read_results(tmp_path / "results" / "results.parquet") if row.run}
    short, long = rows["mae-tiny-n4096-short-s0"], rows[RUN]
    assert (short.after, short.use) == (None, None)
    assert (short.total_images_seen, short.total_flops) == (short.images_seen, short.flops)
    assert (rows[second].after, rows[second].use) == ("mae-tiny-n4096-short-s0", "weights")
    assert rows[second].images_seen == long.images_seen
    assert rows[second].total_images_seen == short.images_seen + long.images_seen
    assert rows[third].total_images_seen == 2 * short.images_seen + long.images_seen
    assert rows[third].total_flops == pytest.approx(2 * short.flops + long.flops)
    assert rows[branch].total_images_seen == rows[branch].images_seen == short.images_seen, (
        "it shares what its trunk saw"
    )
    runs = {run.name: run for run in runs_of(list(read_results(tmp_path / "results" / "results.parquet")))}
    assert str(runs[second].setting) == "pix after mae short tiny long"
    assert str(runs[third].setting) == "pix taught by pix n4096 long after mae short tiny short"
    assert runs[branch].setting == runs["mae-tiny-n4096-short-s0"].setting, "a branch is the run of its length"
    assert {run.name for run in runs.values() if run.setting == runs[second].setting} == {second}
    observed = observe(tmp_path / "results" / "results.parquet", RESULTS_MAP).columns["run"]
    assert set(observed) == set(runs) - {second, third}


def test_a_phase_after_a_run_of_another_definition_is_refused(tmp_path):
    study, second, _, _ = followed(tmp_path)
    first = study["runs"]["mae-tiny-n4096-short-s0"]["definition"]
    study["runs"][second]["definition"] |= {"after": first | {"seed": "s9"}}
    with pytest.raises(
        UserError, match=r"was made with (after\.)+seed = \"s0\", but the study says \"s9\"; run 'dvc repro'"
    ):
        collect(study, tmp_path, tmp_path / "results")


def test_a_table_of_before_there_were_phases_can_be_read(tmp_path, study):
    collect(study, tmp_path, tmp_path / "results")
    file = tmp_path / "results" / "results.parquet"
    rows = read_results(file)
    pq.write_table(pq.read_table(file).drop_columns(["after", "use", "total_images_seen", "total_flops"]), file)
    assert [row.value for row in read_results(file)] == [row.value for row in rows]


def test_a_table_from_before_runs_could_be_imported_is_read(whole_study, tmp_path):
    table = pq.read_table(whole_study / "results" / "results.parquet")
    pq.write_table(table.drop_columns(["source", "imported_from"]), tmp_path / "old.parquet")
    assert read_results(tmp_path / "old.parquet") == read_results(whole_study / "results" / "results.parquet")


def test_what_does_not_apply_to_a_run_is_noted_and_has_no_row(tmp_path, study):
    task = next(iter(study["evals"][RUN]))
    why = "the run has no text tower."

    def silence(metrics):
        metrics["subjects"] = {}
        metrics["not_applicable"] = why

    edit(tmp_path / "evals" / RUN / task / "metrics.json", silence)
    found = collect(study, tmp_path, tmp_path / "results")
    rows = read_results(tmp_path / "results" / "results.parquet")
    assert not [row for row in rows if (row.run, row.task) == (RUN, task)]
    others = {row.run for row in rows if row.task == task and row.kind == "run"}
    assert others == set(study["runs"]) - {RUN}
    assert found["not_applicable"] == [f"{task}: the run has no text tower ({RUN})."]
    notes = json.loads((tmp_path / "results" / "notes.json").read_text())
    assert notes["not_applicable"] == found["not_applicable"]


def test_a_measure_that_says_nothing_at_all_is_refused(tmp_path, study):
    task = next(iter(study["evals"][RUN]))
    edit(tmp_path / "evals" / RUN / task / "metrics.json", lambda metrics: metrics.update(subjects={}))
    with pytest.raises(UserError, match="subjects must be of run"):
        collect(study, tmp_path, tmp_path / "results")
