import pytest

from infers.errors import ClientError, NotFound
from infers.label_records import LabelRecord
from infers.study_list.rows import Row, Rows, Wanted, select
from lib.quality.estimate import Quality
from tests.infers.fakes import FakePredictor, make_studies, mask_record
from tests.samples import organ_volume, write_nifti

ROWS = [
    Row("liver 10", "automatic", {"organ": 0.9}),
    Row("liver 2", "automatic", {"organ": 0.8, "lesion": 0.3}),
    Row("kidney", "template"),
    Row("spleen", "rejected", {"organ": 0.5}),
    Row("empty", "unlabelled"),
]


def ids(page):
    return [row.id for row in page.rows]


def test_the_worst_structure_decides_and_studies_without_a_prediction_come_last():
    assert ids(select(ROWS, Wanted())) == ["liver 2", "spleen", "liver 10", "empty", "kidney"]
    assert ids(select(ROWS, Wanted(sort="best")))[0] == "liver 10"


def test_counts_are_of_the_search_and_not_of_the_filter():
    page = select(ROWS, Wanted(statuses=("automatic",), search="LIVER"))
    assert ids(page) == ["liver 2", "liver 10"]
    assert page.counts == {"automatic": 2}
    assert select(ROWS, Wanted(statuses=("template",))).counts["automatic"] == 2


def test_a_bound_keeps_what_is_predicted_at_least_as_good():
    assert ids(select(ROWS, Wanted(at_least=0.5))) == ["spleen", "liver 10"]


def test_what_is_alarming_is_never_among_what_a_bound_accepts():
    rows = [
        Row("fine", "automatic", {"organ": 0.9}),
        Row("torn", "automatic", {"organ": 0.9}, alarms={"organ": ["torn"]}),
    ]
    assert ids(select(rows, Wanted(at_least=0.5))) == ["fine"]
    assert ids(select(rows, Wanted())) == ["fine", "torn"]


def test_a_row_tells_number_interval_reason_and_alarms_by_structure():
    judged = {
        "organ": Quality(0.9, 0.8, 0.95, "agrees with its templates"),
        "lesion": Quality(0.4, 0.1, 0.7, "touches the image border", ("touches the image border",)),
        "old": Quality(0.7),
    }
    row = Row("study", "automatic").with_quality(judged)
    assert (row.predicted, row.worst) == (0.4, "lesion")
    told = row.brief()
    assert told["quality"] == {"organ": 0.9, "lesion": 0.4, "old": 0.7}
    assert told["quality_interval"] == {"organ": (0.8, 0.95), "lesion": (0.1, 0.7)}
    assert told["alarms"] == {"lesion": ["touches the image border"]}
    assert "old" not in told["quality_reason"]


def test_a_page_beyond_the_last_is_the_last():
    rows = [Row(f"s{number:05d}", "unlabelled") for number in range(5000)]
    page = select(rows, Wanted(page=999, per_page=24))
    assert (page.page, page.pages, page.total) == (209, 209, 5000)
    assert ids(page)[-1] == "s04999"


def test_a_link_to_a_study_leads_to_its_page():
    rows = [Row(f"s{number:03d}", "unlabelled") for number in range(100)]
    page = select(rows, Wanted(show="s060", per_page=24))
    assert page.page == 3
    assert "s060" in ids(page)
    with pytest.raises(NotFound, match="no study 's999'"):
        select(rows, Wanted(show="s999"))


@pytest.mark.parametrize("wrong", [{"statuses": ("done",)}, {"sort": "newest"}])
def test_an_unknown_filter_or_order_is_refused_with_those_there_are(wrong):
    with pytest.raises(ClientError, match=r"automatic|worst"):
        Wanted(**wrong)


def test_only_the_row_of_a_study_that_changed_is_made_anew(tmp_path):
    for number in range(3):
        write_nifti(tmp_path / f"s{number}.nii.gz", organ_volume(number)[0])
    (tmp_path / "labels" / "final").mkdir(parents=True)
    label = write_nifti(tmp_path / "labels" / "final" / "s0.nii.gz", organ_volume(0)[1])
    studies = make_studies(str(tmp_path), FakePredictor(), "organ")
    rows = Rows(studies)
    before = {row.id: row for row in rows.make({}, [])}
    assert {id: row.status for id, row in before.items()} == {"s0": "template", "s1": "unlabelled", "s2": "unlabelled"}
    studies.store.save_automatic("s1", label, mask_record(quality={"organ": 0.9}), studies.models)
    after = {row.id: row for row in rows.make({"s2": "torn"}, [])}
    assert {id: row.status for id, row in after.items()} == {"s0": "template", "s1": "automatic", "s2": "failed"}
    assert after["s0"] is before["s0"]
    assert rows.make({"s2": "torn"}, ["s2"])[2].offered
    (tmp_path / "s2.nii.gz").unlink()
    studies.store.refresh()
    assert [row.id for row in rows.make({}, [])] == ["s0", "s1"]


def test_studies_of_which_nothing_changed_are_not_looked_at_again(tmp_path, monkeypatch):
    for number in range(3):
        write_nifti(tmp_path / f"s{number}.nii.gz", organ_volume(number)[0])
    label = write_nifti(tmp_path.with_suffix(".nii.gz"), organ_volume(0)[1])
    studies = make_studies(str(tmp_path), FakePredictor(), "organ")
    for image_id in ("s0", "s1", "s2"):
        studies.descriptors.of(image_id)
        studies.store.save_automatic(image_id, label, mask_record(quality={"organ": 0.9}), studies.models)
    rows, asked, made_by = Rows(studies), [], LabelRecord.made_by
    rows.make({}, [])

    def counted(record, models):
        asked.append(record)
        return made_by(record, models)

    monkeypatch.setattr(LabelRecord, "made_by", counted)
    record = mask_record(quality={"organ": 0.5})
    studies.store.amend("s1", "original", lambda _: record)
    assert [row.predicted for row in rows.make({}, [])] == [0.9, 0.5, 0.9]
    assert len(asked) == 1
    assert [row.status for row in rows.make({"s2": "torn"}, [])] == ["automatic", "automatic", "failed"]
    assert len(asked) == 4
