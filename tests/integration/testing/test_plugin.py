"""The pytest plugin in a project of a user's: the wheel is installed, pytest finds it, and that is all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from millpond.testing.plugin import _NAME_CHARACTERS_MAX
from millpond.wire.names import check_topic_name

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]

INI = """
[pytest]
filterwarnings = error
addopts = -p no:cacheprovider --import-mode=importlib
asyncio_mode = auto
asyncio_default_fixture_loop_scope = session
asyncio_default_test_loop_scope = session
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PYTHONPATH with the wheel of this checkout installed into it."""
    made, where = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(made), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=100)
    (wheel,) = made.glob("*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(where), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=100)
    return where


@pytest.fixture
def project(pytester: pytest.Pytester, installed: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's project, empty but for strict settings."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    for name in set(os.environ) & {"PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"}:
        monkeypatch.delenv(name)
    pytester.makeini(INI)
    return pytester


def test_a_users_tests_get_a_cluster_and_fresh_topics_in_both_colours(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_one="""
        import millpond
        from millpond.errors import UnknownTopic
        from millpond.testing import LocalCluster
        import pytest

        async def test_with_an_event_loop(millpond_cluster, millpond_topic):
            async with millpond_cluster.client() as client:
                await client.admin.create_topic(millpond_topic, partitions=2)
            assert millpond_cluster.leader(millpond_topic, 1) == 0

        def test_without(millpond_cluster: LocalCluster, millpond_topic: str) -> None:
            assert isinstance(millpond_cluster, LocalCluster)
            with pytest.raises(UnknownTopic):
                millpond_cluster.leader(millpond_topic)
            assert "site" in millpond.__file__, "it is the wheel that is tested here"
        """,
        test_two="""
        seen = set()

        def test_it_is_one_cluster_a_session(millpond_cluster):
            millpond_cluster.wait_ready()

        def test_names_differ(millpond_topic):
            seen.add(millpond_topic)

        def test_names_differ_again(millpond_topic):
            assert seen and millpond_topic not in seen
        """,
    )
    result = project.runpytest_subprocess(timeout=100)
    result.assert_outcomes(passed=5)


def test_a_project_that_does_not_use_it_loads_nothing_of_it(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys

        def test_modules():
            ours = {name for name in sys.modules if name.startswith("millpond")}
            assert ours == {
                "millpond", "millpond.testing", "millpond.testing.plugin",
                "millpond.wire", "millpond.wire.record",
            }
            assert not {"grpc", "google.protobuf", "crc32c", "http.client"} & set(sys.modules)
        """
    )
    result = project.runpytest_subprocess("-p", "no:asyncio", "-o", "filterwarnings=", timeout=100)
    result.assert_outcomes(passed=1)


def test_a_project_configures_the_cluster_by_a_fixture_of_the_same_name(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pytest
        from millpond.testing import LocalCluster

        @pytest.fixture(scope="session")
        def millpond_cluster():
            with LocalCluster(config={"broker.rack": "mine"}) as cluster:
                yield cluster
        """
    )
    project.makepyfile(
        """
        async def test_rack(millpond_cluster):
            async with millpond_cluster.client() as client:
                (broker,) = await client.admin.brokers()
                assert broker.rack == "mine"
        """
    )
    project.runpytest_subprocess(timeout=100).assert_outcomes(passed=1)


def test_the_fixtures_are_listed_with_their_descriptions(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--fixtures", timeout=100)
    result.stdout.fnmatch_lines(["millpond_cluster *session scope*", "millpond_topic*"])


def test_names_are_valid_whatever_the_test_is_called(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("odd", ["", "ü/ö", "a" * 500, "_", "..", "x y\\n"])
        def test_odd(odd, millpond_topic, record_property):
            print("NAME", millpond_topic)
        """
    )
    result = project.runpytest_subprocess("-s", timeout=100)
    result.assert_outcomes(passed=6)
    names = [line.partition("NAME ")[2] for line in result.outlines if "NAME " in line]
    assert len(set(names)) == 6
    for name in names:
        check_topic_name(name)
        assert name.startswith("test_odd-")
        assert len(name) < _NAME_CHARACTERS_MAX + 20
