"""``advise`` and ``forecast``: from a study's table to runs in params.yaml and forecasts that are judged later."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from mimcore import layout
from mimcore.cli import app
from mimcore.errors import UserError
from mimcore.plan.work import parameters
from mimcore.scaling.forecasts import judge, read_forecasts
from mimcore.scaling.laws import repetition
from mimcore.scaling.table import Row, read_results, runs_of, write_results
from mimcore.study import Study

MODEL = "{{architecture: vit_tiny_patch16_224, image_size: 32, patch_size: 8, embed_dim: {}, depth: 2, num_heads: 2}}"
PARAMS = f"""# Do more images help?
pools:
  digits: {{format: digits, images: 100000, image_size: 32, val_images: 1000}}
subsets:  # nested
  n256: {{pool: digits, images: 256}}
  n1024: {{pool: digits, images: 1024}}
  n4096: {{pool: digits, images: 4096}}
  n16384: {{pool: digits, images: 16384}}
models:
  w32: {MODEL.format(32)}
  w64: {MODEL.format(64)}
  w128: {MODEL.format(128)}
  w256: {MODEL.format(256)}
objectives:
  mae: {{mask_ratio: 0.6, decoder_embed_dim: 32, decoder_depth: 1, decoder_num_heads: 2}}
schedules:
  short: {{images_seen: 20480, batch_size: 32, warmup_images: 2048, precision: float32}}
  middle: {{images_seen: 81920, batch_size: 32, warmup_images: 2048, precision: float32}}
  long: {{images_seen: 327680, batch_size: 32, warmup_images: 2048, precision: float32}}
features:
  all: {{pool: digits}}
tasks:
  linear: {{features: all}}
study:
  title: A grid
  pools: [digits]
  subsets: [n256, n1024, n4096, n16384]
  models: [w32, w64, w128]
  objectives: [mae]
  schedules: [short, middle, long]
  seeds: [s0]
  features: [all]
  probes: [linear]
  tasks: []
  extra: {{}}  # odd runs
  phases: {{}}
