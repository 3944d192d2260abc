import json
from functools import partial

import pytest

from scripts.servers.client import Server
from scripts.simulate import main
from tests.samples import organ_volume, write_nifti

COUNT = 3


@pytest.fixture
def folder(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for number in range(COUNT):
        image, mask = organ_volume(number)
        write_nifti(tmp_path / "images" / f"s{number}.nii.gz", image)
        write_nifti(tmp_path / "labels" / f"s{number}.nii.gz", mask)
    return tmp_path


def simulate(folder, *options):
    paths = ["--studies", folder / "images", "--truth", folder / "labels", "--output", folder / "out"]
    return main([str(word) for word in (*paths, *options)])


def test_all_four_ways_finish_every_study_and_later_runs_repeat_nothing(
    folder, tiny_weights, nursery, monkeypatch, capsys
):
    monkeypatch.setattr("scripts.measure.simulation.ways.Server", partial(Server, launch=nursery.launch))
    options = ("--weights", tiny_weights, "--most-clicks", "1")
    assert simulate(folder, *options) == 0
    found = json.loads((folder / "out" / "simulation.json").read_text())["ways"]
    assert list(found) == ["hand", "interactive", "random", "full"]
    for way, figures in found.items():
        assert figures["opened"] + figures["unseen"] == COUNT, way
        assert figures["goals"]["0.85"]["clicks"] <= figures["goals"]["0.9"]["clicks"], way
    assert [found[way]["unseen"] for way in ("hand", "interactive", "random")] == [0, 0, 0]
    assert found["interactive"]["goals"]["0.9"]["limited"] == ["s0", "s1", "s2"]  # an untrained network cannot help
    assert (folder / "out" / "clicks.png").read_bytes().startswith(b"\x89PNG")
    with monkeypatch.context() as patch:
        patch.setattr("scripts.measure.simulation.ways.Server", None)  # nobody may start one now
        assert simulate(folder, *options) == 0
    assert json.loads((folder / "out" / "simulation.json").read_text())["ways"] == found
    assert "hit before 0.9 in s0, s1, s2" in capsys.readouterr().out
    direct = folder / "direct"
    assert simulate(folder, *options, "--direct", "--ways", "interactive", "random", "--output", direct) == 0
    without_server = json.loads((direct / "simulation.json").read_text())["ways"]
    assert without_server == {way: found[way] for way in ("interactive", "random")}
    again = folder / "again"
    assert simulate(folder, *options, "--ways", "hand", "--output", again, "--together", folder / "out") == 0
    both = json.loads((again / "simulation.json").read_text())
    assert both["studies"] == both["ways"]["hand"]["opened"] == 2 * COUNT
    assert both["ways"]["hand"]["goals"]["0.9"]["clicks"] == 2 * found["hand"]["goals"]["0.9"]["clicks"]
    assert simulate(folder, *options, "--ways", "hand", "--together", folder / "elsewhere") == 1
    assert "no finished way 'hand'" in capsys.readouterr().err
    # A run that was interrupted goes on
    log = folder / "out" / "random" / "log.json"
    entries = json.loads(log.read_text())
    (folder / "out" / "random" / "unseen.json").unlink()
    log.write_text(json.dumps(entries[:1]))
    assert simulate(folder, *options) == 0
    assert json.loads(log.read_text())[0] == entries[0]
    assert [entry["id"] for entry in json.loads(log.read_text())] == [entry["id"] for entry in entries]


def test_the_full_loop_needs_a_server(folder, capsys):
    with pytest.raises(SystemExit):
        simulate(folder, "--direct", "--ways", "full")
    assert "need a server" in capsys.readouterr().err


def test_studies_without_a_truth_are_refused(folder, capsys):
    for path in (folder / "labels").iterdir():
        path.unlink()
    assert simulate(folder) == 1
    assert "need a truth" in capsys.readouterr().err
