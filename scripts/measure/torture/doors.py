"""Attacks by requests alone: names that are paths, foreign web sites, archives, headers, parameters."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Iterator

from scripts.measure.torture.target import SECRET, Target, broke, served

PATHS = ("../escaped", "a/b", "..", ".hidden", "C:\\x", "x" * 300, "nul\x01", "/etc/passwd", "..%2fescaped")
ROUTES = ("/", "/info/", "/static/", "/ohif/", "/logs/", "/datastore/?output=all", "/datastore/image?image=s0",
          "/proxy/dicom/qido/studies", "/openapi.json", "/docs", "/oneprompt/", "/oneprompt/annotate",
          "/oneprompt/status", "/oneprompt/health", "/oneprompt/metrics", "/no/such/page")  # fmt: skip
HOSTS = ("evil.example:{}", "127.0.0.1.evil.example:{}", "localhost.evil.example:{}", "evil.example.:{}", "0.0.0.0:{}",
         "user@127.0.0.1:{}", "127.0.0.1:{}@evil.example", "2130706433:{}", "0x7f.1:{}", "[::ffff:127.0.0.1]evil:{}",
         "127.0.0.1:{}, evil.example", "evil.example#127.0.0.1:{}", "", "localhost\x00.evil.example")  # fmt: skip


def archives_that_leave_their_folder(target: Target) -> Iterator[str]:
    """An upload session unpacks to anywhere, also as two archives in one file."""
    climb = "../" * 24 + str(target.folder)[1:]
    harmless = io.BytesIO()
    with zipfile.ZipFile(harmless, "w") as archive:
        archive.writestr("image.dcm", b"no")

    def tar(*entries: tuple[str, bytes, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, kind, link in entries:
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname, entry.size = kind, link.decode(), 2 if kind == tarfile.REGTYPE else 0
                archive.addfile(entry, io.BytesIO(b"no") if entry.size else None)
        return buffer.getvalue()

    up = tar((f"{climb}/escaped1", tarfile.REGTYPE, b""))
    slip = io.BytesIO()
    with zipfile.ZipFile(slip, "w") as archive:
        archive.writestr(f"{climb}/escaped2", b"no")
    hostile = {
        "a.tar": up, "two.tar": up + harmless.getvalue(), "b.zip": slip.getvalue(), "c.zip": up, "d.tar.gz": up,
        "absolute.tar": tar((f"{target.folder}/escaped3", tarfile.REGTYPE, b"")),
        "link.tar": tar(("l", tarfile.SYMTYPE, str(target.folder).encode()), ("l/escaped4", tarfile.REGTYPE, b"")),
        "hard.tar": tar(("hard", tarfile.LNKTYPE, f"{climb}/secret.bin".encode())),
        "device.tar": tar(("null", tarfile.CHRTYPE, b"")), "pipe.tar": tar(("pipe", tarfile.FIFOTYPE, b"")),
    }  # fmt: skip
    for name, content in hostile.items():
        answer = target.ask(
            "PUT", "/session/", params={"uncompress": "true"}, files={"files": (name, content)}, timeout=20
        )
        if served(answer) or broke(answer):
            yield f"{name}: answered {answer.status_code}"
    yield from (f"{path.name} was written" for path in target.folder.glob("escaped*"))


def names_of_other_sites(target: Target) -> Iterator[str]:
    """A web site whose name resolves to this machine reads and changes everything (DNS rebinding)."""
    for host in HOSTS:
        name = host.format(target.port)
        for method, path in (*(("GET", path) for path in ROUTES), ("DELETE", "/datastore/image?id=s1")):
            request = f"{method} {path} HTTP/1.1\r\nHost: {name}\r\nOrigin: http://{name}\r\n"
            status = target.raw(f"{request}Sec-Fetch-Site: same-origin\r\nConnection: close\r\n\r\n".encode())
            if status not in (0, 400, 421):
                yield f"Host {name!r}: {method} {path} is answered with {status}"
                break
    twice = f"GET /info/ HTTP/1.1\r\nHost: evil.example\r\nHost: 127.0.0.1:{target.port}\r\nConnection: close\r\n\r\n"
    absolute = "GET http://evil.example/info/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    for about, request in (("two Hosts", twice), ("an absolute address", absolute)):
        if target.raw(request.encode()) == 200:
            yield f"{about}: answered"


def requests_from_other_sites(target: Target) -> Iterator[str]:
    """A page makes the browser change something, or reads an answer."""
    changes = (("POST", "/infer/oneprompt_click?image=s0"), ("PUT", "/datastore/label?image=s0"), ("PUT", "/session/"),
               ("DELETE", "/datastore/image?id=s1"), ("POST", "/train/oneprompt"), ("POST", "/oneprompt/job"),
               ("POST", "/oneprompt/accept"), ("POST", "/activelearning/first"), ("DELETE", "/train/"))  # fmt: skip
    for origin in ("https://evil.example", "null", f"http://127.0.0.1.evil.example:{target.port}", "file://"):
        for method, path in changes:
            answer = target.ask(method, path, headers={"Origin": origin})
            if answer.status_code not in (403, 421):
                yield f"{origin}: {method} {path} is answered with {answer.status_code}"
        if target.ask("GET", "/info/", headers={"Origin": origin}).headers.get("access-control-allow-origin"):
            yield f"{origin} may read answers"


def names_that_are_paths(target: Target) -> Iterator[str]:
    """Ids, tags and sessions that lead out of the study folder."""
    before, content = target.files(), {"file": ("x.nii.gz", b"x"), "label": ("x.nii.gz", b"x")}
    for name in PATHS:
        tries = (
            ("PUT", "/datastore/label", {"image": name}), ("PUT", "/datastore/label", {"image": "s0", "tag": name}),
            ("PUT", "/datastore/image", {"image": name}), ("PUT", "/datastore/", {"image": name}),
            ("GET", "/datastore/label", {"label": name, "tag": "final"}), ("GET", "/datastore/image", {"image": name}),
            ("GET", "/datastore/label", {"label": "s0", "tag": name}), ("DELETE", "/datastore/image", {"id": name}),
            ("DELETE", "/datastore/label", {"id": name, "tag": "final"}),
            ("GET", "/datastore/image/info", {"image": name}), ("POST", "/infer/oneprompt_click", {"image": name}),
            ("POST", "/infer/oneprompt_click", {"session_id": name}),
        )  # fmt: skip
        for method, path, query in tries:
            answer = target.ask(method, path, params=query, files=content if method == "PUT" else None)
            if not 400 <= answer.status_code < 500:
                yield f"{method} {path} {query} is answered with {answer.status_code}"
    yield from (f"{path} was written" for path in target.files() - before)


def files_by_their_paths(target: Target) -> Iterator[str]:
    """A file of the machine is read as an image, by its path or through a header."""
    secret = str(target.secret)
    for query in ({"image": secret}, {"image": "", "session_id": secret}, {"session_id": "x", "image": secret}):
        if served(answer := target.click(query=query)):
            yield f"{query}: answered {answer.status_code}"
    by_params = {"foreground": [[5, 5, 3]], "label": "organ", "image": secret, "label_file": secret, "session": secret}
    if not served(target.click(params=by_params)):
        yield "a path in params is not left out"
    nrrd = f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: {secret}\n\n"
    listed = f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: LIST\n{secret}\n"
    meta = f"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = {secret}\n"
    many = meta.replace(f"= {secret}", f"= LIST\n{secret}")
    for name, text in (("a.nrrd", nrrd), ("b.nrrd", listed), ("c.nhdr", nrrd), ("d.mha", meta), ("e.mhd", many)):
        file = (name, text.encode())
        if not served(target.ask("PUT", "/datastore/image", params={"image": f"leak{name[0]}"}, files={"file": file})):
            continue
        picture = target.ask("GET", f"/oneprompt/studies/leak{name[0]}/thumbnail.png")
        yield f"{name}: taken, its picture is answered with {picture.status_code}"
        target.ask("DELETE", "/datastore/image", params={"id": f"leak{name[0]}"})
    if target.secret.read_bytes() != SECRET:
        yield "the file outside was changed"


def parameters_that_are_paths(target: Target) -> Iterator[str]:
    """A training takes folders, Python paths and addresses from clients."""
    for params in ({"name": "../../elsewhere"}, {"bundle_path": "/tmp"}, {"tracking_uri": "http://evil.example"},
                   {"train_ds": "/etc/passwd"}, {"oneprompt": {"bundle_path": "/tmp"}},
                   {"datastore": "/"}):  # fmt: skip
        for path in ("/train/oneprompt", "/train/", "/oneprompt/training", "/batch/infer/oneprompt"):
            answer = target.ask("POST", path, json=params)
            if answer.status_code not in (400, 409):
                yield f"{path} {params} is answered with {answer.status_code}"
                target.ask("DELETE", "/train/")


def weights_that_are_code_or_no_numbers(target: Target) -> Iterator[str]:
    """Uploaded weights are unpickled, or are NaN and served."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(target.folder / "escaped-code"), "w")  # type: ignore[return-value]

    before = target.ask("GET", "/oneprompt/status").json()["weights"]
    path = target.folder / "nan.safetensors"
    with safe_open(target.folder / "w.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        about = file.metadata()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
            break
    save_file(tensors, path, about)
    for name, content in (("a.pt", pickle.dumps(Code())), ("b.safetensors", path.read_bytes())):
        if served(answer := target.ask("PUT", "/model/oneprompt", files={"file": (name, content)})):
            yield f"{name}: answered {answer.status_code}"
            target.ask("DELETE", "/model/oneprompt")
    if target.ask("GET", "/oneprompt/status").json()["weights"] != before:
        yield "other weights are served"
    yield from (f"{path.name} was written" for path in target.folder.glob("escaped-code"))


def doors_left_open(target: Target) -> Iterator[str]:
    """Reload, whole-slide tasks, the log, the metrics, addresses above the pages."""
    for method, path in (("POST", "/reload"), ("POST", "/infer/wsi/oneprompt"), ("POST", "/infer/wsi_v2/oneprompt"),
                         ("GET", "/ohif/../../../etc/passwd"), ("GET", "/ohif/%2e%2e%2f%2e%2e%2fetc/passwd"),
                         ("GET", "/static/%2e%2e/%2e%2e/config.py"), ("GET", "/oneprompt/static/%2e%2e/endpoints.py"),
                         ("GET", "/proxy/dicom/http://evil.example/")):  # fmt: skip
        answer = target.ask(method, path)
        if served(answer) and "<!doctype html>" not in answer.text[:200].lower():
            yield f"{method} {path} is answered with {answer.status_code}"
    elsewhere = {"X-Forwarded-For": "192.0.2.7"}  # as a proxy on this machine says where a request comes from
    for path in ("/logs/", "/oneprompt/metrics"):
        if served(target.ask("GET", path, headers=elsewhere)):
            yield f"{path} is open to other machines"


def records_that_poison(target: Target) -> Iterator[str]:
    """What one request brings keeps everybody's later labels from being saved."""
    odds = ('{"a":' * 300 + "1" + "}" * 300, '{"a": NaN}', '{"a": 1e400}', '{"a": "\\ud800"}', "[" * 10**5,
            '{"\\udfff": 1}', '{"a": ' + "9" * 5000 + "}", '"' + "x" * 2**20 + '"')  # fmt: skip
    info = json.dumps({"label_info": [{"name": "organ", "idx": 1}]})[:-1]
    for odd in odds:
        params = f'{info}, "odd": {odd}}}'
        label = {"label": ("s1.nii.gz", (target.folder / "label1.nii.gz").read_bytes())}
        image = {"file": ("s0.nii.gz", (target.studies / "s0.nii.gz").read_bytes())}
        body = {"data": params, "headers": {"Content-Type": "application/json"}}
        for method, path, query, sent in (
            ("PUT", "/datastore/label", {"image": "s1", "tag": "draft"}, {"data": {"params": params}, "files": label}),
            ("PUT", "/datastore/image", {"image": "s9"}, {"data": {"params": params}, "files": image}),
            ("POST", "/infer/oneprompt_click", {"image": "s0"}, {"data": {"params": params}}),
            ("POST", "/activelearning/first", {}, body),
            ("POST", "/oneprompt/accept", {}, body),
        ):
            answer = target.ask(method, path, params=query, **sent)
            if broke(answer):
                yield f"{method} {path} with {odd[:20]}...: answered {answer.status_code}"
        if not served(answer := target.save("s0", tag="draft")):
            yield f"after {odd[:20]}... a sound label is answered with {answer.status_code}"
            return
