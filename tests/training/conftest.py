from collections.abc import Iterator
from pathlib import Path

import pytest
import small_run
import torch
from small_run import Trained


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with a pool and a subset."""
    root = tmp_path_factory.mktemp("study")
    small_run.make_subset(root)
    return root


@pytest.fixture(scope="session")
def undisturbed(root: Path) -> Trained:
    """A run made in one go."""
    return small_run.train(root, "undisturbed")
