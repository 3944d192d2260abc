import json

import pytest

from infers.errors import ClientError
from infers.names import LARGEST_INDEX, LabelMap, names_by_value


def info(*names, key="idx"):
    return [{"name": name, key: number} for number, name in enumerate(names, start=1)]


def test_values_are_named_by_label_info():
    assert names_by_value([1, 2], {"label_info": info("liver", "spleen")}, ()) == {1: "liver", 2: "spleen"}
    assert names_by_value([2], {"label_info": info("liver", "spleen", key="id")}, ()) == {2: "spleen"}
    assert names_by_value([7], {"label_info": [{"name": "liver", "idx": 7}]}, ()) == {7: "liver"}


def test_slicers_numbers_after_a_left_out_segment_are_taken_in_order():
    # Slicer numbered "background" too, then dropped it and saved the map as 1, 2
    told = {"client_id": "slicer", "label_info": [{"name": "liver", "idx": 2}, {"name": "spleen", "idx": 3}]}
    assert names_by_value([1, 2], told, ()) == {1: "liver", 2: "spleen"}
    assert names_by_value([2], told, ()) == {2: "spleen"}


def test_own_masks_are_named_by_label_names():
    assert names_by_value([3], {"label_names": {"liver": 3}}, ("a", "b", "c")) == {3: "liver"}


def test_without_label_info_the_configured_names_count_then_numbers():
    assert names_by_value([1, 3], {}, ("liver", "spleen")) == {1: "liver", 3: "label_3"}


@pytest.mark.parametrize(
    "told",
    [
        {"label_info": info("liver")},
        {"label_info": info("liver", "liver")},
        {"label_info": "liver"},
        {"label_info": [{"idx": 1}]},
        {"label_info": [{"name": "liver", "idx": "one"}]},
    ],
)
def test_label_info_that_cannot_name_the_values_is_refused(told):
    with pytest.raises(ClientError, match="label_info"):
        names_by_value([1, 5], told, ())


def test_indices_never_change_and_survive_a_restart(tmp_path):
    labels = LabelMap(tmp_path / "labels.json")
    assert labels.learn(["liver", "spleen"]) == {"liver": 1, "spleen": 2}
    assert labels.learn(["kidney", "liver"]) == {"kidney": 3, "liver": 1}
    assert LabelMap(tmp_path / "labels.json").names == {"liver": 1, "spleen": 2, "kidney": 3}


def test_two_processes_learn_into_one_map(tmp_path):
    one, other = LabelMap(tmp_path / "labels.json"), LabelMap(tmp_path / "labels.json")
    one.learn(["liver"])
    assert other.learn(["spleen"]) == {"spleen": 2}
    assert one.names == {"liver": 1, "spleen": 2}


def test_a_new_name_in_a_request_is_not_remembered(tmp_path):
    labels = LabelMap(tmp_path / "labels.json")
    labels.learn(["liver"])
    assert labels.with_new(["spleen", "liver"]) == {"spleen": 2, "liver": 1}
    assert labels.names == {"liver": 1}


def test_configured_names_are_the_only_ones(tmp_path):
    labels = LabelMap(tmp_path / "labels.json", ("liver", "spleen"))
    assert labels.names == {"liver": 1, "spleen": 2}
    for call in (labels.learn, labels.with_new, labels.check):
        with pytest.raises(ClientError, match="liver, spleen"):
            call(["kidney"])


def test_other_configured_names_keep_the_indices_that_masks_already_use(tmp_path):
    LabelMap(tmp_path / "labels.json", ("liver", "spleen"))
    assert LabelMap(tmp_path / "labels.json", ("kidney", "spleen")).names == {"spleen": 2, "kidney": 3}


def test_background_is_no_structure(tmp_path):
    with pytest.raises(ClientError, match="no structure"):
        LabelMap(tmp_path / "labels.json").learn(["Background"])


def test_more_structures_than_a_byte_holds_are_refused_and_forgotten(tmp_path):
    labels = LabelMap(tmp_path / "labels.json")
    labels.learn([f"s{n}" for n in range(LARGEST_INDEX)])
    with pytest.raises(ClientError, match="at most"):
        labels.learn(["one too many"])
    assert len(json.loads((tmp_path / "labels.json").read_text())) == LARGEST_INDEX


@pytest.mark.parametrize("content", ['{"liver": 1, "spl', "[]", '{"liver": "one"}', '{"liver": 0}', "", "[" * 100_000])
def test_a_torn_map_is_kept_aside_and_grows_again_with_what_the_labels_say(tmp_path, content):
    path = tmp_path / "labels.json"
    before = LabelMap(path).learn(["liver", "spleen", "kidney"])
    path.write_text(content)
    labels = LabelMap(path)
    assert labels.names == {}
    assert (tmp_path / "labels.json.broken").read_text() == content
    labels.restore({"spleen": 2, "kidney": 3}, ["liver", "kidney", "tumour"])
    assert {name: labels.names[name] for name in before} == before
    assert labels.names["tumour"] == 4
    labels.restore({"tumour": 9}, ["liver"])
    assert labels.names["tumour"] == 4  # an index that is known stays
