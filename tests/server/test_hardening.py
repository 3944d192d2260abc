"""What a stranger or a mistake may try: the server refuses, and goes on."""

from __future__ import annotations

import io
import json
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from lib.networks import OnePrompt
from lib.networks.checkpoints import save_network
from tests.samples import TINY, organ_volume, write_nifti
from tests.server.conftest import Server
from tests.server.proxies import Proxy, caddy, nginx

SHAPE = (24, 20, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two volumes with labels, and a file outside the study list."""
    folder = tmp_path_factory.mktemp("hardening")
    (folder / "studies").mkdir()
    for number in range(3):
        image, mask = organ_volume(number, SHAPE)
        write_nifti(folder / "studies" / f"s{number}.nii.gz", image)
        write_nifti(folder / f"label{number}.nii.gz", mask)
    write_nifti(folder / "outside.nii.gz", organ_volume(7, SHAPE)[0])
    (folder / "studies" / "broken").mkdir()
    (folder / "studies" / "broken" / "slice.dcm").write_bytes(b"no DICOM")
    os.mkfifo(folder / "studies" / "pipe.nii.gz")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, start_server: Callable[..., Server]) -> Server:
    """A server whose structures are fixed and whose job starts only when asked."""
    return start_server(folder / "studies", labels="organ,lesion", auto_propagate="false", hosts="ward.example")


def files_below(folder: Path) -> set[Path]:
    """All files that are not the server's own state."""
    return {path for path in folder.rglob("*") if path.is_file() and ".oneprompt" not in path.parts}


def test_whoever_watches_the_server_learns_how_it_is_and_nothing_of_the_studies(server: Server) -> None:
    assert server.get("/oneprompt/health/live") == {"live": True}
    assert server.get("/oneprompt/health") == {"live": True, "ready": True, "checks": {"storage": "ok", "job": "ok"}}
    server.get("/datastore/image/info?image=s0")
    text = server.request("GET", "/oneprompt/metrics").text
    assert 'oneprompt_requests_total{method="GET",route="/datastore/image/info",status="200"}' in text
    assert "s0" not in text


def test_what_nobody_can_read_is_told_and_the_list_is_served(server: Server) -> None:
    told = server.status()
    assert set(told["studies"]) == {"s0", "s1", "s2"}
    assert told["unreadable"]["count"] == 2
    assert "cannot be read as DICOM" in told["unreadable"]["files"]["broken/slice.dcm"]
    assert "no plain file" in told["unreadable"]["files"]["pipe.nii.gz"]
    assert server.get("/oneprompt/studies")["unreadable"] == told["unreadable"]
    assert told["warnings"] == server.get("/oneprompt/studies")["warnings"] == []  # it listens on this machine only


@pytest.mark.parametrize(
    "odd", ['{"a":' * 300 + "1" + "}" * 300, '{"a": NaN}', '{"a": 1e400}', '{"a": "\\ud800"}', "[" * 10**5]
)
def test_no_record_keeps_later_ones_from_being_saved(server: Server, folder: Path, odd: str) -> None:
    label = {"label": ("label0.nii.gz", (folder / "label0.nii.gz").read_bytes())}
    image = {"file": ("s0.nii.gz", (folder / "studies" / "s0.nii.gz").read_bytes())}
    params = json.dumps({"label_info": [{"name": "organ", "idx": 1}]})[:-1] + f', "odd": {odd}}}'
    tries = [
        ("PUT", "/datastore/label", {"image": "s1", "tag": "draft"}, {"data": {"params": params}, "files": label}),
        ("PUT", "/datastore/image", {"image": "s9"}, {"data": {"params": params}, "files": image}),
        ("PUT", "/datastore/image/info", {"image": "s1"}, {"data": {"info": params}}),
        ("POST", "/infer/oneprompt_click", {"image": "s0"}, {"data": {"params": params}}),
        ("POST", "/train/oneprompt", {}, {"data": params, "headers": {"Content-Type": "application/json"}}),
        ("POST", "/activelearning/first", {}, {"data": params, "headers": {"Content-Type": "application/json"}}),
        ("POST", "/oneprompt/accept", {}, {"data": params, "headers": {"Content-Type": "application/json"}}),
    ]
    for method, path, query, sent in tries:
        answer = server.request(method, path, params=query, **sent)
        assert answer.status_code == 400, (path, answer.text)
    answer = server.request("PUT", "/datastore/label", params={"image": "s1", "tag": "draft"}, files=label)
    assert answer.status_code == 200, answer.text
    json.loads((folder / "studies" / "datastore_v2.json").read_text())


def test_what_a_client_says_of_an_image_keeps_nobody_from_getting_the_next_one(server: Server) -> None:
    info = {"info": json.dumps({"strategy": 5, "path": "/etc/passwd", "ts": "x", "seen": "by me"})}
    assert server.request("PUT", "/datastore/image/info?image=s0", data=info).status_code == 200
    assert server.request("POST", "/activelearning/oneprompt_next", json={}).status_code == 200
    known = server.get("/datastore/image/info?image=s0")
    assert (known["seen"], known["user"]) == ("by me", "admin")
    assert known["path"] != "/etc/passwd"


@pytest.mark.parametrize("name", ["../escaped", "a/b", "..", ".hidden", "C:\\x", "x" * 300, "nul\x01"])
def test_names_that_are_paths_are_refused_everywhere(server: Server, folder: Path, name: str) -> None:
    before = files_below(folder)
    label = folder / "label0.nii.gz"
    tries = [
        ("PUT", "/datastore/label", {"image": name}, {"label": label}),
        ("PUT", "/datastore/label", {"image": "s0", "tag": name}, {"label": label}),
        ("PUT", "/datastore/image", {"image": name}, {"file": folder / "outside.nii.gz"}),
        ("PUT", "/datastore/", {"image": name}, {"file": folder / "outside.nii.gz"}),
        ("GET", "/datastore/label", {"label": name, "tag": "final"}, {}),
        ("GET", "/datastore/label", {"label": "s0", "tag": name}, {}),
        ("GET", "/datastore/image", {"image": name}, {}),
        ("DELETE", "/datastore/image", {"id": name}, {}),
        ("DELETE", "/datastore/label", {"id": name, "tag": "final"}, {}),
        ("POST", "/infer/oneprompt_click", {"image": name}, {}),
        ("POST", "/infer/oneprompt_click", {"session_id": name}, {}),
    ]
    for method, path, query, files in tries:
        opened = {key: (file.name, file.read_bytes()) for key, file in files.items()}
        answer = server.request(method, path, params=query, files=opened or None)
        assert 400 <= answer.status_code < 500, (method, path, query, answer.status_code)
    assert files_below(folder) == before


def test_no_file_of_the_machine_is_read_by_its_path(server: Server, folder: Path) -> None:
    outside = str(folder / "outside.nii.gz")
    click = {"foreground": [[5, 5, 5]], "label": "organ"}
    assert server.infer("oneprompt_click", outside, click).status_code == 400
    # Said in the parameters, MONAI Label would take it
    with_path = {**click, "image": outside, "label_file": outside, "image_id": "s1"}
    answer = server.infer("oneprompt_click", "s0", with_path, output="json")
    assert answer.status_code == 200, answer.text
    query = {"session_id": "x", "image": outside}
    assert server.request("POST", "/infer/oneprompt_click", params=query).status_code == 400


def test_no_upload_shows_a_file_of_the_machine_as_a_picture(server: Server, folder: Path) -> None:
    before = files_below(folder)
    secret = folder / "secret.bin"
    secret.write_bytes(bytes(range(64)))
    nrrd = f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: {secret}\n\n"
    meta = f"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile : {secret}\n"
    click = {"params": json.dumps({"foreground": [[2, 2, 2]], "label": "organ"})}
    for name, content in (("a.nrrd", nrrd), ("a.nhdr", nrrd), ("a.mha", meta), ("a.mhd", meta)):
        file = (name, content.encode())
        tries = [
            server.request("PUT", "/datastore/image", params={"image": "leak"}, files={"file": file}),
            server.request("PUT", "/datastore/label", params={"image": "s0"}, files={"label": file}),
            server.request("POST", "/infer/oneprompt_click", data=click, files={"file": file}),
        ]
        assert [answer.status_code for answer in tries] == [400] * 3, [answer.text for answer in tries]
    secret.unlink()
    assert files_below(folder) == before


def test_archives_that_leave_their_folder_are_refused(server: Server, folder: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("../../escaped.txt")
        entry.size = 2
        tar.addfile(entry, io.BytesIO(b"no"))
    harmless = io.BytesIO()
    with zipfile.ZipFile(harmless, "w") as archive:
        archive.writestr("image.dcm", b"no")
    for content in (buffer.getvalue(), buffer.getvalue() + harmless.getvalue()):  # the second is a zip too, at its end
        files = {"files": ("images.tar", content)}
        answer = server.request("PUT", "/session/", params={"uncompress": "true"}, files=files)
        assert answer.status_code == 400
        assert "below its own folder" in answer.json()["detail"]
    assert not list(folder.parent.rglob("escaped.txt"))


def test_an_archive_of_one_image_is_a_session_to_click_in(server: Server, folder: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder / "outside.nii.gz", "case/image.nii.gz")
    files = {"files": ("images.zip", buffer.getvalue())}
    answer = server.request("PUT", "/session/", params={"uncompress": "true"}, files=files)
    assert answer.status_code == 200, answer.text
    session = answer.json()["session_id"]
    click = {"params": json.dumps({"foreground": [[5, 5, 5]], "label": "organ"})}
    query = {"session_id": session, "output": "json"}
    assert server.request("POST", "/infer/oneprompt_click", params=query, data=click).status_code == 200
    assert server.request("DELETE", f"/session/{session}").status_code == 200


def test_under_a_strangers_name_nothing_is_answered(server: Server, folder: Path) -> None:
    before = files_below(folder)
    rebound = {"Host": f"evil.example:{server.port}", "Origin": f"http://evil.example:{server.port}",
               "Sec-Fetch-Site": "same-origin"}  # fmt: skip
    tries = [("GET", "/"), ("GET", "/info/"), ("GET", "/static/"), ("GET", "/ohif/"), ("GET", "/logs/"),
             ("GET", "/datastore/image?image=s0"), ("GET", "/proxy/dicom/qido/studies"), ("GET", "/openapi.json"),
             ("GET", "/oneprompt/"), ("GET", "/oneprompt/static/board.js"), ("GET", "/no/such/page"),
             ("DELETE", "/datastore/image?id=s0"), ("POST", "/oneprompt/job")]  # fmt: skip
    for method, path in tries:
        answer = server.request(method, path, headers=rebound)
        assert answer.status_code == 421, (method, path)
        assert "--conf hosts" in answer.json()["detail"]
    assert files_below(folder) == before


@pytest.mark.parametrize(
    "params",
    [
        {"name": "../../elsewhere"},
        {"bundle_path": "/tmp"},
        {"tracking_uri": "http://example.org"},
        {"train_ds": "/etc/passwd"},
        {"oneprompt": {"bundle_path": "/tmp"}},
    ],
)
def test_training_takes_no_paths_from_clients(server: Server, params: dict[str, object]) -> None:
    for path in ("/train/oneprompt", "/train/"):
        answer = server.request("POST", path, json=params)
        assert answer.status_code == 400, (path, answer.text)
    assert server.request("GET", "/train/").status_code == 404  # nothing was started


def test_training_and_batch_without_a_template_ask_for_one(server: Server) -> None:
    for path in ("/train/oneprompt", "/train/", "/batch/infer/oneprompt", "/oneprompt/job"):
        answer = server.request("POST", path, json={})
        assert answer.status_code == 409, (path, answer.text)
        assert "save one study first" in answer.json()["detail"]


def test_other_web_sites_cannot_read_answers(server: Server) -> None:
    own = server.request("GET", "/info/", headers={"Origin": "http://localhost:3000"})
    named = server.request("GET", "/info/", headers={"Origin": "https://ward.example"})
    other = server.request("GET", "/info/", headers={"Origin": "https://example.org"})
    assert own.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert named.headers["access-control-allow-origin"] == "https://ward.example"
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(("method", "path"), [("POST", "/infer/oneprompt_click?image=s0"), ("POST", "/train/oneprompt"),
    ("PUT", "/datastore/label?image=s0"), ("DELETE", "/datastore/image?id=s0"), ("POST", "/activelearning/first"),
    ("DELETE", "/train/"), ("PUT", "/session/")])  # fmt: skip
def test_other_web_sites_cannot_make_a_browser_change_anything(
    server: Server, folder: Path, method: str, path: str
) -> None:
    before = files_below(folder)
    answer = server.request(method, path, headers={"Origin": "https://example.org"})
    assert answer.status_code == 403
    assert "--conf hosts" in answer.json()["detail"]
    assert files_below(folder) == before


def test_programs_and_pages_of_this_server_are_obeyed(server: Server) -> None:
    own = {"Origin": f"http://127.0.0.1:{server.port}", "Sec-Fetch-Site": "same-origin"}  # as OHIF sends it
    for headers in ({}, own, {"Origin": "http://localhost:3000"}):
        assert server.request("POST", "/activelearning/first", json={}, headers=headers).status_code == 200


def test_an_unknown_structure_is_refused_where_structures_are_fixed(server: Server, folder: Path) -> None:
    answer = server.save_label("s0", folder / "label0.nii.gz", ["tumour"])
    assert answer.status_code == 400
    assert "organ, lesion" in answer.json()["detail"]
    answer = server.infer("oneprompt_click", "s0", {"foreground": [[5, 5, 5]], "label": "tumour"})
    assert answer.status_code == 400
    assert "organ, lesion" in answer.json()["detail"]


def test_without_auto_propagate_nothing_runs_until_asked(server: Server, folder: Path) -> None:
    assert server.save_label("s0", folder / "label0.nii.gz", ["organ"]).status_code == 200
    status = server.status()
    assert (status["job"]["state"], status["job"]["run"], status["job"]["idle"]) == ("idle", 0, True)
    assert status["templates"] == ["s0"]
    assert status["studies"]["s1"]["status"] == "unlabelled"
    assert status["labels"] == {"organ": 1, "lesion": 2}
    assert server.request("POST", "/oneprompt/job").status_code == 202
    server.wait_for_masks(templates=1)


def test_an_automatic_mask_cannot_be_saved_as_a_persons(server: Server) -> None:
    answer = server.request("POST", "/batch/infer/oneprompt", json={"label_tag": "final"})
    assert answer.status_code == 400
    assert "original" in answer.json()["detail"]


def test_what_only_the_app_records_of_a_label_is_not_taken_from_a_client(server: Server, folder: Path) -> None:
    own = {"accepted": "review board", "provenance": {"weights": "w"}, "structures": {"lesion": 1}, "template": False,
           "score": {"organ": 1.0}, "rejected": {"user": "x"}, "params": {"weights": "w"}}  # fmt: skip
    params = {**own, "label_info": [{"name": "organ", "idx": 1}], "client_id": "tests"}
    for tag in ("original", "final"):
        answer = server.request(
            "PUT",
            "/datastore/label",
            params={"image": "s2", "tag": tag},
            data={"params": json.dumps(params)},
            files={"label": ("label2.nii.gz", (folder / "label2.nii.gz").read_bytes())},
        )
        assert answer.status_code == 200, answer.text
        for path, field in (("label/info", "info"), ("updatelabelinfo", "params")):
            told = {field: json.dumps({**own, "model": "oneprompt", "seen": path})}
            answer = server.request("PUT", f"/datastore/{path}", params={"label": "s2", "tag": tag}, data=told)
            assert answer.status_code == 200, answer.text
        info = server.get(f"/datastore/label/info?label=s2&tag={tag}")
        assert (info["client_id"], info["seen"]) == ("tests", "updatelabelinfo")
        assert {key: info[key] for key in own if key in info} == (
            {"structures": {"organ": 1}} if tag == "final" else {}
        )
    assert "s2" in server.status()["templates"]


def test_uploaded_weights_that_do_not_fit_change_nothing(server: Server, tmp_path: Path, tiny_weights: Path) -> None:
    before = server.status()["weights"]
    torn = tiny_weights.read_bytes()[:-100]
    answer = server.request("PUT", "/model/oneprompt", files={"file": ("oneprompt.safetensors", torn)})
    assert answer.status_code == 400
    assert "whole safetensors file" in answer.json()["detail"]
    assert server.status()["weights"] == before


def test_weights_that_are_no_numbers_are_not_served(server: Server, tmp_path: Path) -> None:
    before = server.status()["weights"]
    network = OnePrompt(TINY)
    next(network.parameters()).data.fill_(float("nan"))
    save_network(tmp_path / "nan.safetensors", network, {})
    content = (tmp_path / "nan.safetensors").read_bytes()
    answer = server.request("PUT", "/model/oneprompt", files={"file": ("nan.safetensors", content)})
    assert answer.status_code == 400
    assert "no numbers" in answer.json()["detail"]
    assert server.status()["weights"] == before


def test_fitting_weights_are_served_at_once_and_can_be_taken_back(server: Server, tmp_path: Path) -> None:
    before = server.status()["weights"]
    save_network(tmp_path / "other.safetensors", OnePrompt(TINY), {})
    content = (tmp_path / "other.safetensors").read_bytes()
    answer = server.request("PUT", "/model/oneprompt", files={"file": ("other.safetensors", content)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["weights"] == server.status()["weights"] != before
    assert server.request("DELETE", "/model/oneprompt").status_code == 200
    assert server.status()["weights"] == before
    assert server.request("DELETE", "/model/oneprompt").status_code == 404  # never the configured ones


@pytest.mark.parametrize("starts", [
    pytest.param(caddy, id="Caddy", marks=pytest.mark.needs("caddy")),
    pytest.param(nginx, id="nginx", marks=pytest.mark.needs("nginx", "openssl")),
])  # fmt: skip
def test_behind_a_documented_proxy_everybody_logs_in_and_everything_works(
    server: Server, folder: Path, tmp_path: Path, starts: Callable[..., AbstractContextManager[Proxy]]
) -> None:
    login = ("annotator", "a pass word")
    with starts(tmp_path, server.port, "ward.example", *login) as proxy:
        pages = {"/oneprompt/": "review board", "/oneprompt/annotate": "script", "/ohif/": "OHIF", "/info/": "models"}
        for path, word in pages.items():
            refused = proxy.ask("GET", path)
            assert (refused.status_code, refused.headers["www-authenticate"].split()[0]) == (401, "Basic")  # it asks
            assert proxy.ask("GET", path, auth=("annotator", "guessed")).status_code == 401
            assert word in proxy.ask("GET", path, auth=login).text
        # As a page of the site sends it, through the server's own check of Host and Origin
        own = {"Origin": proxy.origin, "Sec-Fetch-Site": "same-origin"}
        label = {"label": ("label1.nii.gz", (folder / "label1.nii.gz").read_bytes())}
        params = {"params": json.dumps({"label_info": [{"name": "organ", "idx": 1}]})}
        saved = {"params": {"image": "s1", "tag": "draft"}, "data": params, "files": label, "headers": own}
        assert proxy.ask("PUT", "/datastore/label", **saved).status_code == 401
        assert proxy.ask("PUT", "/datastore/label", **saved, auth=login).status_code == 200
        strange = {**saved, "headers": {"Origin": "https://evil.example"}}
        assert proxy.ask("PUT", "/datastore/label", **strange, auth=login).status_code == 403
        large = {"file": ("a.nrrd", bytes(3 * 2**20))}  # more than some proxies let through
        refused = proxy.ask("PUT", "/datastore/image", params={"image": "large"}, files=large, headers=own, auth=login)
        assert refused.status_code == 400, refused.text
        _log_in_as_slicer_does(proxy, login)


def _log_in_as_slicer_does(proxy: Proxy, login: tuple[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it parses answers with `cgi`
        warnings.simplefilter("ignore", ResourceWarning)  # and closes no connection
        from monailabel.client.client import MONAILabelClient, MONAILabelClientException

        slicer = MONAILabelClient(f"https://localhost:{proxy.port}")  # which 3D Slicer's module brings
        assert slicer.auth_enabled()
        with pytest.raises(MONAILabelClientException):
            slicer.info()
        slicer.update_auth(slicer.auth_token(*login))
        assert slicer.auth_valid_token()
        assert "oneprompt" in slicer.info()["models"]
        slicer.update_auth(slicer.auth_token("annotator", "guessed"))
        assert not slicer.auth_valid_token()
