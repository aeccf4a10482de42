"""Checkouts of a small DVC pipeline, and a Prefect server for all tests of a session."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scratch_checkout import DIAMOND, PARAMS, STARTED, STUDY_PIPELINE, WORK, Scratch, write_stages

import flows  # noqa: F401 - its settings come before Prefect


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:  # of libraries below DVC and Prefect, which no user sees
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"))


@pytest.fixture(autouse=True)
def _end_what_was_started() -> Iterator[None]:
    yield
    while STARTED:
        with STARTED.pop() as process:
            process.kill()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scratch]:
    """Make a checkout of the stages: what each needs, by name."""
    monkeypatch.setenv("MIMCORE_SLOTS", str(tmp_path / "slots"))
    monkeypatch.setenv("RAN", str(tmp_path / "ran.log"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name, value in (("AUTHOR", "A"), ("COMMITTER", "C")):
        monkeypatch.setenv(f"GIT_{name}_NAME", value)
        monkeypatch.setenv(f"GIT_{name}_EMAIL", f"{value}@example.org")

    def make(stages: dict[str, list[str]] | None = None, meta: str = "") -> Scratch:
        root = tmp_path / "checkout"
        (root / ".dvc").mkdir(parents=True)
        (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
        (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
        (root / ".dvcignore").write_text("/.mimcore\n")
        (root / ".gitignore").write_text("/.mimcore/\n/out/\n")
        (root / "work.py").write_text(WORK)
        write_stages(root, DIAMOND if stages is None else stages, meta)
        made = Scratch(root)
        made.git("init", "--quiet")
        made.git("add", "--all")
        made.git("commit", "--quiet", "--message", "A checkout")
        return made

    return make


@pytest.fixture
def small_study(scratch: Callable[..., Scratch]) -> Scratch:
    """A checkout with a valid study of two models, a stage for each."""
    made = scratch()
    (made.root / "dvc.yaml").write_text(STUDY_PIPELINE)
    (made.root / "params.yaml").write_text(PARAMS)
    (made.root / "listings").mkdir()
    (made.root / "listings" / "digits.json").write_text('{"pool": "digits", "shards": []}\n')
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "A study")
    return made


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """Address of a Prefect server for the session; flow runs in this process and in others report there."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        address = str(PREFECT_API_URL.value())
        before = os.environ.get("PREFECT_API_URL")
        os.environ["PREFECT_API_URL"] = address
        yield address
        os.environ.pop("PREFECT_API_URL")
        if before is not None:
            os.environ["PREFECT_API_URL"] = before
