import numpy as np
import pytest

from lib.imaging.images import Image
from lib.imaging.metrics import dice
from lib.imaging.volumes import Stack
from scripts.measure.simulation.annotator import Annotator, Work

TRUTH = np.zeros((20, 20, 6), bool)
TRUTH[5:15, 5:15, 1:5] = True
IMAGE = Image(np.random.default_rng(0).normal(size=TRUTH.shape), np.diag([1.0, 1.0, 3.0, 1.0]))


class Server:
    """Answers a click with the truth of the clicked slice, and notes what it was asked."""

    def __init__(self, helps=True):
        self.helps, self.asked = helps, []

    def __call__(self, name, points, mask, painted):
        self.asked.append((name, {key: list(value) for key, value in points.items()}, mask.copy()))
        answer = mask.copy()
        for point in [*points["foreground"], *points["background"]] if self.helps else ():
            answer[..., point[2]] = TRUTH[..., point[2]]
        return answer


def annotate(server, start=None, **options):
    masks, work = Annotator(IMAGE, {"organ": TRUTH}, server, **options).annotate(start or {})
    return masks["organ"], work["organ"]


def test_clicks_fall_into_the_largest_error_until_the_last_goal():
    server = Server()
    mask, work = annotate(server)
    assert [round(value, 2) for value in work.dices] == [0.4, 0.67, 0.86, 1.0]
    assert (work.clicks(0.85), work.clicks(0.9), work.drawing) == (3, 4, {})
    np.testing.assert_array_equal(mask, TRUTH)
    assert [sum(map(len, points.values())) for _, points, _ in server.asked] == [1, 2, 3, 4]
    assert dice(server.asked[1][2], TRUTH) > 0.3  # the mask that is corrected goes along


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_those_that_the_server_cuts_however_the_volume_is_stored(axis):
    turned = np.moveaxis(TRUTH, 2, axis)
    affine = np.eye(4)[:, [*np.insert([0, 1], axis, 2), 3]] * [*np.insert([1.0, 1.0], axis, 3.0), 1.0]
    image = Image(np.moveaxis(IMAGE.array, 2, axis), affine)
    points = []

    def ask(name, clicks, mask, painted):
        points.extend(point[axis] for point in clicks["foreground"][-1:])
        answer = mask.copy()
        place = (slice(None),) * axis + (points[-1],)
        answer[place] = turned[place]
        return answer

    _, work = Annotator(image, {"organ": turned}, ask).annotate({})
    assert len(set(points)) == len(points) == work["organ"].clicks(0.9) == 4
    assert Stack.of(image).own_axis == axis


def test_a_mask_that_is_good_enough_costs_nothing():
    server = Server()
    _, work = annotate(server, {"organ": TRUTH.copy()})
    assert (work.clicks(0.9), work.limited(0.9), server.asked) == (0, False, [])


def test_too_much_is_clicked_away():
    start = TRUTH.copy()
    start[0:5, :, :] = True
    server = Server()
    annotate(server, {"organ": start})
    assert server.asked[0][1]["foreground"] == []
    assert len(server.asked[0][1]["background"]) == 1


def test_a_mask_that_is_more_wrong_than_right_is_cleared_with_one_click():
    server = Server()
    _, work = annotate(server, {"organ": ~TRUTH})
    assert (work.start, work.dices[0]) == (0.0, 0.0)
    assert not server.asked[0][2].any()
    assert work.clicks(0.85) == 1 + 3


def test_after_the_most_clicks_the_rest_is_drawn_and_said_to_be():
    mask, work = annotate(Server(helps=False), most=3)
    assert len(work.dices) == 3
    assert work.limited(0.85)
    assert dice(mask, TRUTH) >= 0.9
    assert work.clicks(0.85) == 3 + work.drawing[0.85] > 3
    assert work.drawing[0.85] <= work.drawing[0.9]


class Carrying(Server):
    """Answers paint with the mask, its painted slices and their neighbours made right."""

    def __call__(self, name, points, mask, painted):
        self.asked.append((name, points, dict(painted)))
        answer = mask.copy()
        for index, own in painted.items():
            answer[..., index - 1 : index + 2] = TRUTH[..., index - 1 : index + 2]
            answer[..., index] = own
        return answer


def test_one_who_paints_lets_each_slice_carry_and_pays_for_its_corners():
    server = Carrying()
    mask, work = annotate(server, hand="paints")
    painted = [list(slices) for _, _, slices in server.asked]
    assert painted == [[1], [1, 3]]
    assert dice(mask, TRUTH) >= 0.9
    assert work.drawing == {}
    assert len(work.dices) == work.clicks(0.9) >= 4 * len(painted)  # four corners and more each
    assert work.clicks(0.85) <= work.clicks(0.9)
    for index, own in server.asked[-1][2].items():
        np.testing.assert_array_equal(mask[..., index], own)


def test_one_who_paints_empties_a_slice_with_one_click_and_ends_where_all_slices_are_painted():
    start = TRUTH.copy()
    start[5:15, 5:15, 5] = True
    _, work = annotate(lambda name, points, mask, painted: start & (np.arange(6) != 5), {"organ": start}, hand="paints")
    assert work.clicks(0.9) == 1
    _, work = annotate(lambda name, points, mask, painted: np.zeros_like(TRUTH), hand="paints")
    assert work.limited(0.85)
    assert work.drawing[0.9] > 0


def test_one_who_accepts_slices_says_so_with_a_click_once_they_are_good():
    server = Server()
    _, work = annotate(server, hand="accepts")
    assert work.clicks(0.9) == 2 * 4 - 1  # four slices, each accepted; the goal is reached with the last one's click
    assert len(work.dices) == 8


def test_nobody_clicks_on_a_slice_that_was_accepted():
    almost = TRUTH.copy()
    almost[5:8, 5, 1:5] = False  # each slice has more than 95 %, and is not right
    clicked = []

    def ask(name, points, mask, painted):
        clicked.append(points["foreground"][-1][2])
        return almost

    _, work = Annotator(IMAGE, {"organ": TRUTH}, ask, goals=(0.9, 0.999), hand="accepts").annotate({})
    assert sorted(clicked) == [1, 2, 3, 4]
    assert len(work["organ"].dices) == 8


def test_the_cost_survives_its_json():
    work = Work(0.2, [0.5, 0.86], {0.9: 7})
    assert Work.of(work.to_dict()) == work
    assert (work.clicks(0.85), work.clicks(0.9)) == (2, 9)
