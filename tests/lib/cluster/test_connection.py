"""Clusters that cannot be joined say what to do; others are joined in tests/scripts/archive and tests/infers/jobs."""

import sys

import pytest

from lib.cluster.connection import ClusterError, cluster


def test_without_ray_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install -r requirements-scale\.txt"), cluster():
        pass


@pytest.mark.needs("ray")
@pytest.mark.parametrize("address", ["head", "ray://head", "head:client", ":6379", ""])
def test_an_address_that_is_none_is_refused_with_the_two_forms(address):
    with pytest.raises(ClusterError, match="HOST:PORT or ray://HOST:PORT, got"), cluster(address):
        pass
