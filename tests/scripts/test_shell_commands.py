"""scripts/setup and scripts/serve in a copy of the project whose Python only notes what it should install or start."""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

# Runs everything but what would install or serve; notes the arguments, one call a line, separated by |
RECORDING_PYTHON = """#!/bin/sh
(IFS="|"; echo "$*") >> "$NOTES"
case "$1 $2 $3" in
    "-m pip install") [ -z "$PIP_FAILS" ] || exit 1 ;;
    "-m pip show") [ -z "$NO_TORCH" ] || exit 1; echo "Version: ${TORCH_VERSION:-2.0}" ;;
    "-m pip --version"|"-m monailabel.main "*|"-m infers.environment "*|"-m scripts.ohif "*) ;;
    "-m scripts.make_demo_data "*) mkdir -p "$3/studies" ;;
    *) exec REAL_PYTHON "$@" ;;
esac
"""


REQUIREMENTS = """\
torch==2.5.0  # a reason
torchvision==0.20.0
numpy==1.26.4
setuptools<81
sam2==1.1.0
"""


class Project:
    """A folder with the shell scripts and an environment that records."""

    def __init__(self, root):
        self.root = root
        self.notes = root / "notes.txt"
        (root / "scripts").mkdir(parents=True)
        for name in ("setup", "serve"):
            shutil.copy(SCRIPTS / name, root / "scripts")
        (root / "requirements.txt").write_text(REQUIREMENTS)
        (root / "requirements-dev.txt").write_text("pytest\n")
        python = root / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(RECORDING_PYTHON.replace("REAL_PYTHON", sys.executable))
        python.chmod(0o755)

    def run(self, script, *arguments, cwd=None, **environment):
        self.notes.write_text("")
        return subprocess.run(
            [self.root / "scripts" / script, *arguments],
            cwd=cwd or self.root,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.root), "NOTES": str(self.notes), **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def calls(self, start):
        """The recorded calls that begin so, each as a list of arguments."""
        return [line.split("|") for line in self.notes.read_text().splitlines() if line.startswith(start)]


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "a project")


def test_setup_installs_once_and_then_does_nothing(project):
    assert project.run("setup").returncode == 0
    assert project.calls("-m|pip|install")[-1][-3:] == ["requirements.txt", "--requirement", "requirements-dev.txt"]
    second = project.run("setup")
    assert second.returncode == 0
    assert project.calls("-m|pip|install") == []
    assert second.stdout == second.stderr == ""


@pytest.mark.parametrize("changed", ["requirements.txt", "requirements-dev.txt"])
def test_setup_installs_again_when_the_requirements_change(project, changed):
    project.run("setup")
    (project.root / changed).write_text(REQUIREMENTS + "einops==0.8\n")
    project.run("setup")
    assert project.calls("-m|pip|install") != []


def test_an_installation_that_failed_is_tried_again(project):
    assert project.run("setup", PIP_FAILS="yes").returncode != 0
    assert project.run("setup").returncode == 0
    assert project.calls("-m|pip|install") != []


def test_what_is_built_from_source_is_built_with_the_torch_that_is_installed_first(project):
    project.run("setup")
    first, second, _ = (call[4:] for call in project.calls("-m|pip|install"))
    assert first == ["torch==2.5.0", "torchvision==0.20.0", "numpy==1.26.4", "setuptools<81"]
    assert second == ["--no-build-isolation", "--no-deps", "sam2==1.1.0"]


def test_setup_takes_the_cpu_build_of_the_pinned_torch_from_a_folder_beside_the_caller(project, tmp_path):
    (tmp_path / "wheels").mkdir()
    assert project.run("setup", "--cpu", "wheels", cwd=tmp_path).returncode == 0
    first = project.calls("-m|pip|install")[0]
    assert first[4:] == ["--find-links", f"{tmp_path}/wheels", "torch==2.5.0+cpu", "torchvision==0.20.0+cpu"]


def test_setup_takes_the_cpu_build_from_an_index_and_only_where_it_is_not_there_yet(project):
    project.run("setup", "--cpu", "https://wheels.example/cpu")
    assert project.calls("-m|pip|install")[0][4:6] == ["--extra-index-url", "https://wheels.example/cpu"]
    project.run("setup", "--cpu", "https://wheels.example/cpu", TORCH_VERSION="2.5.0+cpu")
    assert project.calls("-m|pip|install") == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--cpu"], "--cpu needs WHERE"),
        (["--cpu", "nowhere"], "folder of wheels or the address of a wheel index, got 'nowhere'"),
        (["--gpu"], "knows --cpu WHERE, --uv and --help, got '--gpu'"),
    ],
)
def test_setup_refuses_options_that_it_does_not_know(project, arguments, reason):
    answer = project.run("setup", *arguments)
    assert answer.returncode == 1
    assert reason in answer.stderr


