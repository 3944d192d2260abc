import json

import pytest

from infers.errors import ClientError
from infers.names import LARGEST_INDEX, LabelMap, choose_names, names_beside, names_by_value


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


@pytest.fixture
def labels(tmp_path):
    labels = LabelMap(tmp_path / "labels.json")
    labels.learn(["liver", "spleen"])
    return labels


def test_the_nearest_source_that_names_every_value_decides(labels):
    near, far = {1: "left kidney"}, {1: "heart", 2: "lung"}
    told = {"label_info": info("stomach", "colon")}
    assert choose_names([1], told, [near, far], labels) == {1: "stomach"}
    assert choose_names([1], {}, [near, far], labels) == {1: "left kidney"}
    assert choose_names([1, 2], {}, [near, far], labels) == {1: "heart", 2: "lung"}
    assert choose_names([1, 2], {}, [near], labels) == {1: "liver", 2: "spleen"}


def test_values_that_fit_nothing_known_are_asked_about_with_the_choices(labels):
    with pytest.raises(ClientError, match=r"values \[1, 5\].*'liver': 1, 'spleen': 2.*label_info") as caught:
        choose_names([1, 5], {}, [{1: "liver"}], labels)
    assert caught.value.status == 409


def test_the_first_labels_of_a_list_without_names_are_numbered(tmp_path):
    labels = LabelMap(tmp_path / "labels.json")
    assert choose_names([2, 7], {}, [], labels) == {2: "label_2", 7: "label_7"}
    labels.learn(["label_2", "label_7"])
    assert choose_names([3, 7], {}, [], labels) == {3: "label_3", 7: "label_7"}


def test_an_unnamed_value_keeps_its_number_where_the_list_counts_otherwise(tmp_path):
    labels = LabelMap(tmp_path / "labels.json")
    labels.learn(["label_2"])  # its index is 1
    assert choose_names([2], {}, [], labels) == {2: "label_2"}


@pytest.mark.parametrize("name", ["Liver", " liver ", "LIVER"])
def test_names_that_differ_in_capitals_or_blanks_are_one_structure(labels, name):
    assert choose_names([1], {"label_info": [{"name": name, "idx": 1}]}, [], labels) == {1: "liver"}
    assert labels.learn([name]) == {"liver": 1}
    assert labels.with_new([name]) == {"liver": 1}
    assert labels.learn(["left   Kidney"]) == {"left Kidney": 3}


def test_two_values_of_one_structure_are_refused(labels):
    told = {"label_info": [{"name": "Liver", "idx": 1}, {"name": "liver ", "idx": 2}]}
    with pytest.raises(ClientError, match="one value"):
        choose_names([1, 2], told, [], labels)


@pytest.mark.parametrize("said", [{"liver": 1, "spleen": 2}, {"1": "liver", "2": "spleen", "0": "background"}])
def test_a_record_beside_a_label_names_its_values(tmp_path, said):
    (tmp_path / "s1.json").write_text(json.dumps({"labels": said}))
    assert names_beside(tmp_path / "s1.nii.gz") == {1: "liver", 2: "spleen"}
    assert names_beside(tmp_path / "s2.nii.gz") == {}


@pytest.mark.parametrize("text", ["no json", "[]", '{"labels": [1]}', '{"labels": {"a": "b"}}'])
def test_a_file_beside_a_label_that_is_no_record_says_nothing(tmp_path, text):
    (tmp_path / "s1.json").write_text(text)
    assert names_beside(tmp_path / "s1.nrrd") == {}


@pytest.mark.parametrize("values", [[2], [2, 3], [3], [7]])
def test_names_that_a_file_brings_are_not_renumbered_whoever_sends_it(values):
    told = {"client_id": "slicer", "label_names": {"liver": 2, "spleen": 3, "kidney": 7}}
    assert names_by_value(values, told, ()) == {v: n for n, v in told["label_names"].items() if v in values}
