import numpy as np

from scripts.measure.calibration.phantom_lists import phantom_lists


def test_lists_show_every_structure_in_every_template_and_are_the_same_for_a_seed():
    lists, again = (list(phantom_lists(6, 1, seed=3)) for _ in range(2))
    assert {len(one.groups[0]) for one in lists} == {1, 3}
    for one, other in zip(lists, again, strict=True):
        assert one.names
        for study, same in zip(one.studies, other.studies, strict=True):
            assert np.array_equal(study.image.array, same.image.array)
            assert study.image.array.shape == study.label.shape
            assert all((study.label == value).any() for value in one.names.values())


def test_every_second_list_is_cropped_around_its_structures():
    whole, cropped = list(phantom_lists(2, 1, seed=0))
    sizes = [{study.image.array.shape for study in one.studies} for one in (whole, cropped)]
    assert len(sizes[0]) == 1
    assert all(np.prod(shape) < np.prod(next(iter(sizes[0]))) for shape in sizes[1])
