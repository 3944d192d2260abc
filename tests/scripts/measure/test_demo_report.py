from scripts.measure.demo_report import Result, short, summarise, table

LONG = "2.25.114810103918255505111834323990477670425"


def results():
    return [
        Result("a", "t", 1.5, 0.8, {"liver": (0.9, 0.5), "spleen": (0.7, None)}),
        Result(LONG, "t", 2.5, None, {"liver": (0.6, 0.3), "spleen": (None, None)}),
        Result("unknown", "t", 1.0, 0.5, {}),
    ]


def test_a_study_counts_as_the_mean_over_its_labels_and_the_list_as_the_mean_over_studies():
    summary = summarise(results())
    assert [study["dice"] for study in summary["studies"]] == [80.0, 60.0, None]
    assert [study["dice_copy"] for study in summary["studies"]] == [50.0, 30.0, None]
    assert summary["mean_dice"] == 70.0
    assert summary["mean_dice_copy"] == 40.0


def test_json_names_each_study_its_template_and_its_labels():
    study = summarise(results())["studies"][0]
    assert study == {
        "id": "a",
        "template": "t",
        "dice": 80.0,
        "dice_copy": 50.0,
        "predicted_dice": 80.0,
        "seconds": 1.5,
        "labels": {"liver": {"dice": 90.0, "dice_copy": 50.0}, "spleen": {"dice": 70.0, "dice_copy": None}},
    }


def test_without_any_truth_the_means_are_null():
    summary = summarise([Result("unknown", "t", 1.0, 0.5, {})])
    assert summary["mean_dice"] is None
    assert summary["mean_dice_copy"] is None


def test_table_has_a_row_a_study_in_line_and_the_mean_last():
    lines = table(results()).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["a", "80.0", "50.0", "1.5", "80.0"]
    assert lines[3].split() == ["unknown", "-", "-", "1.0", "50.0"]
    assert lines[-1].split() == ["mean", "70.0", "40.0", "1.7", "65.0"]


def test_long_ids_are_shortened_so_that_they_still_differ():
    other = LONG[:-1] + "6"
    assert len(short(LONG)) <= 24
    assert short(LONG) != short(other)
    assert short("phantom_001") == "phantom_001"
