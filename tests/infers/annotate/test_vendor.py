"""What is vendored is what it says that it is."""

import hashlib
from pathlib import Path

from infers.annotate.endpoints import STATIC

VENDOR = Path(STATIC) / "vendor"


def test_niivue_is_the_file_whose_checksum_is_written_down():
    digest = hashlib.sha256((VENDOR / "niivue.js").read_bytes()).hexdigest()
    assert digest in (VENDOR / "README.md").read_text()
    assert "BSD 2-Clause" in (VENDOR / "LICENSE").read_text()
