"""Answers that are gone on from: how clients that send every click again get what they would get with a mask."""

import dataclasses

import numpy as np
import pytest

from lib.imaging.prompts import Prompt
from lib.inference.control import Cancelled, Control
from lib.segmenters.slice_segmenter import SliceSegmenter
from tests.lib.fakes import GreyNetwork
from tests.lib.segmenters.test_slice_segmenter import EXACT, LABELS, anatomy, study

FIRST, SECOND, ERASING = (10, 12, 5), (10, 12, 7), (12, 12, 4)


@pytest.fixture
def image():
    return study(anatomy())[0]


def segmenter(**changes):
    network = GreyNetwork()
    return SliceSegmenter(network, "cpu", dataclasses.replace(EXACT, **changes)), network


def mask(tool, image, prompt, name="bright", **options):
    prediction = tool.interact(image, {name: prompt}, LABELS, **options)
    return prediction.mask == LABELS[name]


def test_several_clicks_answer_as_when_each_is_sent_with_the_mask_before(image):
    tool, _ = segmenter()
    clicks = [Prompt(foreground=(FIRST,)), Prompt(foreground=(FIRST,), background=(ERASING,))]
    clicks.append(Prompt(foreground=(FIRST, SECOND), background=(ERASING,)))
    previous = None
    for prompt in clicks:
        again = mask(tool, image, prompt)
        corrected = mask(segmenter(kept_bytes=0)[0], image, prompt.replace(previous=previous))
        np.testing.assert_array_equal(again, corrected)
        previous = corrected
    assert not previous[ERASING]


def test_the_same_clicks_again_ask_the_network_nothing_and_get_the_same(image):
    tool, network = segmenter()
    before = tool.interact(image, {"bright": Prompt(foreground=(FIRST, SECOND))}, LABELS)
    decoded = network.decoded
    again = tool.interact(image, {"bright": Prompt(foreground=(SECOND, FIRST))}, LABELS)
    assert network.decoded == decoded
    np.testing.assert_array_equal(again.mask, before.mask)
    assert (again.quality, again.provenance) == (before.quality, before.provenance)


def test_another_click_asks_about_the_slices_alone_that_disagree_with_it(image):
    tool, network = segmenter()
    mask(tool, image, Prompt(foreground=(FIRST,)))
    through_the_volume = network.decoded
    mask(tool, image, Prompt(foreground=(FIRST, SECOND), background=(ERASING,)))
    assert network.decoded - through_the_volume == 2  # one slice, and whether it leads back to itself
    assert through_the_volume > 8


def test_taking_a_click_back_brings_the_earlier_answer_back(image):
    tool, _ = segmenter()
    one = mask(tool, image, Prompt(foreground=(FIRST,)))
    two = mask(tool, image, Prompt(foreground=(FIRST,), background=(ERASING,)))
    assert (one != two).any()
    np.testing.assert_array_equal(mask(tool, image, Prompt(foreground=(FIRST,))), one)


def test_an_answer_is_numbered_as_the_request_numbers_it(image):
    tool, _ = segmenter()
    first = tool.interact(image, {"bright": Prompt(foreground=(FIRST,))}, {"bright": 1}).mask
    other = tool.interact(image, {"bright": Prompt(foreground=(FIRST,))}, {"bright": 300}).mask
    assert (first.dtype, other.dtype) == (np.uint8, np.uint16)
    np.testing.assert_array_equal(other == 300, first == 1)


@pytest.mark.parametrize(
    "options",
    [{"name": "dark"}, {"axis": 0}, {"only_slice": True}, {"image": study(anatomy(shift=1))[0]}],
)
def test_what_was_said_of_something_else_is_not_gone_on_from(image, options):
    tool, _ = segmenter()
    mask(tool, image, Prompt(foreground=(FIRST,)))
    other = {"image": image, "prompt": Prompt(foreground=(FIRST, SECOND)), **options}
    np.testing.assert_array_equal(mask(tool, **other), mask(segmenter(kept_bytes=0)[0], **other))


def test_a_box_beside_the_clicks_is_another_question(image):
    tool, _ = segmenter()
    mask(tool, image, Prompt(foreground=(FIRST,)))
    boxed = Prompt(foreground=(FIRST, SECOND), box=(6, 15, 8, 16, 4, 9))
    np.testing.assert_array_equal(mask(tool, image, boxed), mask(segmenter(kept_bytes=0)[0], image, boxed))


def test_an_empty_answer_is_not_gone_on_from(image):
    tool, _ = segmenter()
    nothing = Prompt(foreground=((2, 2, 0),), background=((2, 2, 0),))
    assert not mask(tool, image, nothing).any()
    both = nothing.replace(foreground=((2, 2, 0), FIRST))
    np.testing.assert_array_equal(mask(tool, image, both), mask(segmenter(kept_bytes=0)[0], image, both))


def test_answers_stay_within_their_room(image):
    tool, network = segmenter(kept_bytes=3000)
    for place in range(2, 9):
        mask(tool, image, Prompt(foreground=((10, 12, place),)))
    assert 0 < tool.held["answers"] <= 3000
    decoded = network.decoded
    mask(tool, image, Prompt(foreground=((10, 12, 2),)))  # gave way to later ones
    assert network.decoded > decoded


def test_nothing_is_kept_without_room(image):
    tool, network = segmenter(kept_bytes=0)
    mask(tool, image, Prompt(foreground=(FIRST,)))
    decoded = network.decoded
    mask(tool, image, Prompt(foreground=(FIRST,)))
    assert network.decoded == 2 * decoded


class Gone(Control):
    """Of a client that hung up."""

    stopped = True


@pytest.mark.parametrize("options", [{}, {"only_slice": True}])
def test_nothing_is_computed_or_kept_for_a_client_who_has_gone(image, options):
    tool, network = segmenter()
    with pytest.raises(Cancelled):
        mask(tool, image, Prompt(foreground=(FIRST,)), control=Gone(), **options)
    assert (network.encoded, network.decoded, tool.held["answers"]) == (0, 0, 0)
