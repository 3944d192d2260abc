import dataclasses

import numpy as np
import pytest
import torch

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt, rasterise
from lib.imaging.volumes import Stack
from lib.inference.feature_cache import FeatureCache
from lib.inference.slice_network import Question, SliceNetwork, TaskQuestion, TemplateSlice, mask_maps
from lib.networks import NetworkConfig, OnePrompt
from lib.networks.answers import AnswerError
from lib.networks.promptseg import PromptSeg
from tests.lib.fakes import SIZE, GreyNetwork, Recorder
from tests.samples import TINY_PROMPTSEG


def stack(depth=5, seed=0):
    return Stack.of(
        Image(np.random.default_rng(seed).normal(size=(SIZE, SIZE, depth)), np.diag([-1.0, -1.0, -2.0, 1.0]))
    )


def small_network():
    torch.manual_seed(0)
    return OnePrompt(NetworkConfig.small())


def test_slices_are_encoded_once_and_kept():
    network = GreyNetwork()
    tool = SliceNetwork(network, "cpu", precision="float32")
    first = tool.encode(stack(), range(5))
    again = tool.encode(stack(), [3, 1])
    assert network.encoded == 5
    assert list(again) == [3, 1]
    assert again[3] is first[3]


def test_other_grey_values_are_encoded_anew():
    network = GreyNetwork()
    tool = SliceNetwork(network, "cpu", precision="float32")
    tool.encode(stack(seed=0), [0])
    tool.encode(stack(seed=1), [0])
    assert network.encoded == 2


def test_cache_keeps_what_was_used_last():
    network = GreyNetwork()
    tool = SliceNetwork(network, "cpu", precision="float32")
    size = sum(level.numel() * level.element_size() for level in tool.encode(stack(), [0])[0])
    tool = SliceNetwork(network, "cpu", precision="float32", cache_bytes=2 * size)
    for index in (0, 1, 0, 2):
        tool.encode(stack(), [index])
    network.encoded = 0
    tool.encode(stack(), [0])
    tool.encode(stack(), [2])
    assert network.encoded == 0
    tool.encode(stack(), [1])
    assert network.encoded == 1


def test_each_resolution_has_its_own_features_in_the_same_room():
    tool = SliceNetwork(GreyNetwork(), "cpu", precision="float32")
    finer = tool.at(2 * SIZE)
    coarse, fine = tool.encode(stack(), [0])[0], finer.encode(stack(), [0])[0]
    assert fine[0].shape[-1] == 2 * coarse[0].shape[-1]
    assert tool.encode(stack(), [0])[0] is coarse
    assert finer.encode(stack(), [0])[0] is fine
    assert tool.held == finer.held


def test_progress_is_told_before_each_batch():
    control = Recorder()
    SliceNetwork(GreyNetwork(), "cpu", batch_size=2, precision="float32").encode(stack(), range(5), control=control)
    assert control.fractions == [0.0, 0.4, 0.8]


def test_slices_without_a_file_are_encoded_like_those_of_one():
    tool = SliceNetwork(small_network(), "cpu", precision="float32")
    found = tool.encode_slices([stack().slice(index) for index in range(5)])
    for index, features in tool.encode(stack(), range(5)).items():
        for own, other in zip(found[index], features, strict=True):
            torch.testing.assert_close(own, other)


def test_questions_to_several_template_slices_are_answered_in_order_beside_those_to_one():
    class Mean(GreyNetwork):
        """Reads several template slices in one pass: the mean of what each leads to."""

        def decode(self, query, template, template_prompts, query_prompts=None):
            if template_prompts.ndim == 5:
                return super().decode(query, template, template_prompts, query_prompts)
            each = [
                super(Mean, self).decode(query, tuple(level[:, k] for level in template), template_prompts[:, k])
                for k in range(template_prompts.shape[1])
            ]
            return torch.stack(each).mean(dim=0)

    tool = SliceNetwork(Mean(), "cpu", batch_size=4, precision="float32")
    features = tool.encode(stack(), range(3))
    masks = [np.zeros((SIZE, SIZE), bool) for _ in range(2)]
    masks[0][4:20, 8:20] = masks[1][:4, :4] = True
    shown = [TemplateSlice(stack(), k + 1, features[k + 1], masks[k]) for k in range(2)]
    alone = [TaskQuestion(features[0], [one]) for one in shown]
    both = TaskQuestion(features[0], shown)
    first, together, second = tool.answers([alone[0], both, alone[1]])
    np.testing.assert_allclose(together, (first + second) / 2, atol=1e-5)


@pytest.fixture(scope="module")
def remembering():
    torch.manual_seed(0)
    return PromptSeg(TINY_PROMPTSEG).eval().requires_grad_(False)


class Remembered(SliceNetwork):
    """Counts what the network is asked to remember."""

    def __init__(self, network, **settings):
        super().__init__(network, "cpu", precision="float32", **settings)
        self.remembered = 0
        remember = self._remembering.remember

        def counted(*arguments):
            self.remembered += 1
            return remember(*arguments)

        self._remembering.remember = counted


def disc(place, size=SIZE):
    rows, columns = np.ogrid[:size, :size]
    return (rows - place) ** 2 + (columns - place) ** 2 < 36


def shown_by(tool, places, of=None):
    features = tool.encode(of or stack(), places)
    return [TemplateSlice(of or stack(), k, features[k], disc(8 + 4 * k)) for k in places]