fit: {{bootstrap: 100}}
"""
TRUTH = np.array([0.4, 6.0, 0.35, 8.0, 0.4, 30.0, 0.1, 3.0, 1.5])


@cache
def encoder_params(study: Path, model: str) -> int:
    return parameters(Study.read(study).options("models", model))


def loss(study: Study, name: str, noise: float = 0.004) -> float:
    at = study.runs[name]
    variables = {
        "encoder_params": np.array([float(encoder_params(study.file.absolute(), at.model))]),
        "unique_images": np.array([float(study.options("subsets", at.subset)["images"])]),
        "images_seen": np.array([float(study.options("schedules", at.schedule)["images_seen"])]),
    }
    random = np.random.default_rng(list(name.encode()))
    return float(repetition.Law().predict(TRUTH[None], variables)[0, 0] * np.exp(noise * random.standard_normal()))


def collect(study: Study, names: list[str]) -> None:
    """The table as ``collect`` would write it, had these runs been made."""
    rows = []
    for name in names:
        at = study.runs[name]
        value = loss(study, name) + (0.1 if study.pool_of("subsets", at.subset) == "other" else 0.0)
        for metric in ("val_loss", "seen_loss", "val_loss_minimum"):
            rows.append(
                Row(
                    kind="run",
                    run=name,
                    objective=at.objective,
                    model=at.model,
                    subset=at.subset,
                    schedule=at.schedule,
                    seed=at.seed,
                    unique_images=study.options("subsets", at.subset)["images"],
                    images_seen=study.options("schedules", at.schedule)["images_seen"],
                    encoder_params=encoder_params(study.file.absolute(), at.model),
                    flops=1e12,
                    task="pretrain",
                    metric=metric,
                    value=value,
                    standard_error=None,
                    higher_is_better=False,
                    headline=metric == "val_loss",
                    pool=study.pool_of("subsets", at.subset),
                )
            )
    layout.RESULTS.mkdir(parents=True, exist_ok=True)
    write_results(layout.RESULTS / "results.parquet", rows)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    found = Study.read(Path("params.yaml"))
    collect(found, list(found.runs))
    return found


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception:
        raise done.exception
    return done.stdout


def test_advised_runs_are_added_with_forecasts_and_the_file_keeps_its_words(study: Study) -> None:
    text = run("advise", "--budget", "1e15", "--count", "3", "--write", "--json", "advice.json")
    advice: Any = json.loads(Path("advice.json").read_text())
    names = [one["run"] for one in advice["runs"]]
    assert advice["target"] == "mae-w256-n16384-long-s0"
    assert 1 <= len(names) <= 3
    assert all("-w256-" in name for name in names)  # all that is not made
    assert sum(one["cost"] for one in advice["runs"]) <= 1e15
    assert names[0] in text
    after = Path("params.yaml").read_text()
    assert "# Do more images help?" in after
    assert "# nested" in after
    again = Study.read(Path("params.yaml"))
    assert set(again.runs) == set(study.runs) | set(names)
    before = yaml.safe_load(PARAMS)
    now = yaml.safe_load(after)
    assert now["study"].pop("extra").keys() == set(names)
    before["study"].pop("extra")
    assert now == before
    forecasts = read_forecasts(layout.FORECASTS)
    assert [one["run"] for one in forecasts] == names
    collect(again, list(again.runs))
    definitions = {name: again.declared_run(name) for name in names}
    judged = judge(forecasts, runs_of(read_results(layout.RESULTS / "results.parquet")), definitions)
    assert len(judged) == len(names)
    for one in judged:
        assert one["hit"] == (one["low"] <= one["observed"] <= one["high"])
    assert sum(one["hit"] for one in judged) >= len(names) - 1
    # Another definition is another run: nothing is judged.
    assert judge(forecasts, runs_of(read_results(layout.RESULTS / "results.parquet")), {n: {} for n in names}) == []


def test_a_bet_is_not_changed(study: Study) -> None:
    names = list(study.runs)
    collect(study, names[:-2])
    run("forecast")
    first = read_forecasts(layout.FORECASTS)
    assert [one["run"] for one in first] == names[-2:]
    collect(study, names[:-3])
    run("forecast")
    second = read_forecasts(layout.FORECASTS)
    assert second[:2] == first
    assert [one["run"] for one in second[2:]] == names[-3:-2]
    collect(study, names)
    assert "made or forecast" in run("forecast")


def test_what_cannot_be_advised_is_said(study: Study) -> None:
    for arguments, words in (
        (["--budget", "1"], "pay for none"),
        (["--objective", "mea"], "no run of objective 'mea'"),
        (["--target", "w256"], "MODEL-SUBSET-SCHEDULE"),
        (["--target", "w512-n256-long"], "nearest|w256|did you mean|known"),
        (["--law", "repetitoin"], "repetition"),
    ):
        with pytest.raises(Exception, match=words):
            run("advise", *arguments)


@pytest.mark.parametrize("verb", ["advise", "forecast"])
def test_without_a_run_it_is_said_what_to_do(study: Study, verb: str) -> None:
    (layout.RESULTS / "results.parquet").unlink()
    with pytest.raises(UserError, match=r"results.parquet is missing, .* make some with 'dvc repro'"):
        run(verb)


def advice(*arguments: str) -> dict[str, Any]:
    run("advise", *arguments, "--json", "advice.json")
    found: dict[str, Any] = json.loads(Path("advice.json").read_text())
    return found


def test_runs_of_one_length_are_asked_a_law_of_model_and_data(study: Study) -> None:
    collect(study, [name for name in study.runs if "-short-" in name])
    found = advice("--budget", "1e15")
    assert found["law"] == "model_data"
    assert found["target"] == "mae-w256-n16384-short-s0"
    assert all("-short-" in one["run"] for one in found["runs"])
    with pytest.raises(
        UserError, match=r"--target: w256-n16384-long has images_seen 327,680, and all 12 runs .* have 20,480"
    ):
        run("advise", "--target", "w256-n16384-long")
    with pytest.raises(UserError, match=r"forecast: mae-w32-n256-middle-s0 has images_seen 81,920, and all 12 runs"):
        run("forecast")


def test_a_forecast_is_made_of_the_runs_that_the_law_can_be_asked_of(study: Study) -> None:
    made = [name for name in study.runs if "-short-" in name]
    collect(study, made[:-2])
    text = run("forecast")
    assert [one["run"] for one in read_forecasts(layout.FORECASTS)] == made[-2:]
    assert "Of 24 runs the law says nothing" in text


@pytest.fixture
def two_pools(study: Study) -> Study:
    """The largest subset is of another pool, whose losses lie 0.1 higher."""
    text = PARAMS.replace("n16384: {pool: digits", "n16384: {pool: other").replace(
        "pools: [digits]", "pools: [digits, other]"
    )
    other = "  other: {format: digits, images: 100000, image_size: 32, val_images: 1000, seed: 1}\n"
    Path("params.yaml").write_text(text.replace("pools:\n", f"pools:\n{other}", 1))
    return Study.read(Path("params.yaml"))


def test_a_run_of_another_pool_is_forecast_at_its_own_level(two_pools: Study) -> None:
    collect(two_pools, [name for name in two_pools.runs if "w128-n16384-" not in name])
    run("forecast")
    forecasts = {one["run"]: one for one in read_forecasts(layout.FORECASTS)}
    assert set(forecasts) == {f"mae-w128-n16384-{length}-s0" for length in ("short", "middle", "long")}
    for name, one in forecasts.items():
        assert one["value"] == pytest.approx(loss(two_pools, name) + 0.1, abs=0.02)
        assert one["low"] <= loss(two_pools, name) + 0.1 <= one["high"]
    found = advice("--budget", "1e15", "--target", "w256-n16384-long")
    assert "-n16384-" in found["runs"][0]["run"]


def test_of_a_pool_without_a_run_no_law_says_anything(two_pools: Study) -> None:
    collect(two_pools, [name for name in two_pools.runs if "-n16384-" not in name])
    with pytest.raises(
        UserError, match=r"--target: w256-n16384-long is on images of pool 'other', and none of the 27 runs"
    ):
        run("advise", "--budget", "1e15")
    with pytest.raises(UserError, match=r"forecast: mae-w32-n16384-short-s0 is on images of pool 'other'"):
        run("forecast")
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("fit: {bootstrap: 100}", "fit: {bootstrap: 100, pools: alike}"))
    assert "9 forecasts added" in run("forecast")


def test_one_model_of_one_length_leaves_a_law_of_images_alone(study: Study) -> None:
    collect(study, [name for name in study.runs if "-w64-" in name and "-short-" in name])
    with pytest.raises(
        UserError, match=r"--target: w256-n16384-short has encoder_params .*, so that no law says what it does"
    ):
        run("advise", "--budget", "1e15")
    with pytest.raises(
        UserError, match=r"all runs that were made have encoder_params .* and images_seen 20,480, and no candidate has"
    ):
        run("advise", "--budget", "1e15", "--target", "w64-n16384-short")
    with pytest.raises(UserError, match=r"no law can be fitted to these runs:"):
        collect(study, ["mae-w64-n256-short-s0", "mae-w64-n1024-short-s0"])
        run("advise", "--budget", "1e15")


def test_the_law_that_the_fit_chose_is_asked_first(study: Study) -> None:
    entry = {"scope": "objective", "objective": "mae", "chosen": "joint"}
    layout.FIT.mkdir(parents=True)
    (layout.FIT / "fit.json").write_text(json.dumps({"laws": {"pretrain val_loss": [entry]}}))
    assert advice("--budget", "1e15")["law"] == "joint"
    assert advice("--budget", "1e15", "--law", "repetition")["law"] == "repetition"


def test_a_budget_in_hours_of_a_gpu(study: Study) -> None:
    flops = advice("--budget", "1e15")
    # 67e12 float32 operations a second at half of the peak: so many hours are the same budget.
    hours = advice("--gpu-hours", str(1e15 / (67e12 * 0.5) / 3600), "--gpu", "h100", "--utilisation", "0.5")
    assert hours["unit"] == "H100 hours"
    assert [one["run"] for one in hours["runs"]] == [one["run"] for one in flops["runs"]]
    for a, b in zip(hours["runs"], flops["runs"], strict=True):
        assert a["cost"] * 3600 * 67e12 * 0.5 == pytest.approx(b["cost"])
    for wrong in (["--gpu", "h100"], ["--gpu-hours", "3"], ["--gpu", "h100", "--gpu-hours", "3", "--budget", "1"]):
        with pytest.raises(UserError, match=r"a budget is --budget FLOPS, or --gpu-hours HOURS of a --gpu NAME"):
            run("advise", *wrong)
    with pytest.raises(UserError, match=r"--gpu-hours: 0 H100 hours pay for none of 12 candidates"):
        run("advise", "--gpu", "h100", "--gpu-hours", "0")
    with pytest.raises(UserError, match=r"no 'h1000'; did you mean 'h100'"):
        run("advise", "--gpu", "h1000", "--gpu-hours", "3")


CANDIDATES = """name,params_m,images,seen
mae-w256-n4096-long-s0,1.2,4096,327680
mae-w256-n16384-short-s0,1.2,16384,20480
mae-w32-n256-short-s0,0.1,256,20480
something else,5,16384,327680
"""
CANDIDATES_MAP = """
metric: {column: none}
labels: [name]
variables:
  encoder_params: {column: params_m, scale: 1.0e+6}
  unique_images: {column: images}
  images_seen: {column: seen}