def test_setup_says_what_cuda_weighs_before_it_downloads_it_for_no_gpu(project):
    in_vain = platform.machine() == "x86_64" and sys.platform == "linux"
    in_vain = in_vain and not any(Path(driver).exists() for driver in ("/proc/driver/nvidia/version", "/dev/dxg"))
    advice = "scripts/setup --cpu https://"
    assert (advice in project.run("setup", NO_TORCH="yes", PIP_FAILS="yes").stderr) == in_vain
    assert advice not in project.run("setup").stderr  # a PyTorch is there


def without_python(project):
    """The project where no Python that is found fits."""
    script = project.root / "scripts" / "setup"
    script.write_text(re.sub(r'^SUPPORTED="[^"]*"', 'SUPPORTED="9.9 9.8"', script.read_text(), flags=re.MULTILINE))
    program(project.root / "python9.9", "exit 1")  # found, but it does not run: as pyenv's names do
    return project


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_setup_names_what_to_install_where_no_python_works(project):
    answer = without_python(project).run("setup", PATH=f"{project.root}:/usr/bin:/bin")
    assert answer.returncode == 1
    assert "needs one of Python 9.9, 9.8" in answer.stderr
    assert "sudo apt-get install" in answer.stderr
    assert "scripts/setup --uv" in answer.stderr


def test_setup_makes_the_environment_with_a_python_that_uv_brings(project):
    without_python(project)
    program(project.root / "brought", 'echo "$*" >> "$NOTES"; cp "$RECORDING" .venv/bin/python')
    program(project.root / "uv", f'echo "uv $*" >> "$NOTES"; [ "$2" = install ] || echo "{project.root}/brought"')
    recording = project.root / "recording"
    shutil.copy(project.root / ".venv" / "bin" / "python", recording)
    answer = project.run("setup", "--uv", PATH=f"{project.root}:/usr/bin:/bin", RECORDING=str(recording))
    assert answer.returncode == 0, answer.stderr
    assert project.calls("uv") == [["uv python install 9.9"], ["uv python find --managed-python 9.9"]]
    assert project.calls("-m venv") == [["-m venv --clear .venv"]]
    assert project.calls("-m|pip|install") != []


def test_setup_says_where_uv_gets_a_python_from_when_that_fails(project):
    program(project.root / "uv", "exit 2")
    answer = without_python(project).run("setup", "--uv", PATH=f"{project.root}:/usr/bin:/bin")
    assert answer.returncode == 1
    assert "could not download Python 9.9" in answer.stderr
    assert "UV_PYTHON_INSTALL_MIRROR" in answer.stderr


def test_setup_gets_uv_itself_from_pypi_where_it_is_not_installed(project):
    without_python(project)
    make = "mkdir -p .venv-uv/bin && cp recording .venv-uv/bin/python"
    program(project.root / "python3", f'case "$1 $2" in "- "*) exit 1 ;; "-m venv") {make} ;; esac')
    shutil.copy(project.root / ".venv" / "bin" / "python", project.root / "recording")
    answer = project.run("setup", "--uv", PATH=f"{project.root}:/usr/bin:/bin", PIP_FAILS="yes")
    assert answer.returncode == 1
    assert "could not install uv from PyPI" in answer.stderr
    ((*call,),) = project.calls("-m|pip|install")
    assert call[-1].startswith("uv==")


def test_serve_passes_options_on_and_keeps_spaces_in_them(project):
    assert project.run("serve", "--studies", "my studies", "--conf", "labels", "left kidney,liver").returncode == 0
    ((*call,),) = project.calls("-m|monailabel.main")
    assert call[2:5] == ["start_server", "--app", f"{project.root}/apps/oneprompt"]
    assert call[5:9] == ["--host", "127.0.0.1", "--port", "8000"]
    assert call[9:] == ["--studies", "my studies", "--conf", "labels", "left kidney,liver"]
    assert project.calls("-m|scripts.make_demo_data") == []


def test_serve_without_studies_makes_demo_studies_once(project):
    for _ in range(2):
        answer = project.run("serve", "--port", "9000")
        ((*call,),) = project.calls("-m|monailabel.main")
        assert call[9:] == ["--studies", f"{project.root}/demo/studies", "--port", "9000"]
        assert "http://127.0.0.1:9000/oneprompt/annotate" in answer.stderr
    assert project.calls("-m|scripts.make_demo_data") == []  # of the second start


def test_serve_ohif_hands_everything_to_the_script_that_knows_orthanc(project):
    assert project.run("serve", "--ohif", "--studies", "my studies", "--port", "9000").returncode == 0
    ((*call,),) = project.calls("-m|scripts.ohif")
    assert call[2:] == ["--ohif", "--studies", "my studies", "--port", "9000"]
    assert project.calls("-m|monailabel.main") == []
    assert project.calls("-m|scripts.make_demo_data") == []
