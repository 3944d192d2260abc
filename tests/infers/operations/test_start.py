import logging
import logging.handlers

import pytest

from infers.operations.start import share_log_files


@pytest.fixture
def logs(tmp_path):
    """Two loggers whose files end at 200 bytes and which have opened the same one, as MONAI Label configures them."""
    loggers = [logging.getLogger(f"tests.rotation.{number}") for number in range(2)]
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(logging.handlers.RotatingFileHandler(tmp_path / "app.log", maxBytes=200, backupCount=2))
    yield loggers
    for logger in loggers:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


def test_a_log_that_several_loggers_write_ends_and_the_newest_lines_are_in_it(logs, tmp_path):
    share_log_files()
    for turn in range(40):
        for logger in logs:
            logger.warning("line %d of %s", turn, logger.name)
    files = sorted(tmp_path.glob("app.log*"))
    assert [path.name for path in files] == ["app.log", "app.log.1", "app.log.2"]
    assert all(path.stat().st_size <= 200 for path in files)
    newest = files[1].read_text().splitlines() + files[0].read_text().splitlines()
    assert newest[-2:] == ["line 39 of tests.rotation.0", "line 39 of tests.rotation.1"]
