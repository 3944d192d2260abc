import pytest
import torch

import lib.finetuning.versions
from lib.finetuning.versions import CANDIDATE, PUBLISHED, UPLOADED, VersionError, Versions
from lib.networks import OnePrompt
from lib.networks.checkpoints import CheckpointError, load_network, save_network, weights_hash
from tests.samples import TINY


def network(seed):
    torch.manual_seed(seed)
    return OnePrompt(TINY)


@pytest.fixture
def versions(tmp_path):
    return Versions(tmp_path / "versions", tmp_path / "published.safetensors", most=3)


def test_a_published_version_is_the_served_file_and_has_its_record(versions):
    name = versions.add(network(1), {"state": PUBLISHED, "parent": "p"})
    versions.publish(name)
    assert weights_hash(load_network(versions.published)) == name
    [record] = versions.all()
    assert (record["hash"], record["parent"], record["state"]) == (name, "p", PUBLISHED)
    assert record["bytes"] == versions.path(name).stat().st_size
    assert record["created"] > 0


def test_a_candidate_that_learnt_nothing_does_not_take_its_parents_record(versions):
    name = versions.add(network(1), {"state": PUBLISHED})
    assert versions.add(network(1), {"state": CANDIDATE}) == name
    assert [record["state"] for record in versions.all()] == [PUBLISHED]


def test_the_oldest_versions_go_and_the_served_one_stays(versions):
    served = versions.add(network(0), {"state": PUBLISHED, "created": 0})
    versions.publish(served)
    names = [versions.add(network(seed), {"state": PUBLISHED, "created": seed}) for seed in range(1, 5)]
    assert [record["hash"] for record in versions.all()] == [names[3], names[2], served]


def test_candidates_go_before_versions_that_were_published(versions):
    first = versions.add(network(1), {"state": PUBLISHED, "created": 1})
    candidate = versions.add(network(2), {"state": CANDIDATE, "created": 2})
    names = [versions.add(network(seed), {"state": PUBLISHED, "created": seed}) for seed in (3, 4)]
    assert {record["hash"] for record in versions.all()} == {first, *names}
    with pytest.raises(VersionError, match=candidate):
        versions.path(candidate)


def test_what_was_added_last_is_the_newest_also_where_the_clock_was_set_back(versions, monkeypatch):
    monkeypatch.setattr(lib.finetuning.versions.time, "time", lambda: 2e9)
    first = versions.add(network(1), {"state": PUBLISHED})
    monkeypatch.setattr(lib.finetuning.versions.time, "time", lambda: 1e9)
    second = versions.add(network(2), {"state": PUBLISHED})
    assert [record["hash"] for record in versions.all()] == [second, first]


def test_versions_stay_within_the_disk_budget(tmp_path):
    small = Versions(tmp_path / "versions", tmp_path / "published.safetensors", most=100)
    size = small.path(small.add(network(0), {})).stat().st_size
    tight = Versions(tmp_path / "versions", tmp_path / "published.safetensors", most=100, room=int(2.5 * size))
    for seed in range(1, 5):
        tight.add(network(seed), {"created": 1e12 + seed})
    assert len(tight.all()) == 2


@pytest.mark.parametrize("name", ["000000000000", "../../etc/passwd", "", "base"])
def test_a_version_that_is_none_is_refused_with_those_there_are(versions, name):
    there = versions.add(network(1), {})
    with pytest.raises(VersionError, match=there):
        versions.publish(name)
    assert not versions.published.exists()


def test_a_damaged_version_is_not_published(versions):
    name = versions.add(network(1), {})
    save_network(versions.path(name), network(2), {})
    with pytest.raises(CheckpointError, match="was changed"):
        versions.publish(name)
    versions.path(name).write_bytes(b"torn")
    with pytest.raises(CheckpointError):
        versions.publish(name)
    assert not versions.published.exists()
    assert versions.all() == []


def test_withdrawn_weights_can_be_gone_back_to(versions):
    save_network(versions.published, network(1), {"base": "b"})  # published before there were versions
    name = weights_hash(network(1))
    versions.withdraw()
    assert not versions.published.exists()
    versions.publish(name)
    assert weights_hash(load_network(versions.published)) == name


def line(versions, *learnt, **first):
    """Versions that descend from each other, each with the studies that it learnt from."""
    names, parent = [], "b"
    for seed, studies in enumerate(learnt):
        record = {"state": PUBLISHED, "parent": parent, "base": "b", "studies": dict.fromkeys(studies, "c")}
        parent = versions.add(network(seed), {**record, "learnt": list(studies), **(first if not names else {})})
        names.append(parent)
    return names


def test_the_newest_weights_that_some_studies_are_new_to_are_found(versions):
    first, second, third = line(versions, "a", "ab", "abc")
    assert versions.unlearnt(third, {"d"}) == versions.path(third)
    assert versions.unlearnt(third, {"c", "d"}) == versions.path(second)
    assert versions.unlearnt(third, {"b"}) == versions.path(first)
    assert versions.unlearnt(third, {"a"}) is None
    assert versions.unlearnt("none", {"d"}) is None


def test_what_a_version_learnt_from_is_what_its_parents_did_too(versions):
    first, second = line(versions, ["a"], ["b", "c"])
    assert [versions.learnt(name) for name in (first, second)] == [{"a"}, {"a", "b", "c"}]
    assert versions.learnt("0" * 12) is None


def test_what_an_upload_or_a_lost_parent_learnt_from_is_not_known(versions):
    *_, last = line(versions, "a", "ab", state=UPLOADED)
    assert versions.unlearnt(last, {"d"}) is versions.learnt(last) is None
    first, last = line(versions, "a", "ab")
    versions.path(first).unlink()
    assert versions.unlearnt(last, {"d"}) is versions.learnt(last) is None
    again = versions.add(network(7), {"state": UPLOADED, "parent": weights_hash(network(7)), "base": "b"})
    assert versions.unlearnt(again, {"d"}) is None  # uploaded while it was served
