import numpy as np

from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.measure.simulation.direct import ask_segmenter, walk
from scripts.measure.simulation.ways import Log, Plan, StudyList
from scripts.measure.study_list import Truth, find_studies
from tests.lib.fakes import SIZE, GreyNetwork
from tests.samples import organ_volume, write_nifti


def segmenter():
    return SliceSegmenter(GreyNetwork(), "cpu", SegmenterSettings(precision="float32"))


def study_list(folder, count):
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for number in range(count):
        image, mask = organ_volume(number, (SIZE, SIZE, 8))  # which the network below segments exactly
        write_nifti(folder / "images" / f"s{number}.nii.gz", image)
        write_nifti(folder / "labels" / f"s{number}.nii.gz", mask)
    return StudyList(find_studies(folder / "images"), Truth.in_folder(folder / "labels"))


def test_later_studies_begin_with_the_mask_of_those_before_and_nothing_is_done_twice(tmp_path):
    studies, folder = study_list(tmp_path, 3), tmp_path / "random"
    folder.mkdir()
    walk("random", studies, Plan(most_clicks=2), folder, segmenter())
    entries = Log(folder / "log.json").entries
    starts = [work["start"] for entry in entries for work in entry["structures"].values()]
    assert starts[0] == 0
    assert min(starts[1:]) > 0.5
    (folder / "log.json").unlink()
    log = Log(folder / "log.json")
    for entry in entries[:2]:
        log.add(entry)
    walk("random", studies, Plan(most_clicks=2), folder, segmenter())
    assert Log(folder / "log.json").entries == entries


def test_painted_slices_stand_in_what_is_answered(tmp_path):
    studies = study_list(tmp_path, 1)
    image, truth = studies.image(studies.studies[0]), studies.masks(studies.studies[0])
    name, body = next(iter(truth.items()))
    index = int(np.argwhere(body)[:, 2].mean())
    before = np.roll(body, 2, axis=0)
    answer = ask_segmenter(segmenter(), image)(name, {}, before, {index: body[..., index]})
    np.testing.assert_array_equal(answer[..., index], body[..., index])
    assert (answer[..., index + 1] != before[..., index + 1]).any()
