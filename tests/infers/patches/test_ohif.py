import pytest

from infers.errors import NotFound
from infers.patches.ohif import FOLDER, ohif_file


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ohif" / "assets").mkdir(parents=True)
    for name in ("index.html", "app.js", "assets/icon.png"):
        (tmp_path / "ohif" / name).write_text(name)
    (tmp_path / "secret.txt").write_text("not OHIF's")
    return tmp_path / "ohif"


@pytest.mark.parametrize("path", ["app.js", "assets/icon.png"])
def test_a_file_is_given_also_from_a_sub_folder(folder, path):
    assert ohif_file(path, folder).read_text() == path


@pytest.mark.parametrize("path", ["", "monai-label", "viewer/dicomweb", "assets"])
def test_the_pages_that_ohif_makes_up_begin_with_its_start_page(folder, path):
    assert ohif_file(path, folder).name == "index.html"


@pytest.mark.parametrize("path", ["assets/other.png", "other.js", "../secret.txt", "../other", "/etc/passwd"])
def test_what_is_not_there_or_elsewhere_is_not_found(folder, path):
    with pytest.raises(NotFound, match="OHIF has no file"):
        ohif_file(path, folder)


def test_the_ohif_of_the_installed_monai_label_is_there():
    assert ohif_file("").is_file()
    assert ohif_file("assets/favicon.ico") == (FOLDER / "assets" / "favicon.ico").resolve()
