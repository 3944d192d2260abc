import os
from types import SimpleNamespace

from infers.patches.settings import apply_settings


class Settings(SimpleNamespace):
    """MONAI Label's settings, of which some were set by the user."""

    def __init__(self, **chosen):
        super().__init__(**chosen)
        self.model_fields_set = set(chosen)


def test_what_the_user_set_is_left_and_the_rest_also_reaches_subprocesses(monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_SEARCH_FILTER", '{"Modality": "CT"}')
    monkeypatch.setenv("MONAI_LABEL_TRACKING_ENABLED", "true")
    for name in ("MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", "MONAI_LABEL_AUTO_UPDATE_SCORING", "PATH"):
        monkeypatch.setenv(name, "to be restored")
    for name in ("MONAI_LABEL_DATASTORE_FILE_EXT", "MONAI_LABEL_TRACKING_URI"):
        monkeypatch.setenv(name, "to be restored")
    settings = Settings(MONAI_LABEL_DICOMWEB_SEARCH_FILTER={"Modality": "CT"})
    apply_settings(settings, "/app")
    assert settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER == {"Modality": "CT"}
    assert os.environ["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"] == '{"Modality": "CT"}'
    assert settings.MONAI_LABEL_TRACKING_ENABLED is False
    assert os.environ["MONAI_LABEL_TRACKING_ENABLED"] == "false"
    assert os.environ["MONAI_LABEL_DICOMWEB_CACHE_EXPIRY"] == "2"
    assert os.environ["MONAI_LABEL_TRACKING_URI"] == "sqlite:////app/model/mlflow.db"
