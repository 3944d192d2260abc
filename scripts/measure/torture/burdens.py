"""Attacks by what a server must carry: files that nobody can read, sizes that headers claim, clicks nobody waits for,
torn masks, and folders that are away."""

from __future__ import annotations

import gzip
import io
import os
import random
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import requests

from scripts.measure.torture.lists import AFFINE, click
from scripts.measure.torture.target import Target, broke, served
from scripts.phantoms.dicom_series import write_series

MB = 2**20
MOST_MB = 1200  # that one small upload may make a server take
ABANDONED_AFTER = 1.5  # seconds
QUICK = 10.0  # seconds within which /info/ must answer also on a busy machine


def clicks_nobody_waits_for(target: Target) -> Iterator[str]:
    """Clicks whose clients hang up hold every thread."""
    threads = [threading.Thread(target=_abandon, args=(target.url,)) for _ in range(target.clicks)]
    for thread in threads:
        thread.start()
    seconds = []
    for _ in range(4):
        started = time.monotonic()
        answer = target.ask("GET", "/info/", timeout=25)
        seconds.append(time.monotonic() - started)
        if not served(answer):
            yield f"/info/ is answered with {answer.status_code} after {seconds[-1]:.1f} s"
    for thread in threads:
        thread.join()
    if max(seconds) > QUICK:
        yield f"/info/ took {max(seconds):.1f} s"
    started = time.monotonic()
    if not target.wait(lambda: served(click(target.url, 0, timeout=30)), 100):
        yield "100 s later no click is answered"
    click_seconds = time.monotonic() - started
    print(f"  /info/ {max(seconds):.2f} s at most, a click {click_seconds:.2f} s afterwards", file=sys.stderr)


def _abandon(url: str) -> None:
    try:
        click(url, 0, timeout=ABANDONED_AFTER)
    except requests.RequestException:
        pass  # that is what it is for


