"""Who segments a list beside fine-tuned One-Prompt, asked of tiny networks about phantoms."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib.finetuning.examination import Scores
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.list_promptseg import ListComparison, ListPromptSeg, decided
from lib.finetuning.tuning import FineTuning
from lib.networks import OnePrompt
from lib.networks.checkpoints import CheckpointError, load_network, save_network
from lib.networks.promptseg import PromptSeg
from tests.samples import TINY_PROMPTSEG, organ_volume, write_nifti


@pytest.fixture
def studies(tmp_path: Path) -> list[LabelledStudy]:
    """Four studies that show an organ; the first and the third show something rare beside it."""
    found = []
    for number in range(4):
        image, mask = organ_volume(number)
        label = mask.astype(np.uint8)
        if number % 2 == 0:
            label[:6, :6] = 2
        files = [
            write_nifti(tmp_path / f"{kind}{number}.nii.gz", array) for kind, array in (("s", image), ("l", label))
        ]
        found.append(LabelledStudy(f"s{number}", *files, {"organ": 1, "rare": 2}, f"c{number}"))
    return found


@pytest.fixture
def promptseg(promptseg_weights: Path) -> ListPromptSeg:
    return ListPromptSeg(promptseg_weights, "base", least=2, most=8, most_one_prompt=4)


@pytest.fixture
def candidate(tiny_weights: Path) -> OnePrompt:
    return load_network(tiny_weights)


def test_both_are_asked_about_structures_that_enough_templates_show(promptseg, candidate, studies):
    comparison = ListComparison(promptseg, FineTuning())
    comparison.ask(candidate, studies[:2], studies[2:])  # one of two templates shows what is rare
    comparison.ask(candidate, [studies[0], studies[2]], [studies[1], studies[3]])
    assert [{name: len(dices) for name, dices in one.dice.items()} for one in comparison.scores] == [{"organ": 4}] * 2
    assert comparison.scores[0] != comparison.scores[1]


def test_studies_that_the_parent_learnt_from_tell_nothing_about_what_is_trained_from_it(promptseg, candidate, studies):
    def asked(known: frozenset[str] | None) -> int:
        comparison = ListComparison(dataclasses.replace(promptseg, known=known), FineTuning())
        comparison.ask(candidate, studies[:2], studies[2:])
        return sum(map(len, comparison.scores[0].dice.values()))

    assert [asked(known) for known in (frozenset(), frozenset({"s2"}), frozenset({"s2", "s3"}), None)] == [2, 1, 0, 0]


def test_no_more_studies_are_asked_about_than_in_the_training_s_own_questions(promptseg, candidate, studies):
    comparison = ListComparison(promptseg, FineTuning(most_queries=1))
    comparison.ask(candidate, studies[:2], studies[2:])
    assert len(comparison.scores[0].dice["organ"]) == 1


def test_promptseg_goes_on_where_too_few_templates_could_be_shown(promptseg, candidate, studies):
    comparison = ListComparison(promptseg, FineTuning())
    comparison.ask(candidate, studies[:1], studies[1:])
    decision = comparison.decision()
    assert decision["least"] == decided({"promptseg": decision}, "base") == 2
    assert not {"dice", "candidate"} & decision.keys()
    assert decision["reason"].startswith(
        "PromptSeg goes on segmenting what 2 templates or more show: no held-out study"
    )


@pytest.mark.parametrize(
    ("candidate_dice", "least", "words"),
    [
        ({"a": (0.8, 0.9), "b": (0.7,)}, 0, "One-Prompt segments the list in PromptSeg's place"),
        ({"a": (0.8, 0.804), "b": (0.7,)}, 2, "PromptSeg goes on"),  # by less than `least_gain`
        ({"a": (0.7, 0.7), "b": (0.7,)}, 2, "0.750 Dice by PromptSeg, 0.700 by the new weights"),
        ({"a": (0.99, 0.99), "b": (0.6,)}, 2, "b loses 0.100 Dice"),
    ],
)
def test_one_prompt_takes_its_place_where_it_was_better_and_loses_no_structure(promptseg, candidate_dice, least, words):
    comparison = ListComparison(promptseg, FineTuning())
    comparison.scores = (Scores({"a": (0.8, 0.8), "b": (0.7,)}), Scores(candidate_dice))
    decision = comparison.decision()
    assert decision["least"] == least
    assert words in decision["reason"]
    assert decision["dice"] == 0.75


def test_what_was_measured_goes_on_after_a_kill_and_only_with_the_same_promptseg(
    promptseg, candidate, studies, tmp_path
):
    comparison = ListComparison(promptseg, FineTuning())
    comparison.ask(candidate, studies[:2], studies[2:])
    state = json.loads(json.dumps(comparison.state()))
    same = ListComparison(promptseg, FineTuning())
    same.restore(state)
    assert same.scores == comparison.scores
    torch.manual_seed(1)
    save_network(tmp_path / "another.safetensors", PromptSeg(TINY_PROMPTSEG), {})
    another = ListComparison(dataclasses.replace(promptseg, file=tmp_path / "another.safetensors"), FineTuning())
    another.restore(state)
    same.restore({})
    assert another.scores == (Scores(), Scores())
    assert same.scores == comparison.scores


def test_weights_of_another_model_are_refused(promptseg, tiny_weights):
    with pytest.raises(CheckpointError, match="architecture 'promptseg', got 'oneprompt'"):
        ListComparison(dataclasses.replace(promptseg, file=tiny_weights), FineTuning())


@pytest.mark.parametrize(
    ("record", "least"),
    [
        ({"promptseg": {"base": "base", "least": 2}}, 2),
        ({"promptseg": {"base": "base", "least": 0}}, 0),
        ({"promptseg": {"base": "another", "least": 2}}, None),
        ({"promptseg": {"base": "base", "least": "2"}}, None),
        ({"promptseg": "2"}, None),
        ({}, None),
    ],
)
def test_a_decision_is_for_the_weights_that_it_was_made_about(record: dict[str, Any], least: int | None):
    assert decided(record, "base") == least
