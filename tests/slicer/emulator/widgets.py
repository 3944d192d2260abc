"""As much of Qt as the MONAI Label panel touches: widgets that hold a value and call back, and draw nothing."""

from __future__ import annotations

import inspect
import xml.etree.ElementTree
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Anything:
    """Takes every call and every attribute, for what only changes how something looks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Anything()

    def __getattr__(self, name: str) -> Any:
        return Anything()


class Signal:
    """A Qt signal: calls what was connected, each slot with as many arguments as it takes."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        self._slots.append(slot)

    def emit(self, *values: Any) -> None:
        for slot in list(self._slots):
            slot(*values[: len(inspect.signature(slot).parameters)])


class Widget(Anything):
    """Any widget: a button that can be clicked, a box that can be checked, a bar with a value."""

    def __init__(self, *args: Any) -> None:
        self.signals: defaultdict[str, Signal] = defaultdict(Signal)
        self.enabled, self.checked, self.value = True, False, 0
        self.currentPath, self.placeModeEnabled = "", False
        self.clicked, self.stateChanged = self.signals["clicked"], self.signals["stateChanged"]
        self.named: Any = None  # of a loaded Designer file: its widgets
        self._node: Any = None
        self._blocked = False

    def connect(self, signal: str, slot: Callable[..., Any]) -> None:
        self.signals[signal.partition("(")[0]].connect(slot)

    def emit(self, signal: str, *values: Any) -> None:
        if not self._blocked:
            self.signals[signal].emit(*values)

    def click(self) -> None:
        """What a person does with a button. Raises RuntimeError where the panel does not let them."""
        if not self.enabled:
            raise RuntimeError("the panel has disabled this button")
        self.emit("clicked", False)

    def blockSignals(self, blocked: bool) -> bool:
        before, self._blocked = self._blocked, blocked
        return before

    def setEnabled(self, enabled: Any) -> None:
        self.enabled = bool(enabled)

    def setChecked(self, checked: Any) -> None:
        self.checked = bool(checked)

    def checkState(self) -> int:
        return 2 if self.checked else 0

    def setValue(self, value: Any) -> None:
        self.value = value

    def setPlaceModeEnabled(self, enabled: Any) -> None:
        self.placeModeEnabled = bool(enabled)

    def setCurrentNode(self, node: Any) -> None:
        self._node = node

    def currentNode(self) -> Any:
        return self._node


class CheckBox(Widget):
    """A class of its own, because the panel asks whether a table's cell is one."""


class ComboBox(Widget):
    """A list with one chosen text, or a text of one's own."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        self._items: list[str] = []
        self._index, self._own = -1, ""

    def addItem(self, *words: Any) -> None:
        self._items.append(next(str(word) for word in words if isinstance(word, str)))
        if len(self._items) == 1:
            self.setCurrentIndex(0)

    def addItems(self, items: list[str]) -> None:
        for item in items:
            self.addItem(item)

    def clear(self) -> None:
        self._items, self._own = [], ""
        self.setCurrentIndex(-1)

    @property
    def count(self) -> int:
        return len(self._items)

    @property
    def currentIndex(self) -> int:
        return self._index

    @property
    def currentText(self) -> str:
        return self._own or (self._items[self._index] if self._index >= 0 else "")

    @currentText.setter
    def currentText(self, text: str) -> None:
        self.setCurrentText(text)

    def setCurrentText(self, text: str | None) -> None:
        index = self.findText(text or "")
        self._own = "" if index >= 0 else text or ""
        if index >= 0:
            self.setCurrentIndex(index)

    def setCurrentIndex(self, index: int) -> None:
        index = index if 0 <= index < len(self._items) else -1
        changed, self._index = index != self._index, index
        if changed:
            self.emit("currentIndexChanged", index)

    def findText(self, text: str) -> int:
        return self._items.index(text) if text in self._items else -1

    def itemText(self, index: int) -> str:
        return self._items[index] if 0 <= index < len(self._items) else ""


class TableItem(Anything):
    """A cell's text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def text(self) -> str:
        return self._text

    def flags(self) -> int:
        return 0


class Table(Widget):
    """Rows and columns of texts or widgets."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        self.rowCount = 0
        self._cells: dict[tuple[int, int], Any] = {}

    def clear(self) -> None:
        self._cells.clear()

    def setRowCount(self, count: int) -> None:
        self.rowCount = count

    def setItem(self, row: int, column: int, item: TableItem) -> None:
        self._cells[row, column] = item

    setCellWidget = setItem

    def item(self, row: int, column: int) -> Any:
        found = self._cells.get((row, column))
        return found if isinstance(found, TableItem) else None

    def cellWidget(self, row: int, column: int) -> Any:
        return self._cells.get((row, column))


_CLASSES = {"QComboBox": ComboBox, "ctkComboBox": ComboBox, "QTableWidget": Table, "QCheckBox": CheckBox}


def load_ui(path: str | Path) -> Any:
    """The named widgets of a Qt Designer file, as attributes of one object, with what is checked at first."""
    found = SimpleNamespace()
    for node in xml.etree.ElementTree.parse(path).iter("widget"):
        widget = _CLASSES.get(node.attrib["class"], Widget)()
        widget.checked = node.findtext("property[@name='checked']/bool") == "true"
        for item in node.findall("item/property[@name='text']/string"):
            widget.addItem(item.text or "")
        setattr(found, node.attrib["name"], widget)
    return found


def qt_module(settings: dict[str, Any]) -> SimpleNamespace:
    """The names that the panel uses of Slicer's module `qt`; `settings` is what QSettings stores."""
    stored = SimpleNamespace(value=settings.get, setValue=settings.__setitem__)
    base = type("QDialog", (Anything,), {})
    return SimpleNamespace(
        QApplication=Anything(),
        QCheckBox=CheckBox,
        QComboBox=ComboBox,
        QDialog=base,
        QIcon=Anything,
        QMessageBox=Anything(),
        QSettings=lambda: stored,
        QTableWidgetItem=TableItem,
        QTimer=Widget,
        Qt=SimpleNamespace(WaitCursor=3, ItemIsEditable=2, ToolTipRole=3),
    )
