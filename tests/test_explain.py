"""``mimcore explain`` on a small pipeline: DVC decides, the words are ours."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mimcore.artifacts import write_json
from mimcore.errors import UserError
from mimcore.explain import explain as explain_code
from mimcore.status import status

PIPELINE = """
stages:
  modules:
    cmd: mkdir -p artifacts/modules/stages; cp said.json artifacts/modules/stages/fit.json
    deps: [said.json]
    outs: [artifacts/modules]
  fit:
    cmd: cp all.txt fit.txt
    deps: [all.txt, artifacts/modules/stages/fit.json]
    outs: [fit.txt]
  report:
    cmd: cp fit.txt report.txt
    deps: [fit.txt]
    outs: [report.txt]
  pretrain:
    matrix:
      model: [tiny, small]
    cmd: cp mimcore/work.py ${item.model}.txt
    params: ["models.${item.model}"]
    deps: [mimcore/work.py]
    outs: ["${item.model}.txt"]
  collect:
    cmd: cat tiny.txt small.txt > all.txt
    deps: [tiny.txt, small.txt]
    outs: [all.txt]
"""
#: Digests of the code of ``fit``, before an edit and after it.
BEFORE = {"mimcore/fit.py": "1", "mimcore/law.py": "2", "mimcore/solve.py": "3"}
AFTER = {"mimcore/fit.py": "one", "mimcore/power.py": "2", "mimcore/solve.py": "3"}
EDITED = "fit is stale:\n  - code mimcore/fit.py has changed.\n  - code mimcore/power.py is new.\n  - code mimcore/law.py is gone."


def explain(stage: str, said: dict[str, str] = BEFORE) -> str:
    return explain_code(stage, {"stages/fit.json": said})


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments, "--quiet"], check=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that is up to date."""
    root = tmp_path_factory.mktemp("explain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root / ".site"))
        patch.chdir(root)
        (root / "dvc.yaml").write_text(PIPELINE)
        (root / "mimcore").mkdir()
        (root / "mimcore/work.py").write_text("first")
        write_json(root / "said.json", BEFORE)
        (root / "params.yaml").write_text("models:\n  tiny: {depth: 2, width: 8}\n  small: {depth: 4}\n")
        dvc("init", "--no-scm")
        dvc("repro")
    return root


@pytest.fixture
def checkout(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, put back to what it was."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(made / ".site"))
    monkeypatch.chdir(made)
    (made / "mimcore/work.py").write_text("first")
    (made / "params.yaml").write_text("models:\n  tiny: {depth: 2, width: 8}\n  small: {depth: 4}\n")
    (made / "tiny.txt").write_text("first")
    write_json(made / "said.json", BEFORE)
    dvc("repro", "modules")
    return made


def test_up_to_date(checkout: Path) -> None:
    assert explain("collect") == "collect itself is up to date."


def test_a_parameter(checkout: Path) -> None:
    (checkout / "params.yaml").write_text("models:\n  tiny: {depth: 3, width: 8}\n  small: {depth: 4}\n")
    assert explain("pretrain@tiny") == "pretrain@tiny is stale:\n  - parameter models.tiny has changed in params.yaml."
    assert explain("pretrain@small") == "pretrain@small itself is up to date."


def test_code(checkout: Path) -> None:
    (checkout / "mimcore/work.py").write_text("second")
    assert explain("pretrain@tiny") == "pretrain@tiny is stale:\n  - code mimcore/work.py has changed."


def test_code_that_is_read_by_a_stage(checkout: Path) -> None:
    assert explain("fit") == "fit itself is up to date."
    write_json(checkout / "said.json", AFTER)
    assert explain("fit", AFTER) == EDITED
    assert set(status({"stages/fit.json": AFTER})) == {"modules", "fit"}
    above = "report itself is up to date.\nIt comes after stale stages and runs again if they give another result: fit."
    assert explain("report", AFTER) == above
    dvc("repro", "modules")
    assert explain("fit", AFTER) == EDITED
    assert set(status({"stages/fit.json": AFTER})) == {"fit"}


def test_code_that_is_as_it_was_before_an_edit_that_was_read(checkout: Path) -> None:
    write_json(checkout / "said.json", AFTER)
    dvc("repro", "modules")
    write_json(checkout / "said.json", BEFORE)
    assert set(status({"stages/fit.json": BEFORE})) == {"modules"}
    assert explain("fit") == explain("report").replace("report", "fit") == "fit itself is up to date."


def test_code_whose_older_state_is_nowhere(checkout: Path) -> None:
    shutil.copytree(".dvc/cache", "kept")
    write_json(checkout / "said.json", AFTER)
    dvc("repro", "modules")
    dvc("gc", "--workspace", "--force")
    try:
        assert explain("fit", AFTER) == "fit is stale:\n  - its code has changed."
    finally:
        shutil.copytree("kept", ".dvc/cache", dirs_exist_ok=True)


def test_a_stage_that_was_never_made(checkout: Path) -> None:
    lock = (checkout / "dvc.lock").read_text()
    (checkout / "dvc.lock").unlink()
    try:
        told = explain("fit", AFTER)
        assert "fit is stale:" in told
        assert "  - its code has changed." in told
    finally:
        (checkout / "dvc.lock").write_text(lock)


def test_a_missing_output(checkout: Path) -> None:
    (checkout / "tiny.txt").unlink()
    assert explain("pretrain@tiny") == "pretrain@tiny is stale:\n  - output tiny.txt is missing."


def test_an_edited_output_and_an_input(checkout: Path) -> None:
    (checkout / "tiny.txt").write_text("edited by hand")
    assert explain("pretrain@tiny") == "pretrain@tiny is stale:\n  - output tiny.txt has changed."
    assert explain("collect").splitlines()[:2] == ["collect is stale:", "  - input tiny.txt has changed."]


def test_a_stale_stage_above(checkout: Path) -> None:
    (checkout / "mimcore/work.py").write_text("second")
    assert explain("collect") == (
        "collect itself is up to date.\n"
        "It comes after stale stages and runs again if they give another result: pretrain@small, pretrain@tiny."
    )


def test_an_unknown_stage(checkout: Path) -> None:
    with pytest.raises(UserError, match=r"^dvc.yaml has no stage 'colect'; did you mean 'collect'\?$"):
        explain("colect")


def test_a_folder_without_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^dvc stage list --name-only failed: you are not inside of a DVC repository"):
        explain("collect")
