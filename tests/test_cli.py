"""The command line: what it offers, and what it says to a mistake."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from test_study import SMALL
from typer.testing import CliRunner

from mimcore import cli
from mimcore.cli import app, main
from mimcore.errors import Preempted

ROOT = Path(__file__).resolve().parents[1]

#: The public surface: changing it is a matter for CHANGELOG.md.
VERBS = {
    "use": ["study", "--force"],
    "scan": ["pools", "--adopt", "--params"],
    "check": ["--params", "--out"],
    "index": ["pool", "--params"],
    "sample": ["subset", "seed", "--params"],
    "export": ["subset", "seed", "--out", "--params"],
    "features": ["pool", "--run", "--timm", "--checkpoint", "--pooling", "--batch-size", "--out", "--params"],
    "health": ["files"],
    "examples": ["name", "--params"],
    "prepare": ["name", "--params"],
    "modules": ["--params"],
    "pretrain": ["run", "--params"],
    "sweep-rate": ["run", "--factor", "--params"],
    "best-rate": ["run", "--confidence", "--json", "--params"],
    "evaluate": ["run", "task", "--params"],
    "floor": ["model", "task", "--params"],
    "extract": ["run", "features", "--params"],
    "extract-floor": ["model", "features", "--params"],
    "probe": ["run", "task", "--params"],
    "probe-floor": ["model", "task", "--params"],
    "collect": ["--params"],
    "fit": [
        "table",
        "--map",
        "--metric",
        "--column",
        "--rows",
        "--ceiling",
        "--law",
        "--holdout",
        "--out",
        "--report",
        "--gain",
        "--bootstrap",
        "--confidence",
        "--seed",
        "--params",
    ],
    "report": [],
    "results": [],
    "explain": ["stage"],
    "plan": ["--gpu", "--utilisation", "--gpus", "--price", "--probe", "--all", "--json", "--params"],
    "import-runs": ["table", "--map", "--params"],
    "advise": [
        "--budget",
        "--gpu-hours",
        "--gpu",
        "--utilisation",
        "--count",
        "--candidates",
        "--map",
        "--target",
        "--objective",
        "--law",
        "--write",
        "--json",
        "--params",
    ],
    "forecast": ["--law", "--params"],
    "look": ["subset", "seed", "--params"],
    "bench-data": ["what", "--run", "--seconds", "--json", "--params"],
    "profile": ["run", "--steps", "--out", "--params"],
    "import": [
        "checkpoint",
        "--out",
        "--model",
        "--architecture",
        "--image-size",
        "--objective",
        "--params",
    ],
    "publish": ["run", "--out", "--license", "--data"],
}


def test_the_public_surface_is_as_announced() -> None:
    group: Any = typer.main.get_command(app)
    found = {
        name: [parameter.opts[0] for parameter in command.params if parameter.name != "help"]
        for name, command in group.commands.items()
    }
    assert found == VERBS


def test_help_names_every_verb_with_a_sentence() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    for verb in VERBS:
        (line,) = [line for line in text.splitlines() if line.strip("│ ").split()[:1] == [verb]]
        assert len(line.strip("│ ").split()) > 4, line


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_is_a_sentence(verb: str) -> None:
    done = CliRunner().invoke(app, [verb, "--help"])
    assert done.exit_code == 0
    usage, sentence = [line.strip() for line in done.stdout.splitlines() if line.strip()][:2]
    assert usage.startswith("Usage: ")
    assert sentence[0].isupper()
    assert "Args:" not in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_help_of_every_verb_loads_no_torch() -> None:
    code = (
        "import sys\nfrom mimcore.cli import app\n"
        f"for verb in {list(VERBS)}:\n"
        "    try:\n        app([verb, '--help'])\n    except SystemExit as end:\n        assert end.code == 0\n"
        "print(sorted({'torch', 'timm', 'polars', 'sklearn', 'dvc', 'prefect'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the small study in force."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and stderr of the program."""
    monkeypatch.setattr(sys, "argv", ["mimcore", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    status = end.value.code
    assert isinstance(status, int)
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pretrain", "mae-tiny-n16-short-s7"], "the study has no run 'mae-tiny-n16-short-s7'; did you mean"),
        (["evaluate", "mae-tiny-n16-short-s0", "liner"], "tasks has no 'liner'; did you mean 'linear'?"),
        (
            ["evaluate", "mae-tiny-n16-short-s0", "linear"],
            "'linear' is a probe on frozen features: mimcore probe RUN linear",
        ),
        (["probe", "mae-tiny-n16-short-s0", "liner"], "tasks has no 'liner'; did you mean 'linear'?"),
        (["probe-floor", "huge", "linear"], "models has no 'huge'; known: tiny."),
        (["extract", "mae-tiny-n16-short-s0", "al"], "features has no 'al'; did you mean 'all'?"),
        (["extract-floor", "huge", "all"], "models has no 'huge'; known: tiny."),
        (["sample", "n17", "s0"], "subsets has no 'n17'; did you mean 'n16'?"),
        (["index", "digit"], "pools has no 'digit'; did you mean 'digits'?"),
        (["index", "digits"], "listings/digits.json"),
        (["sample", "n16", "s0"], "artifacts/index/digits"),
        (["examples", "all"], "artifacts/index/digits"),
        (["examples", "linear"], "'linear' is a probe, which has the images of its features"),
        (["examples", "al"], "tasks and features have no 'al'; did you mean 'all'?"),
        (["scan", "digit"], "pools has no 'digit'; did you mean 'digits'?"),
        (["collect"], "is missing"),
        (["fit"], "artifacts/results/results.parquet"),
        (["report"], "artifacts/results"),
        (["results"], "artifacts/results"),
        (["check", "--params", "other.yaml"], "other.yaml is missing"),
        (["use", "studies/none.yaml"], "studies/none.yaml is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_ends_in_a_sentence(
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    status, said = say(monkeypatch, capsys, *arguments)
    assert status == 2
    assert said.startswith("mimcore: ")
    assert sentence in said
    assert len(said.splitlines()) == 1, said
    assert sorted(path.name for path in study.iterdir()) == ["params.yaml"], "nothing half-done is left"


def test_no_traceback_reaches_a_user(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mimcore", "index", "digits"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "mimcore: params.yaml is missing; put a study in force with 'mimcore use studies/quick.yaml'.\n"
    )


def test_mistakes_of_a_study_are_told_at_once(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = json.loads(json.dumps(SMALL))
    wrong["models"]["tiny"]["patchsize"] = 8
    wrong["schedules"]["short"]["batch_size"] = "many"
    (study / "params.yaml").write_text(yaml.safe_dump(wrong))
    status, said = say(monkeypatch, capsys, "check")
    assert status == 2
    first, *rest = said.splitlines()
    assert first == "mimcore: params.yaml has 2 mistakes:"
    assert rest[0].startswith("  models.tiny.patchsize: unknown option; did you mean 'patch_size'")
    assert rest[1].startswith("  schedules.short.batch_size: ")


def test_an_unknown_verb_or_option_is_named(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, word in ((["pretain"], "pretain"), (["check", "--parms", "x"], "--parms")):
        status, said = say(monkeypatch, capsys, *arguments)
        assert status == 2
        assert word in said


def test_an_interrupt_is_no_traceback(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mimcore.study.Study.read", interrupted)
    status, said = say(monkeypatch, capsys, "check")
    assert status == 130
    assert "Traceback" not in said


class TestUse:
    def ready(self, root: Path, title: str = "Another") -> Path:
        other = json.loads(json.dumps(SMALL))
        other["study"]["title"] = title
        file = root / "studies/other.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(other))
        return file

    def test_edits_are_not_overwritten(
        self, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.ready(study)
        before = (study / "params.yaml").read_bytes()
        status, said = say(monkeypatch, capsys, "use", "studies/other.yaml")
        assert status == 2
        assert "--force" in said
        assert (study / "params.yaml").read_bytes() == before
        assert CliRunner().invoke(app, ["use", "studies/other.yaml", "--force"]).exit_code == 0
        assert (study / "params.yaml").read_bytes() == (study / "studies/other.yaml").read_bytes()

    def test_a_study_that_is_kept_gives_way(self, study: Path) -> None:
        chosen = self.ready(study)
        (study / "studies/small.yaml").write_bytes((study / "params.yaml").read_bytes())
        done = CliRunner().invoke(app, ["use", str(chosen)])
        assert done.exit_code == 0
        assert done.stdout == "params.yaml is now 'Another': 4 runs, measured by linear. Next: dvc repro\n"

    def test_a_wrong_study_is_not_put_in_force(self, study: Path) -> None:
        chosen = self.ready(study)
        chosen.write_text(chosen.read_text().replace("patch_size", "patchsize"))
        before = (study / "params.yaml").read_bytes()
        assert CliRunner().invoke(app, ["use", str(chosen), "--force"]).exit_code == 1
        assert (study / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("started_by_dvc", [True, False])
def test_every_verb_ends_with_the_dvc_that_started_it(started_by_dvc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[bool] = []
    monkeypatch.setattr(cli, "die_with_parent", lambda: bound.append(True))
    monkeypatch.setattr(sys, "argv", ["mimcore", "--help"])
    monkeypatch.delenv("DVC_STAGE", raising=False)
    if started_by_dvc:
        monkeypatch.setenv("DVC_STAGE", "evaluate@run-linear")
    with pytest.raises(SystemExit):
        cli.main()
    assert bool(bound) == started_by_dvc


def test_a_run_that_was_asked_to_end_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask() -> None:
        raise Preempted("asked to end after 32 of 64 images.")

    monkeypatch.setattr(cli, "app", ask)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 75
    assert capsys.readouterr().err == "mimcore: asked to end after 32 of 64 images.\n"
