import threading

import nibabel
import numpy as np
import pytest

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt, PromptError, PromptType
from lib.inference.templates import LOADED, Template, TemplateBank, TemplateError, study_descriptor


def study(seed=0, shape=(8, 9, 5)):
    return Image(np.random.default_rng(seed).normal(size=shape), np.diag([1.0, 1.0, 3.0, 1.0]))


def label_with(*values, shape=(8, 9, 5)):
    label = np.zeros(shape, np.uint8)
    for place, value in enumerate(values):
        label[place, 2:5, 1:3] = value
    return label


def liver_template(id="a", seed=0, **changes):
    return Template(**{"id": id, "image": study(seed), "label": label_with(2), "names": {"liver": 2}, **changes})


def test_painted_structure_is_a_mask_prompt():
    template = Template("a", study(), label_with(3, 7), {"liver": 3, "spleen": 7, "kidney": 9})
    assert template.structures == ("liver", "spleen")
    assert template.prompt_types("spleen") == {PromptType.SEGLAB}
    np.testing.assert_array_equal(template.prompt_of("spleen").mask, template.label == 7)


def test_prompted_structure_keeps_its_prompt_and_paint_comes_first():
    click = Prompt(foreground=((1, 2, 3),))
    template = Template("a", study(), label_with(3), {"liver": 3}, {"spleen": click, "liver": click})
    assert set(template.structures) == {"liver", "spleen"}
    assert template.painted == {"liver"}
    assert template.prompt_of("spleen") is click
    assert template.prompt_types("liver") == {PromptType.SEGLAB}


def test_structure_that_is_not_shown_is_refused_with_those_that_are():
    with pytest.raises(TemplateError, match=r"a shows \['liver'\], not 'spleen'"):
        liver_template().prompt_of("spleen")


@pytest.mark.parametrize("label", [None, label_with(), label_with(5)])
def test_template_that_shows_nothing_is_refused(label):
    with pytest.raises(TemplateError, match="must show at least one structure"):
        liver_template(label=label)


def test_label_that_does_not_fit_the_image_is_refused():
    with pytest.raises(TemplateError, match=r"\(8, 9, 5\), got uint8 in \(8, 9, 6\)"):
        liver_template(label=np.zeros((8, 9, 6), np.uint8))
    with pytest.raises(TemplateError, match="integers"):
        liver_template(label=label_with(2).astype(float))


def test_prompt_outside_the_template_is_refused():
    with pytest.raises(PromptError, match="outside"):
        liver_template(prompts={"spleen": Prompt(foreground=((8, 0, 0),))})


def test_checksum_follows_label_names_prompts_and_image():
    click = Prompt(foreground=((1, 2, 3),))
    variants = [
        liver_template(),
        liver_template(label=label_with(2, 2)),
        liver_template(names={"left liver": 2}),
        liver_template(prompts={"spleen": click}),
        liver_template(prompts={"spleen": Prompt(foreground=((1, 2, 4),))}),
        liver_template(seed=1),
    ]
    assert len({template.checksum for template in variants}) == len(variants)
    assert liver_template(id="b").checksum == variants[0].checksum
    assert liver_template(checksum="given").checksum == "given"


class Shelf:
    """Templates by id that counts how often each is loaded."""

    def __init__(self, *templates):
        self.templates = {template.id: template for template in templates}
        self.loads = []

    def __call__(self, id):
        self.loads.append(id)
        return self.templates[id]

    @property
    def records(self):
        return {id: template.checksum for id, template in self.templates.items()}


def bank_of(*templates, room=LOADED):
    shelf = Shelf(*templates)
    bank = TemplateBank(shelf, room=room)
    bank.refresh(shelf.records)
    return bank, shelf


def test_bank_loads_a_template_once_until_it_changes():
    bank, shelf = bank_of(liver_template())
    assert bank.get("a") is bank.get("a")
    assert shelf.loads == ["a"]
    shelf.templates["a"] = liver_template(label=label_with(2, 2))
    bank.refresh(shelf.records)
    assert bank.get("a").label.sum() > liver_template().label.sum()
    assert shelf.loads == ["a", "a"]


def test_bank_forgets_what_is_least_used():
    size = liver_template().image.array.nbytes + liver_template().label.nbytes
    bank, shelf = bank_of(liver_template("a"), liver_template("b", 1), room=2 * size - 1)
    for id in ("a", "b", "b", "a"):
        bank.get(id)
        assert bank.held == size
    assert shelf.loads == ["a", "b", "a"]


def test_a_template_larger_than_the_room_is_the_only_one_there():
    bank, shelf = bank_of(liver_template("a"), liver_template("b", 1), room=1)
    for id in ("a", "a", "b", "a"):
        bank.get(id)
    assert shelf.loads == ["a", "b", "a"]


def test_unknown_template_is_refused_with_the_known_ones():
    bank, _ = bank_of(liver_template())
    with pytest.raises(TemplateError, match=r"\['a'\], got 'z'"):
        bank.get("z")


def test_removed_template_is_gone():
    bank, _ = bank_of(liver_template("a"), liver_template("b", 1))
    bank.get("a")
    bank.refresh({"b": bank.get("b").checksum})
    assert bank.ids == ("b",)
    assert len(bank) == 1
    assert [t.id for t in bank.select(study(), "liver", 5)] == ["b"]


def test_the_most_similar_template_comes_first_however_it_is_stored():
    bank, _ = bank_of(*(liver_template(f"t{seed}", seed) for seed in range(4)))
    noisy = study(2).array + 0.3 * np.random.default_rng(9).normal(size=(8, 9, 5))
    stored = nibabel.Nifti1Image(noisy, study().affine)
    turn = nibabel.orientations.axcodes2ornt(("S", "L", "A"))
    turned = stored.as_reoriented(turn)
    query = Image(np.asarray(turned.dataobj), turned.affine)
    assert [t.id for t in bank.select(query, "liver", 1)] == ["t2"]
    assert len(bank.select(query, "liver", 3)) == 3


def test_only_templates_that_show_the_structure_are_selected():
    other = Template("s", study(1), label_with(1), {"spleen": 1})
    bank, _ = bank_of(liver_template(), other)
    assert [t.id for t in bank.select(study(1), "liver", 4)] == ["a"]
    assert bank.select(study(), "kidney", 4) == []
    assert bank.structures == ("liver", "spleen")


def test_bank_serves_several_threads():
    bank, shelf = bank_of(*(liver_template(f"t{seed}", seed) for seed in range(6)), room=10_000)
    found, errors = [], []

    def work(seed):
        try:
            for _ in range(20):
                bank.refresh(shelf.records)
                found.append((seed, bank.select(study(seed), "liver", 1)[0].id))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(id == f"t{seed}" for seed, id in found)


def test_flat_and_volume_descriptors_have_one_length():
    assert study_descriptor(study()).shape == study_descriptor(study(shape=(30, 20))).shape
    assert np.linalg.norm(study_descriptor(study())) == pytest.approx(1, abs=1e-5)
