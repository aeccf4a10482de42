"""A scratch repository with the true pipeline and fake work, made once and shared."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scaling"))  # the builder of synthetic artifacts

from scratch_pipeline import Pipeline, build


@pytest.fixture(scope="session")
def quiet_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """DVC and git without this machine's settings, and Python that writes bytecode, as a user's does."""
    home = tmp_path_factory.mktemp("tools")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
            (home / name).mkdir()
            patch.setenv(name, str(home / name))
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        (home / "gitconfig").write_text("[user]\nname = Test\nemail = test@example.org\n[init]\ndefaultBranch = main\n")
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
        yield patch


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, quiet_tools: pytest.MonkeyPatch) -> Pipeline:
    """The pipeline after its first repro."""
    pipeline = build(tmp_path_factory.mktemp("pipeline") / "main")
    pipeline.repro()
    subprocess.run(["git", "add", "--all"], cwd=pipeline.root, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "A study"], cwd=pipeline.root, check=True)
    return pipeline


@pytest.fixture
def pipeline(built: Pipeline) -> Iterator[Pipeline]:
    """The built pipeline; whatever a test changes in it is put back, artifacts as well."""
    kept = built.sources()
    yield built
    if built.sources() != kept:
        built.put_back(kept)
