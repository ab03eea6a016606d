"""What all tests share: the option ``--long``, a cache folder of their own, where real data is."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("nabi", deadline=None)  # a time limit for an example says more about the machine than of nabi
settings.load_profile("nabi")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long tests too, and 100 times as many fuzz examples")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes minutes, runs only with --long")
    if config.getoption("--long"):
        os.environ.setdefault("NABI_FUZZ", "100")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long: runs with --long"))


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the cache of the person who runs it; processes that test side by side share one."""
    ours = tmp_path_factory.getbasetemp()
    cache = (ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours) / "cache"
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NABI_CACHE", str(cache))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The first folder that ``NABI_DATA`` names; the test is skipped where there is none."""
    named = os.environ.get("NABI_DATA", "").split(os.pathsep)[0]
    if not named or not Path(named).is_dir():
        pytest.skip("real data: NABI_DATA names no folder")
    return Path(named)


@pytest.fixture(autouse=True)
def _programs_of_each_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test changes about how programs are made holds for all that it runs: none is kept for the next plan."""
    monkeypatch.setattr("nabi.engines.cpu.programs.KEPT", 0)
    monkeypatch.setattr("nabi.engines.cpu.programs._places", {})
