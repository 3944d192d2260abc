import os
import sys

import pytest

from infers.environment import (
    REQUIREMENTS,
    EnvironmentProblem,
    check_packages,
    put_root_first,
    requirements,
)

PINS = {
    requirement.name: next((s.version for s in requirement.specifier if s.operator == "=="), "80")  # setuptools<81
    for requirement, _ in requirements(REQUIREMENTS.read_text().splitlines())
}


def installed(**changed):
    """Versions as pinned, but for some."""
    return lambda name: changed.get(name.replace("-", "_"), PINS[name])


def test_the_environment_of_the_tests_is_a_working_one():
    assert check_packages() == []


def test_a_breaking_version_is_named_with_its_reason_and_its_cure():
    with pytest.raises(EnvironmentProblem) as caught:
        check_packages(installed(pydicom="3.0.1", numpy="2.1.0"))
    message = str(caught.value)
    assert "pydicom 3.0.1" in message
    assert "pydicom-seg" in message
    assert "numpymaxflow" in message
    assert f"{sys.executable} -m pip install 'pydicom==2.4.5' 'numpy==1.26.4'" in message


def test_a_missing_package_is_named_with_the_reason_for_it():
    with pytest.raises(EnvironmentProblem, match=r"safetensors is not installed \(weights without pickle\)"):
        check_packages(installed(safetensors=None))


def test_another_version_that_breaks_nothing_is_only_mentioned():
    warnings = check_packages(installed(nibabel="5.3.0", torch="2.14.1+cpu"))
    assert len(warnings) == 1
    assert "nibabel 5.3.0" in warnings[0]


def test_the_root_comes_first_for_this_process_and_the_next(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", f"/elsewhere{os.pathsep}{tmp_path}{os.pathsep}")
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    put_root_first(tmp_path)
    put_root_first(tmp_path)
    assert sys.path == [str(tmp_path), "/elsewhere"]
    assert os.environ["PYTHONPATH"] == f"{tmp_path}{os.pathsep}/elsewhere"