def sizes_that_headers_claim(target: Target) -> Iterator[str]:
    """A few kilobytes that unpack to gigabytes, as image, label, session, archive and DICOM series."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    zeros = b"".join(packer.compress(bytes(MB)) for _ in range(1536)) + packer.flush()
    nrrd = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 1024 1024 768\nendian: little\nencoding: gzip\n\n" + zeros
    series = target.folder / "bomb"
    array = np.zeros((4, 4, 1), np.int16)
    write_series(series, array, AFFINE, uid="1.2.840.9", patient="P", modality="MR")
    header = pydicom.dcmread(next(series.iterdir()))
    header.Rows = header.Columns = 65535
    header.NumberOfFrames = "32767"
    dicom = io.BytesIO()
    header.save_as(dicom)
    (target.studies / "bomb").mkdir()
    (target.studies / "bomb" / "a.dcm").write_bytes(dicom.getvalue())
    tries = {
        "image": ("PUT", "/datastore/image", {"image": "bomb1"}, {"file": ("a.nrrd", nrrd)}),
        "label": ("PUT", "/datastore/label", {"image": "s0", "tag": "draft"}, {"label": ("a.nrrd", nrrd)}),
        "session": ("PUT", "/session/", {"uncompress": "true"}, {"files": ("a.tar.gz", zeros)}),
        "scribbles": ("POST", "/infer/oneprompt_scribbles", {"image": "s0"}, {"label": ("a.nrrd", nrrd)}),
        "click into an upload": ("POST", "/infer/oneprompt_click", {}, {"file": ("a.nrrd", nrrd)}),
    }
    for about, (method, path, query, files) in tries.items():
        with target.memory() as taken:
            answer = target.ask(method, path, params=query, files=files)
        if taken() > MOST_MB or broke(answer):
            yield f"{about}: {taken()} MB, answered {answer.status_code}"
    target.ask("DELETE", "/datastore/image", params={"id": "bomb1"})
    with target.memory() as taken:
        for name in ("1.2.840.9", "bomb"):
            target.ask("GET", f"/oneprompt/studies/{name}/thumbnail.png")
    if taken() > MOST_MB:
        yield f"a series of a few kilobytes: {taken()} MB"
    body = {"data": b'{"a": "' + b"x" * (64 * MB) + b'"}', "headers": {"Content-Type": "application/json"}}
    with target.memory() as taken:
        answer = target.ask("POST", "/activelearning/first", **body)
    if served(answer) or taken() > MOST_MB:
        yield f"64 MB of JSON: {taken()} MB, answered {answer.status_code}"


def masks_that_are_torn(target: Target) -> Iterator[str]:
    """An automatic mask that was cut in half is never made again."""
    if not served(target.save("s0")):
        yield "a sound label is not saved"
        return

    def settled() -> bool:
        status = target.ask("GET", "/oneprompt/status").json()
        return bool(status["studies"]["s1"]["status"] == "automatic") and status["job"]["state"] == "done"

    mask = target.studies / "labels" / "original" / "s1.nii.gz"
    if not target.wait(lambda: settled() and mask.exists()):
        yield "no mask was made"
        return
    mask.write_bytes(mask.read_bytes()[:100])

    def whole() -> bool:
        try:
            return bool(gzip.decompress(mask.read_bytes()))
        except (OSError, EOFError, zlib.error):
            return False

    target.ask("POST", "/oneprompt/again", json={"ids": ["s1"]})
    if not target.wait(lambda: whole() and settled()):
        yield "the mask is still torn"


def folders_that_are_away(target: Target) -> Iterator[str]:
    """The study folder vanishes and comes back, as a network share does; an empty folder is in its place."""
    before = set(target.ask("GET", "/oneprompt/status").json()["studies"])
    elsewhere = target.folder / "elsewhere"
    for about, make_empty in (("vanished", False), ("empty", True)):
        target.studies.rename(elsewhere)
        if make_empty:
            target.studies.mkdir()
        for what, answer in (("save", target.save("s0")), ("click", target.click("s0"))):
            detail = answer.json().get("detail", "") if answer.headers.get("content-type") == "application/json" else ""
            if answer.status_code != 503 or str(target.studies) not in str(detail):
                yield f"{about}: a {what} is answered with {answer.status_code}: {str(detail)[:200]}"
        time.sleep(1)  # long enough for whoever watches the folder
        if make_empty:
            strangers = [path.name for path in target.studies.rglob("*")]
            if strangers:
                yield f"{about}: {strangers[:3]} were written where the folder should be"
            os.system(f"rm -rf '{target.studies}'")
        elsewhere.rename(target.studies)
        if not target.wait(lambda: served(target.save("s0")) and served(target.click("s0"))):
            yield f"{about}: it does not go on"
        if not target.wait(lambda: set(target.ask("GET", "/oneprompt/status").json()["studies"]) == before):
            yield f"{about}: the list is another one afterwards"


def names_that_are_long(target: Target) -> Iterator[str]:
    """Names beyond 207 bytes are listed and cannot be labelled; temporary files are left and open."""
    source = (target.studies / "s0.nii.gz").read_bytes()
    for name in ("n" * 220, "ü" * 110):
        (target.studies / f"{name}.nii.gz").write_bytes(source)
        if not target.wait(partial(_is_listed, target, name), 90):
            yield f"a name of {len(name.encode())} bytes is not listed"
            continue
        label = {"label": ("l.nii.gz", (target.folder / "label0.nii.gz").read_bytes())}
        answer = target.ask("PUT", "/datastore/label", params={"image": name, "tag": "draft"}, files=label)
        if not served(answer):
            yield f"a name of {len(name.encode())} bytes cannot be labelled: {answer.status_code}"


def _is_listed(target: Target, name: str) -> bool:
    return name in target.ask("GET", "/oneprompt/status").json()["studies"]


def write_damaged(studies: Path) -> None:
    """Files into a study folder that no start may die of."""
    source = studies.parent / "source"
    write_series(
        source, np.arange(60, dtype=np.int16).reshape(5, 4, 3), AFFINE, uid="1.2.3", patient="P", modality="MR"
    )
    originals = [path.read_bytes() for path in sorted(source.iterdir())]
    chance = random.Random(0)
    for number in range(100):
        content = bytearray(originals[number % 3])
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(128, min(len(content), 1400))] = chance.randrange(256)
        (studies / f"case{number}").mkdir()
        (studies / f"case{number}" / "a.dcm").write_bytes(content)
    (studies / "long").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom says that it is too long
        header = pydicom.dcmread(next(source.iterdir()))
        header.SeriesInstanceUID = "1." * 150 + "12"
        header.save_as(studies / "long" / "a.dcm")
    os.mkfifo(studies / "pipe.nii.gz")
    os.mkfifo(studies / "long" / "pipe.dcm")
    (Path(os.fsdecode(os.fsencode(studies) + b"/na\xefve.nii.gz"))).write_bytes(b"x")
    (studies / "loop").symlink_to(studies)
    (studies / "nothing.nii.gz").symlink_to(studies / "no-such-file.nii.gz")
    (studies / "folder.nii.gz").mkdir()
    (studies / "empty.nrrd").write_bytes(b"")
    (studies / ".oneprompt").mkdir(exist_ok=True)
    (studies / ".oneprompt" / "labels.json").write_bytes(b'{"organ": ')
    (studies / "datastore_v2.json").write_bytes(b'{"objects": {"s0"')
    (studies / "labels" / "final").mkdir(parents=True)
    (studies / "labels" / "final" / "s1.oneprompt.json").write_text("[" * 10**5)
    (studies / "labels" / "final" / "s1.nii.gz").write_bytes(b"\x1f\x8b\x08\0no")


def listed_all_the_same(target: Target) -> Iterator[str]:
    """A damaged file stops the list, or is not told of."""
    status = target.ask("GET", "/oneprompt/status").json()
    if not {"s0", "s1"} <= set(status["studies"]):
        yield "sound studies are not listed"
    if not status.get("unreadable", {}).get("count"):
        yield "the status tells of no damaged file"
    if not served(answer := target.save("s0")):
        yield f"a sound label is answered with {answer.status_code}"
    if click(target.url, 0).status_code != 200:
        yield "a sound study cannot be clicked in"
