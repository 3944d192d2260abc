import numpy as np
import pytest

from lib.inference.ranking import mmr_selection, representativeness, worth


def unit(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def clusters():
    """Twelve studies alike, three of another kind, and one like nothing else."""
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], [12, 3, 1])
    return unit(np.eye(3)[kinds] + rng.normal(0, 0.05, (16, 3))), kinds


def test_the_most_representative_study_is_the_one_most_like_all_others(clusters):
    descriptors, kinds = clusters
    scores = representativeness(descriptors)
    np.testing.assert_allclose(scores, (descriptors @ descriptors.T).mean(axis=1), atol=1e-5)
    assert kinds[scores.argmax()] == 0
    assert kinds[scores.argmin()] == 2


def test_many_similar_studies_make_one_worth_correcting(clusters):
    descriptors, kinds = clusters
    assert kinds[worth(descriptors, np.ones(16), np.zeros((0, 3))).argmax()] == 0


def test_studies_like_a_template_are_worth_less_than_far_ones(clusters):
    descriptors, kinds = clusters
    assert kinds[worth(descriptors, np.ones(16), descriptors[:1]).argmax()] == 1


def test_a_low_predicted_quality_makes_a_study_worth_correcting(clusters):
    descriptors, _ = clusters
    need = np.full(16, 0.1)
    need[15] = 1.0
    assert worth(descriptors, need, descriptors[[0, 12]]).argmax() == 15


def test_nothing_is_worth_anything_where_every_mask_is_right(clusters):
    descriptors, _ = clusters
    assert worth(descriptors, np.zeros(16), descriptors[:1]).max() == 0


def test_anchors_stand_for_a_long_list():
    rng = np.random.default_rng(1)
    descriptors = unit(rng.normal(0, 1, (1200, 8)) + 2 * np.eye(8)[rng.integers(0, 8, 1200)])
    need, templates = rng.uniform(0, 1, 1200), descriptors[:3]
    covered = np.clip(descriptors @ templates.T, 0, None).max(axis=1)
    exact = np.clip(descriptors @ descriptors.T - covered, 0, None) @ need + need * (1 - covered)
    chosen = exact[worth(descriptors, need, templates).argmax()]
    assert (exact > chosen).mean() < 0.05
    assert chosen > 0.8 * exact.max()
    np.testing.assert_array_equal(worth(descriptors, need, templates), worth(descriptors, need, templates))


def test_templates_are_like_the_query_and_unlike_each_other():
    between = np.array([[1, 0.99, 0.2], [0.99, 1, 0.2], [0.2, 0.2, 1]])
    similarity = np.array([0.9, 0.89, 0.6])
    assert mmr_selection(similarity, between, 2, 0.0) == [0, 1]
    assert mmr_selection(similarity, between, 2, 0.4) == [0, 2]
    assert mmr_selection(similarity, between, 9, 0.4) == [0, 2, 1]
    assert mmr_selection(similarity[:0], between[:0, :0], 2, 0.4) == []


class Counted(np.ndarray):
    """An array that counts the numbers that are computed from it."""

    computed = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        plain, into = ([np.asarray(each) for each in some] for some in (inputs, out))
        result = getattr(ufunc, method)(*plain, **kwargs, **({"out": tuple(into)} if into else {}))
        Counted.computed += result.size
        return np.asarray(result).view(Counted)


def test_ten_times_the_studies_take_no_more_than_ten_times_the_work():
    def work(count):
        descriptors = unit(np.random.default_rng(0).normal(0, 1, (count, 64))).view(Counted)
        Counted.computed = 0
        representativeness(descriptors)
        worth(descriptors, np.full(count, 0.5), descriptors[:50])
        return Counted.computed

    assert 20_000 < work(20_000) < 11 * work(2_000)  # the square would be a hundred times
