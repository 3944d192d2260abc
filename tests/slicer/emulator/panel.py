"""The released MONAI Label extension itself, loaded outside Slicer and driven as a person drives its panel.

Its files come from the wheel of MONAI Label (`plugins/slicer`) and are checked against the hashes of the release. What
it asks of Slicer is answered by `tests.slicer.emulator.scene` and `tests.slicer.emulator.widgets`; what it asks of the
network is real.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import itertools
import os
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.slicer.emulator.scene import (
    Matrix,
    Mutable,
    OrientedImage,
    Parameters,
    Scene,
    SegmentationsLogic,
    SegmentEditor,
    Strings,
    Volume,
    sitk,
)
from tests.slicer.emulator.widgets import Anything, ComboBox, Widget, load_ui, qt_module

RELEASED = Path(sys.prefix) / "monailabel" / "plugins" / "slicer" / "MONAILabel"  # where the wheel puts it
RELEASE = "MONAI Label 0.8.5"
SHA256 = {
    "MONAILabel.py": "559e6434daf8432c8f1d5d0799cda2190bdfb941dcbe7037081bc04a116b593c",
    "MONAILabelLib/client.py": "5e9bc0d4d36455a1a606eeeae4289e038a5e29ccf6658bf934bae72891c282af",
}
SETTINGS = {  # of the extension's page in Slicer's settings, as they are at first
    "MONAILabel/autoRunSegmentationOnNextSample": False,
    "MONAILabel/allowOverlappingSegments": False,
    "MONAILabel/showSegmentsIn3D": False,
}


class PanelError(RuntimeError):
    """Another extension than the released one, or an error that the panel showed its user."""


def check_release(folder: Path) -> None:
    """Raises PanelError where a file is not that of the release."""
    for name, wanted in SHA256.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest() if (folder / name).is_file() else "no file"
        if found != wanted:
            raise PanelError(f"{folder / name} must be that of {RELEASE} (SHA-256 {wanted}), got {found}")


class Panel:
    """The extension's panel, open in an empty scene.

    Args:
        url: the server's address, as typed into the panel.
        folder: the extension's folder.

    Attributes:
        widget: the extension's own `MONAILabelWidget`.
        ui: its widgets by name.
        scene: what Slicer shows.
        client: the extension's own module of HTTP calls.
        on_sleep: called in place of the panel's pauses, with their seconds.
    """

    def __init__(self, url: str, folder: Path = RELEASED) -> None:
        check_release(folder)
        self.scene = Scene()
        self._files = Path(tempfile.mkdtemp(prefix="slicer-"))
        self._shown: list[str] = []
        settings = {"MONAILabel/serverUrl": url, **SETTINGS}
        module = _load(folder, self._modules(folder, settings))
        # The panel and the server are on two machines: it cannot see the server's files, and has to ask for them
        seen = SimpleNamespace(**{**vars(os.path), "exists": lambda path: os.path.exists(path) and self._mine(path)})
        vars(module).update(
            os=SimpleNamespace(path=seen, unlink=os.unlink),
            tempfile=SimpleNamespace(NamedTemporaryFile=self._temporary),  # names that repeat
            time=SimpleNamespace(time=time.time, sleep=lambda seconds: self.on_sleep(seconds)),
        )
        self.on_sleep: Callable[[float], None] = time.sleep
        self._numbers = itertools.count(1)
        self.client: Any = sys.modules[module.MONAILabelClient.__module__]
        self.widget = module.MONAILabelWidget()
        with _quiet():
            self.widget.setup()
        self.ui = self.widget.ui

    # What a person does

    def press(self, button: str) -> None:
        """Click a button. Raises PanelError with what the panel shows where that fails."""
        with _quiet():
            getattr(self.ui, button).click()
        self.complain()

    def choose(self, box: str, text: str) -> None:
        """Choose in a combo box. Raises PanelError where it does not offer that."""
        offered = self.choices(box)
        if text not in offered:
            raise PanelError(f"{box} does not offer {text!r}, but {offered}")
        with _quiet():
            getattr(self.ui, box).setCurrentText(text)
        self.complain()

    def choices(self, box: str) -> list[str]:
        """What a combo box offers."""
        found: ComboBox = getattr(self.ui, box)
        return [found.itemText(number) for number in range(found.count)]

    def click(self, voxel: Sequence[int], inside: bool = True) -> None:
        """Place a foreground or background point; with *auto update* on, the panel asks the model at once."""
        node = self.widget.dgPositivePointListNode if inside else self.widget.dgNegativePointListNode
        with _quiet():
            node.AddControlPoint(self.ras(voxel))
        self.complain()

    def draw_box(self, first: Sequence[int], last: Sequence[int], place: str = "sam2PlaceWidget") -> None:
        """Place a region of interest: an upright box in the patient, from one voxel to another."""
        region = getattr(self.ui, place).currentNode()
        a, b = np.asarray(self.ras(first)), np.asarray(self.ras(last))
        region.center, region.size = ((a + b) / 2).tolist(), np.abs(a - b).tolist()

    def add_segment(self, name: str) -> None:
        """Segment editor: Add, and rename."""
        self.segmentation.AddEmptySegment(name, name)
        with _quiet():
            self.widget.updateGUIFromParameterNode()

    def remove_segments(self) -> None:
        """Segment editor: Remove, until none is left."""
        self.segmentation.segments.clear()

    def paint(self, name: str, mask: np.ndarray) -> None:
        """Segment editor: paint exactly these voxels (i, j, k)."""
        self.segmentation.segments[name].mask = np.asarray(mask, bool).copy()

    def add_data(self, path: Path) -> None:
        """Drag an image file into an empty scene."""
        with _quiet():
            self.scene.Clear()
            self._load_volume(str(path))
        self.complain()

    def wait_a_moment(self) -> None:
        """Let the panel's timer tick once."""
        with _quiet():
            self.widget.timer.emit("timeout")
        self.complain()

    # What a person sees

    @property
    def segmentation(self) -> Any:
        return self.widget._segmentNode

    def mask(self, name: str) -> np.ndarray:
        """A segment's voxels (i, j, k) on the volume's grid."""
        return self.segmentation.segments[name].mask

    def ras(self, voxel: Sequence[int]) -> list[float]:
        """Where a voxel of the volume lies, RAS mm."""
        return (self.widget._volumeNode.to_ras() @ [*voxel, 1])[:3].tolist()

    def close(self) -> None:
        """Let go of what the panel left open."""
        with _quiet():
            gc.collect()

    def complain(self) -> None:
        """Raises PanelError if a message box with an error or a warning came up."""
        if self._shown:
            raise PanelError("; ".join(self._shown))

    # Slicer

    def _modules(self, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
        def setting(key: str, default: Any, converter: Any = None) -> Any:
            value = settings.get(key, default)
            return converter(value) if converter else value

        def show(text: str, **details: Any) -> None:
            self._shown.append(f"{text} {details.get('detailedText', '')}".strip())

        widget_base = type("ScriptedLoadableModuleWidget", (_ModuleWidget,), {"folder": folder})
        logic_base = type("ScriptedLoadableModuleLogic", (_ModuleLogic,), {"scene": self.scene})
        logic = SegmentationsLogic()
        util = SimpleNamespace(
            settingsValue=setting,
            toBool=bool,
            tempDirectory=lambda name: str(self._files),
            loadUI=_load_ui,
            childWidgetVariables=lambda widget: widget.named,
            errorDisplay=show,
            warningDisplay=show,
            infoDisplay=lambda *words, **details: None,
            confirmOkCancelDisplay=lambda *words, **details: True,
            createProgressDialog=lambda **details: Anything(),
            mainWindow=Anything(),
            saveNode=lambda node, path: sitk.WriteImage(node.image, path),
            loadVolume=self._load_volume,
            getNodesByClass=self.scene.by_class,
            VTKObservationMixin=_Observing,
        )
        slicer = SimpleNamespace(
            mrmlScene=self.scene,
            app=Anything(),
            util=util,
            modules=SimpleNamespace(segmentations=SimpleNamespace(logic=lambda: logic)),
            vtkOrientedImageData=OrientedImage,
            vtkMRMLMarkupsNode=SimpleNamespace(PointPositionDefinedEvent="PointPositionDefined"),
            vtkMRMLSegmentEditorNode=SimpleNamespace(OverwriteNone=0),
            qSlicerSegmentEditorAbstractEffect=SimpleNamespace(ModificationModeAdd="add", ModificationModeSet="set"),
            vtkSlicerSegmentationsModuleLogic=SimpleNamespace(MODE_REPLACE=0, SetBinaryLabelmapToSegment=_set_segment),
        )
        bases = {
            "ScriptedLoadableModule": type("ScriptedLoadableModule", (Anything,), {}),
            "ScriptedLoadableModuleWidget": widget_base,
            "ScriptedLoadableModuleLogic": logic_base,
            "ScriptedLoadableModuleTest": type("ScriptedLoadableModuleTest", (), {}),
        }
        vtk = SimpleNamespace(
            vtkMatrix4x4=Matrix, vtkStringArray=Strings, mutable=Mutable, vtkCommand=SimpleNamespace(ModifiedEvent="m")
        )
        return {
            "ctk": SimpleNamespace(ctkSettingsPanel=type("ctkSettingsPanel", (), {})),
            "qt": qt_module(settings),
            "SampleData": SimpleNamespace(SampleDataLogic=lambda: SimpleNamespace(downloadFromURL=self._download)),
            "sitkUtils": SimpleNamespace(PushVolumeToSlicer=self._push),
            "slicer": slicer,
            "slicer.i18n": SimpleNamespace(tr=str, translate=lambda context, text: text),
            "slicer.ScriptedLoadableModule": SimpleNamespace(**bases),
            "slicer.util": util,
            "vtk": vtk,
            "vtkSegmentationCore": SimpleNamespace(vtkOrientedImageDataResample=OrientedImage()),
        }

    def _load_volume(self, path: str) -> Volume:
        return self._push(sitk.ReadImage(path), Path(path).name.split(".")[0], "vtkMRMLScalarVolumeNode")

    def _push(self, image: Any, name: str | None = None, className: str = "vtkMRMLScalarVolumeNode") -> Volume:
        node: Any = self.scene.CreateNodeByClass(className)
        node.image, node.name = image, name or "volume"
        self.scene.AddNode(node)
        return node

    def _download(self, nodeNames: str, fileNames: str, uris: str, checksums: str | None) -> list[Volume]:
        path = self._files / fileNames
        with urllib.request.urlopen(uris) as answer:
            path.write_bytes(answer.read())
        if checksums:
            kind, _, wanted = checksums.partition(":")
            found = hashlib.new(kind.lower(), path.read_bytes()).hexdigest()
            if found != wanted:
                raise PanelError(f"the downloaded image has the checksum {found}, the server said {checksums}")
        volume = self._load_volume(str(path))
        volume.SetName(nodeNames)
        return [volume]

    def _mine(self, path: str) -> bool:
        return Path(path).is_relative_to(self._files)

    def _temporary(self, suffix: str = "", dir: str = "") -> Any:
        return SimpleNamespace(name=str(Path(dir) / f"tmp{next(self._numbers):04d}{suffix}"))


class _ModuleWidget:
    folder: Path

    def __init__(self, parent: Any = None) -> None:
        self.parent = SimpleNamespace(isEntered=True)
        self.layout = Anything()

    def setup(self) -> None: ...

    def resourcePath(self, name: str) -> str:
        return str(self.folder / "Resources" / name)


class _ModuleLogic:
    scene: Scene

    def getParameterNode(self) -> Any:
        found = self.scene.GetFirstNodeByClass("parameters")
        if found is None:
            found = Parameters()
            self.scene.nodes.append(found)
        return found


class _Observing:
    def addObserver(self, node: Any, event: str, callback: Any) -> None:
        node.AddObserver(event, callback)

    def removeObserver(self, node: Any, event: str, callback: Any) -> None:
        if callback in node.observers[event]:
            node.observers[event].remove(callback)


def _load_ui(path: str) -> Widget:
    loaded = Widget()
    loaded.named = load_ui(path)
    if hasattr(loaded.named, "embeddedSegmentEditorWidget"):
        loaded.named.embeddedSegmentEditorWidget = SegmentEditor()
    return loaded


def _set_segment(image: OrientedImage, node: Any, id: str, mode: int) -> None:
    node.segments[id].mask = np.asarray(image.mask, bool)


@contextmanager
def _quiet() -> Iterator[None]:
    """The panel prints much, and leaves files and connections for Python to close; what it shows is what counts."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def _load(folder: Path, modules: dict[str, Any]) -> ModuleType:
    """The panel's module, imported with these in place of Slicer's, which are gone again afterwards."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    sys.path.insert(0, str(folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it parses answers with `cgi`
            spec = importlib.util.spec_from_file_location("slicer_monailabel", folder / "MONAILabel.py")
            if spec is None or spec.loader is None:
                raise PanelError(f"{folder} holds no MONAILabel.py")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
        for name, former in before.items():
            sys.modules.pop(name)
            if former is not None:
                sys.modules[name] = former
    return module
