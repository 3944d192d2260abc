"""As much of Slicer's scene as the MONAI Label panel touches: volumes, segmentations, points and boxes.

Voxel arrays are (i, j, k) as the panel indexes them; SimpleITK, which Slicer reads and writes files with too, holds the
volumes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import SimpleITK

from tests.slicer.emulator.widgets import Anything

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world to Slicer's RAS, and back
sitk: Any = SimpleITK


class Node(Anything):
    """Anything in the scene: has a name, and tells observers of events."""

    def __init__(self, kind: str = "") -> None:
        self.kind = kind
        self.name = ""
        self.observers: defaultdict[str, list[Callable[..., Any]]] = defaultdict(list)
        self._display = Anything()

    def GetID(self) -> str:
        return f"{self.kind}{id(self)}"

    def GetName(self) -> str:
        return self.name

    def SetName(self, name: str) -> None:
        self.name = name

    def GetDisplayNode(self) -> Any:
        return self._display

    def AddObserver(self, event: str, callback: Callable[..., Any]) -> int:
        self.observers[event].append(callback)
        return len(self.observers[event])

    def fire(self, event: str) -> None:
        for callback in list(self.observers[event]):
            callback(self, event)


class Volume(Node):
    """An image or a label map with its place."""

    image: Any = None

    def to_ras(self) -> np.ndarray:
        """(4, 4) voxel index to RAS mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.image.GetDirection(), (3, 3)) * np.asarray(self.image.GetSpacing())
        affine[:3, 3] = self.image.GetOrigin()
        return LPS @ affine

    def GetRASToIJKMatrix(self, matrix: Matrix) -> None:
        matrix.values = np.linalg.inv(self.to_ras())

    def GetIJKToRASMatrix(self, matrix: Matrix) -> None:
        matrix.values = self.to_ras()

    def on_grid_of(self, other: Volume) -> np.ndarray:
        """(i, j, k) values where the other volume has its voxels, by place in the patient as Slicer shows them."""
        moved = sitk.Resample(self.image, other.image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        return sitk.GetArrayFromImage(moved).T

    def set_array(self, array: np.ndarray, like: Volume) -> None:
        """Values (i, j, k) on another volume's grid."""
        self.image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        self.image.CopyInformation(like.image)


class Matrix:
    """vtkMatrix4x4."""

    def __init__(self) -> None:
        self.values = np.eye(4)

    def MultiplyDoublePoint(self, point: Sequence[float]) -> list[float]:
        return (self.values @ np.asarray(point, float)).tolist()


class Strings(list[str]):
    """vtkStringArray."""

    InsertNextValue = list.append


class Mutable:
    """vtk.mutable: a text that a call can change."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class OrientedImage:
    """vtkOrientedImageData: here a segment's voxels on the grid of the volume."""

    mask: np.ndarray

    def GetDimensions(self) -> tuple[int, ...]:
        return self.mask.shape

    def GetExtent(self) -> None: ...

    def SetScalarComponentFromDouble(self, i: int, j: int, k: int, component: int, value: float) -> None:
        self.mask[i, j, k] = value

    def FillImage(self, image: OrientedImage, value: int, extent: Any) -> None:
        image.mask[:] = value


class Segment:
    """One named structure of a segmentation."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.mask, self._tags = name, np.zeros(shape, bool), dict[str, str]()

    def GetName(self) -> str:
        return self.name

    def SetTag(self, key: str, text: str) -> None:
        self._tags[key] = text

    def GetTag(self, key: str, text: Mutable) -> None:
        text.text = self._tags.get(key, "")


class Segmentation(Node):
    """vtkMRMLSegmentationNode and its vtkSegmentation in one."""

    def __init__(self, kind: str = "") -> None:
        super().__init__(kind)
        self.segments: dict[str, Segment] = {}
        self.reference: Volume = Volume()

    def SetReferenceImageGeometryParameterFromVolumeNode(self, volume: Volume) -> None:
        self.reference = volume

    def GetSegmentation(self) -> Segmentation:
        return self

    def GetNumberOfSegments(self) -> int:
        return len(self.segments)

    def GetNthSegmentID(self, number: int) -> str:
        return list(self.segments)[number]

    def GetSegment(self, id: str) -> Segment | None:
        return self.segments.get(id)

    def GetSegmentIdBySegmentName(self, name: str) -> str:
        return next((id for id, segment in self.segments.items() if segment.name == name), "")

    def GetSegmentIDs(self, ids: Strings) -> None:
        ids.extend(self.segments)

    def AddEmptySegment(self, id: str, name: str = "", color: Any = None) -> str:
        self.segments[id] = Segment(name or id, self.reference.image.GetSize())
        return id

    def RemoveSegment(self, id: str) -> None:
        del self.segments[id]

    def GetBinaryLabelmapRepresentation(self, id: str, image: OrientedImage) -> None:
        image.mask = self.segments[id].mask.copy()


class SegmentationsLogic:
    """Slicer's way from segments to a label map and back.

    Read in its source: the n-th exported segment has value n, and of a list of segments to update the n-th is given
    the voxels with value n, whatever values the label map holds.
    """

    def ExportSegmentsToLabelmapNode(
        self, node: Segmentation, ids: Strings, labelmap: Volume, reference: Volume
    ) -> None:
        array = np.zeros(reference.image.GetSize(), np.int16)
        for value, id in enumerate(ids, start=1):
            array[node.segments[id].mask] = value
        labelmap.set_array(array, reference)

    def ImportLabelmapToSegmentationNode(
        self, labelmap: Volume, node: Segmentation, ids: Strings | None = None
    ) -> None:
        array = labelmap.on_grid_of(node.reference)
        if ids is None:
            for value in np.unique(array[array != 0]).tolist():
                node.segments[node.AddEmptySegment(f"imported {value}")].mask = array == value
            return
        for value, id in enumerate(ids, start=1):
            if id not in node.segments:
                node.AddEmptySegment(id)
            node.segments[id].mask = array == value


class SegmentEditor(Anything):
    """The editor in the panel, as far as single slices need it."""

    def __init__(self) -> None:
        self._node: Any = None
        self._id = ""

    def setSegmentationNode(self, node: Segmentation) -> None:
        self._node = node

    def setCurrentSegmentID(self, id: str) -> None:
        self._id = id

    def effectByName(self, name: str) -> SegmentEditor:
        return self

    def selectedSegmentLabelmap(self) -> OrientedImage:
        image = OrientedImage()
        image.mask = self._node.segments[self._id].mask
        return image

    def modifySelectedSegmentByLabelmap(self, image: OrientedImage, mode: str) -> None:
        segment = self._node.segments[self._id]
        segment.mask = image.mask | segment.mask if mode == "add" else image.mask


class Points(Node):
    """vtkMRMLMarkupsFiducialNode, in RAS mm."""

    def __init__(self, kind: str = "") -> None:
        super().__init__(kind)
        self.points: list[list[float]] = []
        self._display = self

    def GetActiveControlPoint(self) -> int:
        return len(self.points) - 1

    def GetNumberOfControlPoints(self) -> int:
        return len(self.points)

    def GetNthControlPointPosition(self, number: int) -> list[float]:
        return self.points[number]

    def AddControlPoint(self, point: Sequence[float]) -> None:
        self.points.append(list(point))
        self.fire("PointPositionDefined")

    def RemoveAllControlPoints(self) -> None:
        self.points.clear()


class Region(Node):
    """vtkMRMLMarkupsROINode, in RAS mm."""

    def __init__(self, kind: str = "") -> None:
        super().__init__(kind)
        self.center: list[float] | None = None
        self.size = [0.0, 0.0, 0.0]

    def GetControlPointPlacementComplete(self) -> bool:
        return self.center is not None

    def GetCenter(self, center: list[float]) -> None:
        center[:] = self.center or [0.0, 0.0, 0.0]

    def GetSize(self) -> list[float]:
        return self.size

    def RemoveAllControlPoints(self) -> None:
        self.center = None


class Parameters(Node):
    """The panel's parameter node."""

    def __init__(self) -> None:
        super().__init__("parameters")
        self._values: dict[str, str] = {}

    def GetParameter(self, key: str) -> str:
        return self._values.get(key, "")

    def SetParameter(self, key: str, value: str) -> None:
        self._values[key] = value

    def GetNodeReference(self, key: str) -> str:
        return self._values.get(key, "")

    def SetNodeReferenceID(self, key: str, value: str) -> None:
        self._values[key] = value


_KINDS: dict[str, type[Node]] = {
    "vtkMRMLScalarVolumeNode": Volume,
    "vtkMRMLLabelMapVolumeNode": Volume,
    "vtkMRMLSegmentationNode": Segmentation,
    "vtkMRMLMarkupsFiducialNode": Points,
    "vtkMRMLMarkupsROINode": Region,
}


class Scene(Node):
    """vtkMRMLScene: tells when a node comes and when everything goes."""

    StartCloseEvent, EndCloseEvent, NodeAddedEvent = "start", "end", "added"

    def __init__(self) -> None:
        super().__init__("scene")
        self.nodes: list[Node] = []

    def CreateNodeByClass(self, kind: str) -> Node:
        return _KINDS.get(kind, Node)(kind)

    def AddNode(self, node: Node) -> Node:
        self.nodes.append(node)
        self.fire(self.NodeAddedEvent)
        return node

    def AddNewNodeByClass(self, kind: str) -> Node:
        return self.AddNode(self.CreateNodeByClass(kind))

    def RemoveNode(self, node: Node) -> None:
        if node in self.nodes:
            self.nodes.remove(node)

    def by_class(self, kind: str) -> list[Node]:
        return [node for node in self.nodes if node.kind == kind]

    def GetFirstNodeByClass(self, kind: str) -> Node | None:
        return next(iter(self.by_class(kind)), None)

    def GetSingletonNode(self, tag: str, kind: str) -> Node | None:
        return self.GetFirstNodeByClass(kind)

    def Clear(self, singletons: int = 0) -> None:
        self.fire(self.StartCloseEvent)
        self.nodes.clear()
        self.fire(self.EndCloseEvent)