"""


def test_candidates_from_a_table(study: Study) -> None:
    Path("runs.csv").write_text(CANDIDATES)
    Path("map.yaml").write_text(CANDIDATES_MAP)
    table = ["--candidates", "runs.csv", "--map", "map.yaml"]
    found = advice(*table, "--budget", "1e20")
    names = {one["run"] for one in found["runs"]}
    assert names <= {"mae-w256-n4096-long-s0", "mae-w256-n16384-short-s0", "something else"}, "the third is made"
    assert "something else" in names
    with pytest.raises(UserError, match=r"--write: 'something else' is no run that params.yaml has definitions for"):
        run("advise", *table, "--budget", "1e20", "--write")
    assert yaml.safe_load(Path("params.yaml").read_text())["study"]["extra"] == {}
    Path("runs.csv").write_text(CANDIDATES.replace("something else", "mae-w256-n1024-long-s0"))
    run("advise", *table, "--budget", "1e20", "--write")
    extra = Study.read(Path("params.yaml")).grid.extra
    assert set(extra) == {one["run"] for one in read_forecasts(layout.FORECASTS)}
    assert "mae-w256-n4096-long-s0" in extra


def test_candidates_of_a_table_have_the_level_of_their_pool(two_pools: Study) -> None:
    collect(two_pools, [name for name in two_pools.runs if "w128-n16384-" not in name])
    lines = [
        "mae-w256-n16384-long-s0,1.2,16384,327680,other",
        "mae-w256-n16384-short-s0,1.2,16384,20480,other",
    ]
    Path("runs.csv").write_text("\n".join(["name,params_m,images,seen,of", *lines, ""]))
    Path("map.yaml").write_text(f"{CANDIDATES_MAP}pool: {{column: of}}\n")
    table = ["--candidates", "runs.csv", "--map", "map.yaml", "--budget", "1e20", "--write"]
    run("advise", *table)
    forecasts = {one["run"]: one for one in read_forecasts(layout.FORECASTS)}
    again = Study.read(Path("params.yaml"))
    for name, one in forecasts.items():
        assert one["value"] == pytest.approx(loss(again, name) + 0.1, abs=0.03)
    assert forecasts
    # All of the first pool, so that the column names no other.
    Path("runs.csv").write_text("name,params_m,images,seen,of\nmae-w256-n4096-long-s0,1.2,4096,327680,digits\n")
    assert advice(*table[:-1])["runs"][0]["run"] == "mae-w256-n4096-long-s0"
    Path("map.yaml").write_text(CANDIDATES_MAP)
    with pytest.raises(UserError, match=r"runs.csv: the runs that were made are of several pools; say by 'pool'"):
        run("advise", *table)


def test_an_imported_pool_that_the_study_does_not_have_is_pointed_out(study: Study) -> None:
    Path("theirs.csv").write_text("model,subset,params,images,seen,loss,of\nw99,k9,9e6,1000,20480,0.5,digit\n")
    Path("map.yaml").write_text(
        "coordinates: {objective: {value: mae}, model: {column: model}, subset: {column: subset}, schedule: {value: short}, "
        "seed: {value: s0}}\npool: {column: of}\nvariables: {encoder_params: {column: params}, unique_images: {column: images}, "
        "images_seen: {column: seen}}\nmetrics: {pretrain: {val_loss: {column: loss}}}\n"
    )
    said = run("import-runs", "theirs.csv", "--map", "map.yaml").splitlines()
    assert said[0].startswith("imported.json: 1 runs of theirs.csv")
    assert said[1:] == [
        "Pool 'digit' is none of params.yaml; did you mean 'digits'? Its runs have a level of their own."
    ]
    Path("theirs.csv").write_text(Path("theirs.csv").read_text().replace(",digit\n", ",digits\n"))
    assert len(run("import-runs", "theirs.csv", "--map", "map.yaml").splitlines()) == 1


def test_a_claim_of_a_pool_that_the_study_does_not_have_is_pointed_out(two_pools: Study) -> None:
    claim = "{kind: improves_with_data, words: More., at: {pool: digit}}"
    text = Path("params.yaml").read_text().replace("fit: {bootstrap: 100}", f"fit: {{claims: {{more: {claim}}}}}")
    Path("params.yaml").write_text(text)
    with pytest.raises(UserError, match=r"fit.claims.more.at.pool: 'digit' is not in the study; did you mean 'digits'"):
        Study.read(Path("params.yaml")).check()
    Path("params.yaml").write_text(text.replace("pool: digit}}", "pool: digits}}"))
    Study.read(Path("params.yaml")).check()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("params_m,", "params,"), "runs.csv has no column 'params_m', which the mapping names; did you mean 'params'"),
        (("1.2,4096,", ",4096,"), "encoder_params of 'mae-w256-n4096-long-s0' is missing"),
        (("5,16384", "-5,16384"), "encoder_params of 'something else' is -5e.06; it must be a positive, finite number"),
        (("something else", "mae-w32-n256-short-s0"), "2 rows are called 'mae-w32-n256-short-s0'"),
    ],
)
def test_a_wrong_table_of_candidates_is_refused(study: Study, change: tuple[str, str], sentence: str) -> None:
    assert change[0] in CANDIDATES
    Path("runs.csv").write_text(CANDIDATES.replace(*change))
    Path("map.yaml").write_text(CANDIDATES_MAP)
    with pytest.raises(UserError, match=sentence):
        run("advise", "--candidates", "runs.csv", "--map", "map.yaml")