def test_template_slices_are_remembered_once_for_all_queries_and_answer_as_at_once(remembering):
    tool = Remembered(remembering)
    queries = tool.encode(stack(seed=1), range(5))
    shown = shown_by(tool, [0, 2, 3])
    questions = [TaskQuestion(queries[q], shown) for q in range(3)]
    questions += [TaskQuestion(queries[q], shown_by(tool, [3, 0, 2])) for q in range(3, 5)]  # in another order
    answers = list(tool.answers(questions))
    np.testing.assert_allclose(tool.weights(shown[::-1]), tool.weights(shown)[::-1])
    assert tool.remembered == 1
    at_once = list(tool.answers([question.at_once(tool.size) for question in questions]))
    np.testing.assert_allclose(answers, at_once, atol=1e-4)


def test_another_mask_another_slice_and_another_resolution_are_remembered_anew(remembering):
    tool = Remembered(remembering)
    query = tool.encode(stack(seed=1), [0])[0]
    one, other = shown_by(tool, [0, 2])
    moved = dataclasses.replace(one, mask=np.roll(one.mask, 3, axis=0))
    for shown in ([one], [other], [moved], [one, other], [one]):
        list(tool.answers([TaskQuestion(query, shown)]))
    assert tool.remembered == 4
    finer = tool.at(2 * tool.size)
    list(finer.answers([TaskQuestion(finer.encode(stack(seed=1), [0])[0], shown_by(finer, [0]))]))
    assert tool.remembered == 5


def test_what_is_remembered_shares_the_room_of_encoded_slices(remembering):
    tool = Remembered(remembering, cache_bytes=2**30)
    query, shown = tool.encode(stack(seed=1), [0])[0], shown_by(tool, [0, 2, 3])
    encoded = tool.held
    list(tool.answers([TaskQuestion(query, shown)]))
    assert tool.held > encoded
    narrow = Remembered(remembering, cache_bytes=1)
    for _ in range(2):
        list(narrow.answers([TaskQuestion(query, shown)]))
    assert (narrow.held, narrow.remembered) == (0, 2)


def test_networks_with_one_image_encoder_share_what_is_encoded_and_others_do_not(remembering):
    cache = FeatureCache(2**28)
    torch.manual_seed(1)
    own = OnePrompt(TINY_PROMPTSEG.encoder).eval()
    same = OnePrompt(TINY_PROMPTSEG.encoder).eval()
    same.image_encoder.load_state_dict({k: v.half() for k, v in remembering.image_encoder.state_dict().items()})
    tools = [SliceNetwork(network, "cpu", precision="float32", cache=cache) for network in (remembering, same, own)]
    first, second, third = (tool.encode(stack(), [1])[1] for tool in tools)
    assert first is second
    assert third is not first
    assert not torch.allclose(third[0], first[0])
    maps = mask_maps(disc(12), tools[1].size)
    np.testing.assert_allclose(
        *(next(tools[1].answers([Question(features, features, maps)])) for features in (first, _encoded(same))),
        atol=1e-2,
    )


def _encoded(network):
    return SliceNetwork(network, "cpu", precision="float32").encode(stack(), [1])[1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_batches_answer_as_single_questions_do(precision):
    tool = SliceNetwork(small_network(), "cpu", batch_size=4, precision=precision)
    features = tool.encode(stack(), range(5))
    mask = np.zeros((SIZE, SIZE), bool)
    mask[4:20, 8:20] = True
    click = rasterise(Prompt(foreground=((5, 6),)), (SIZE, SIZE), tool.size)
    maps = mask_maps(mask, tool.size)
    questions = [Question(features[q], features[0], maps, click if q % 2 else None) for q in range(5)]
    together = list(tool.answers(questions))
    alone = [next(tool.answers([question])) for question in questions]
    assert together[0].shape == (tool.size, tool.size)
    tolerance = 1e-4 if precision == "float32" else 0.2 * np.std(alone)
    np.testing.assert_allclose(together, alone, atol=tolerance)


def test_bfloat16_answers_nearly_as_float32():
    answers = []
    for precision in ("float32", "bfloat16"):
        tool = SliceNetwork(small_network(), "cpu", precision=precision)
        features = tool.encode(stack(), [0, 1])
        maps = mask_maps(np.eye(SIZE, dtype=bool), tool.size)
        answers.append(next(tool.answers([Question(features[0], features[1], maps)])))
    assert answers[1].dtype == np.float32
    assert np.corrcoef(answers[0].ravel(), answers[1].ravel())[0, 1] > 0.98


def test_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="auto, float32 or bfloat16, got 'half'"):
        SliceNetwork(GreyNetwork(), "cpu", precision="half")


def test_an_answer_that_is_no_number_is_an_error_and_no_empty_mask():
    network = small_network()
    tool = SliceNetwork(network, "cpu", precision="float32")
    features = tool.encode(stack(), [0])[0]
    maps = mask_maps(np.eye(SIZE) > 0, tool.size)
    next(parameter for name, parameter in network.named_parameters() if "decoder" in name).data.fill_(np.nan)
    damaged = SliceNetwork(network, "cpu", precision="float32")
    with pytest.raises(AnswerError, match="no numbers"):
        list(damaged.answers([Question(features, features, maps)]))
