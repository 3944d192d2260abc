"""Mutated image files and weights, read in processes of bounded memory and time."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import nibabel
import nrrd
import numpy as np
import SimpleITK
from PIL import Image as Pillow

from lib.imaging.errors import ImageError
from lib.imaging.images import read_image
from lib.imaging.raw import sitk
from lib.networks.checkpoints import CheckpointError, load_network
from scripts.measure.torture.lists import AFFINE, write_weights
from scripts.phantoms.dicom_series import write_series

SECONDS = 20  # that one file may take
MEMORY = 6 * 2**30  # bytes of address space of the process, libraries included
BATCH = 200


def originals(folder: Path) -> list[Path]:
    """One sound file of every format."""
    array = np.random.default_rng(0).integers(0, 200, (12, 10, 6)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), folder / "a.nii")
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), folder / "b.nii.gz")
    nrrd.write(str(folder / "c.nrrd"), array)
    nrrd.write(str(folder / "d.nrrd"), array, {"encoding": "raw"})
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(folder / "e.mha"), True)
    plane = Pillow.fromarray(array[:, :, 0].astype(np.uint8))
    for name in ("f.png", "g.tif", "h.jpg", "i.bmp"):
        plane.save(folder / name)
    write_series(folder / "series", array, AFFINE, uid="1.2.3", patient="P", modality="MR")
    write_weights(folder / "j.safetensors")
    return [*sorted(path for path in folder.iterdir() if path.is_file()), *sorted((folder / "series").iterdir())[:1]]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The bytes with some changed, cut out, doubled or cut off; mostly near the beginning, where headers are."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place = int(len(changed) * chance.random() ** 3) if changed else 0
        match chance.randrange(5):
            case 0 | 1:
                changed[place : place + 1] = bytes([chance.randrange(256)])
            case 2:
                changed[place : place + 4] = chance.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"9999")
                )
            case 3:
                del changed[place : place + chance.randrange(1, 64)]
            case 4:
                changed[place:place] = changed[place : place + chance.randrange(1, 64)]
    return bytes(changed[: chance.randrange(len(changed) + 1)] if chance.random() < 0.1 else changed)


def torture_files(count: int, seed: int = 0) -> dict[str, Any]:
    """Read `count` mutated files.

    Returns:
        How many were read, refused with words, or failed in another way (error, hang, crash), and examples of those.
    """
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        sources = originals(Path(folder))
        context = multiprocessing.get_context("forkserver")  # which imports everything once
        context.set_forkserver_preload([__name__])
        done = 0
        while done < count:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, sources, seed, done, min(done + BATCH, count)))
            process.start()
            theirs.close()
            while True:
                try:
                    number, outcome, message = ours.recv()
                except EOFError:
                    break
                outcomes[outcome] += 1
                done = number + 1
                wrong += [f"{number}: {message}"] if outcome not in ("read", "refused") else []
            process.join()
            if process.exitcode:
                outcomes["crash"] += 1
                wrong.append(f"{done}: the process ended with {process.exitcode}")
                done += 1
    return {"files": count, "outcomes": dict(outcomes), "wrong": wrong[:20]}


def _work(pipe: Any, sources: list[Path], seed: int, first: int, last: int) -> None:
    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    os.dup2(2, 1)  # libraries in C write their complaints where the report is to go
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, too_long)
    warnings.simplefilter("ignore")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        for number in range(first, last):
            chance = random.Random(f"{seed}-{number}")
            source = sources[number % len(sources)]
            path = Path(folder) / f"{number}{''.join(source.suffixes)}"
            path.write_bytes(mutated(source.read_bytes(), chance))
            signal.alarm(SECONDS)
            try:
                load_network(path) if path.suffix == ".safetensors" else read_image(path)
                outcome, message = "read", ""
            except (ImageError, CheckpointError) as error:
                outcome, message = "refused", str(error)
            except TimeoutError:
                outcome, message = "hang", path.name
            except Exception as error:
                outcome, message = "error", f"{path.name}: {type(error).__name__}: {error}"
            signal.alarm(0)
            path.unlink()
            pipe.send((number, outcome, message))
