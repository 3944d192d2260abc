from infers.study_list.changes import Change, Changes


def test_everyone_who_listens_hears_of_every_change_in_turn():
    changes, heard = Changes(), []
    changes.listen(lambda change: heard.append(("first", change)))
    changes.listen(lambda change: heard.append(("second", change)))
    changes.label_saved("s0")
    changes.decided()
    changes.noticed()
    expected = [Change(decided=True, saved="s0"), Change(decided=True), Change(decided=False)]
    assert heard == [(who, change) for change in expected for who in ("first", "second")]
