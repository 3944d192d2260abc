"""One-Prompt for MONAI Label: registers tasks, nothing else.

`monailabel start_server --app apps/oneprompt --studies S` runs this file; so does every training and batch process.
"""

import sys
from pathlib import Path

# MONAI Label puts this folder on the path, not the repository, and only while it loads this file.
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from infers.environment import check_packages, put_root_first  # noqa: E402

put_root_first(ROOT)  # training processes inherit it

from monailabel.config import settings  # noqa: E402
from monailabel.interfaces.app import MONAILabelApp  # noqa: E402

from infers.assembly import Assembly  # noqa: E402
from infers.patches.settings import apply_settings  # noqa: E402
from lib import VERSION  # noqa: E402
from trainers.list_unet import ListUNetTrainer  # noqa: E402
from trainers.oneprompt import OnePromptTrainer  # noqa: E402
from trainers.process_priority import stay_behind  # noqa: E402
from trainers.promptseg import PromptSegTrainer  # noqa: E402
from trainers.uniseg import UniSegTrainer  # noqa: E402


class OnePromptApp(MONAILabelApp):
    """The app as MONAI Label sees it. MONAI Label takes the first direct subclass of `MONAILabelApp` it finds here."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        check_packages()
        apply_settings(settings, app_dir)
        self.assembly = Assembly(app_dir, studies, conf)
        super().__init__(
            app_dir, studies, conf, "One-Prompt", "Prompt one study, and the rest of the list is segmented", VERSION
        )

    def init_datastore(self):
        return self.assembly.datastore

    def init_infers(self):
        return self.assembly.infers

    def init_trainers(self):
        return {
            "oneprompt": OnePromptTrainer(**self.assembly.for_training()),  # clients read the first one's statistics
            "oneprompt_specialist": ListUNetTrainer(**self.assembly.for_list_unet()),
            "promptseg": PromptSegTrainer(**self.assembly.for_promptseg()),
            "uniseg": UniSegTrainer(**self.assembly.for_uniseg()),
        }

    def init_scoring_methods(self):
        return self.assembly.scoring()

    def init_strategies(self):
        return self.assembly.strategies()

    def init_batch_infer(self):
        return self.assembly.batch_infer()

    def infer(self, request, datastore=None):
        return self.assembly.inference.run(request)

    def train(self, request):
        stay_behind()
        return super().train(request)

    def next_sample(self, request):
        return self.assembly.images.next_sample(super().next_sample(request))

    def on_init_complete(self):
        self.assembly.model.load()  # before MONAI Label starts threads, which would outlive the refusal of bad weights
        super().on_init_complete()
        self.assembly.serve(self.sessions())
