import logging
import socket

import pytest

from infers.operations import exposure as module
from infers.operations.exposure import exposure, exposure_now, listened_to, log_once_listening
from tests.infers.fakes import wait_until


@pytest.mark.parametrize(("addresses", "login", "encrypted", "origins", "words"), [
    (["127.0.0.1", "::1"], False, False, [], []),
    (["0.0.0.0"], False, False, [], ["asks for no password", "unencrypted"]),
    (["127.0.0.1", "192.168.1.7"], False, True, [], ["listens on 192.168.1.7 and asks"]),
    (["::"], True, False, [], ["unencrypted"]),
    (["::"], True, True, [], []),
    (["127.0.0.1"], False, False, ["https://ward.example"], ["Pages of https://ward.example may do"]),
])  # fmt: skip
def test_what_is_open_is_said_in_a_sentence_each(addresses, login, encrypted, origins, words):
    found = exposure(addresses, login, encrypted, origins)
    assert len(found) == len(words)
    for sentence, part in zip(found, words, strict=True):
        assert part in sentence


def test_the_log_says_it_once_the_process_listens(caplog, monkeypatch):
    listened_to.cache_clear()
    monkeypatch.setattr(module, "LOOK", 0.01)
    caplog.set_level(logging.INFO)
    with socket.socket() as listener:
        with pytest.raises(LookupError):
            exposure_now()
        log_once_listening(exposure_now)
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        wait_until(lambda: "asks for no password" in caplog.text)
        assert listened_to() == {"0.0.0.0"}
    listened_to.cache_clear()
