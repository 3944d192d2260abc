import pytest

from infers.store.sidecars import checksum, read_sidecar, write_sidecar
from lib.imaging.files import write_atomically


@pytest.fixture
def files(tmp_path):
    return tmp_path / "s0.json", tmp_path / "s0.nii.gz"


def test_what_was_said_comes_back_for_the_same_bytes(files):
    sidecar, label = files
    write_sidecar(sidecar, b"one", {"who": "ann"}, write_atomically)
    label.write_bytes(b"one")
    assert read_sidecar(sidecar, label) == {"who": "ann"}


def test_a_crash_between_record_and_label_leaves_the_old_record_valid(files):
    sidecar, label = files
    write_sidecar(sidecar, b"one", {"who": "ann"}, write_atomically)
    label.write_bytes(b"one")
    write_sidecar(sidecar, b"two", {"who": "bob"}, write_atomically)  # and the power goes before the label is written
    assert read_sidecar(sidecar, label) == {"who": "ann"}
    label.write_bytes(b"two")
    assert read_sidecar(sidecar, label) == {"who": "bob"}


def test_of_an_unknown_label_only_names_are_believed(files):
    sidecar, label = files
    write_sidecar(
        sidecar,
        b"one",
        {"who": "ann", "label_info": [{"name": "organ", "idx": 1}], "structures": {"organ": 1}},
        write_atomically,
    )
    label.write_bytes(b"edited by hand")
    assert read_sidecar(sidecar, label) == {"label_info": [{"name": "organ", "idx": 1}]}


@pytest.mark.parametrize("content", ["", "{ torn", '{"records": 7}', '{"records": [{}]}', "[]"])
def test_a_broken_record_is_ignored(files, content):
    sidecar, label = files
    label.write_bytes(b"one")
    sidecar.write_text(content)
    assert read_sidecar(sidecar, label) is None


def test_no_record_is_none_and_checksums_follow_the_bytes(files):
    sidecar, label = files
    label.write_bytes(b"one")
    first = checksum(label)
    assert read_sidecar(sidecar, label) is None
    label.write_bytes(b"another")
    assert checksum(label) != first
