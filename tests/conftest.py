"""Every test starts from the same seed and cannot reach the network."""

import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from mimcore.startup import prepare

prepare()  # before torch is imported

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Machines that run much at once are slow at times.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

#: These take minutes each: begun first, none of them is what processes wait for at the end.
LONG = ("test_browser.py", "test_small_study.py", "test_cache.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    np.random.seed(0)  # noqa: NPY002 - libraries that draw from the global generator
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def only_local(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "localhost", "::1")):  # type: ignore[index]
            raise RuntimeError(f"a test tried to reach {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", only_local)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images; continuous integration has them."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder of real images '../shared', which is not here")
    return SHARED
