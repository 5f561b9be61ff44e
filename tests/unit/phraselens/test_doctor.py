import pytest

from phraselens import doctor

RANGES = "pillow>=12,<13\ntensorflow[and-cuda]>=2.21,<2.22\nfaiss-cpu>=1.15"
LOCK = "a-b==1.0 \\\n    --hash=sha256:0\n    # via c\nc==2.0 ; sys_platform == 'linux' \\\n"
GOOD = {"apache-beam": "2.77.0", "pillow": "12.1.0", "tensorflow": "2.21.0"}


@pytest.mark.parametrize(
    ("finding", "state"),
    [
        (doctor.check_python((3, 11, 7)), "ok"),
        (doctor.check_python((3, 12, 0)), "fail"),
        (doctor.check_disk(6 << 30, "work"), "ok"),
        (doctor.check_disk(1 << 30, "work"), "fail"),
        (doctor.check_memory(16 << 30), "ok"),
        (doctor.check_memory(4 << 30), "warn"),
        (doctor.check_cores(2), "ok"),
        (doctor.check_cores(1), "warn"),
        (doctor.check_packages(RANGES, GOOD), "ok"),
        (doctor.check_packages(RANGES, {}), "warn"),
        (doctor.check_packages(RANGES, GOOD | {"pillow": "11.0.0"}), "fail"),
        (doctor.check_locks([LOCK], {"a-b": "1.0", "c": "2.0", "pip": "23"}), "ok"),
        (doctor.check_locks([LOCK, "c==3.0 \\\n"], {"a-b": "1.0", "c": "3.0"}), "ok"),
        (doctor.check_locks([LOCK], {"a-b": "1.0"}), "fail"),
        (doctor.check_locks([LOCK], {"a-b": "1.0", "c": "2.1"}), "fail"),
        (doctor.check_locks([LOCK], {"a-b": "1.0", "c": "2.0", "d": "1"}), "fail"),
        (doctor.check_faiss({"faiss-cpu": "1.15.1"}, 0), "ok"),
        (doctor.check_faiss({"faiss-gpu": "1.15.1"}, 1), "ok"),
        (doctor.check_faiss({"faiss-gpu": "1.15.1"}, 0), "warn"),
        (doctor.check_faiss({"faiss-cpu": "1.15.1", "faiss-gpu": "1.15.1"}, 1), "fail"),
        (doctor.check_gpu(["NVIDIA H200"], True), "ok"),
        (doctor.check_gpu([], True), "warn"),
        (doctor.check_gpu(None, False), "ok"),
        (doctor.check_credentials("http://localhost:9023", lambda: None), "ok"),
        (doctor.check_credentials("", lambda: None), "ok"),
        (doctor.check_credentials("", lambda: 1 / 0), "warn"),
    ],
)
def test_state_and_remedy(finding, state):
    assert finding.state == state
    assert bool(finding.remedy) == (state != "ok")


def test_wrong_packages_are_named_with_their_range():
    found = doctor.check_packages(RANGES, {"apache-beam": "2.77.0", "pillow": "11.0.0"}).found
    assert found == "pillow 11.0.0 (needs <13,>=12), tensorflow missing (needs <2.22,>=2.21)"


def test_what_only_an_extra_adds_is_not_missed():
    ranges = f"{RANGES}\nno-such-package>=1; extra == 'dev'\nneither>=1; python_version < '3'"
    versions = {"apache-beam": "2.77.0", "pillow": "12.1", "tensorflow": "2.21.0"}
    assert doctor.check_packages(ranges, versions).state == "ok"


def test_what_differs_from_the_locks_is_named(tmp_path, capsys):
    found = doctor.check_locks([LOCK], {"c": "2.1", "d": "1"}).found
    assert found == "a-b missing (locked: 1.0), c 2.1 (locked: 2.0), d 1 (locked: not at all)"
    lock = tmp_path / "some.lock"
    lock.write_text("no-such-package==1.0 \\\n")
    assert doctor.run(["--locks", str(lock)]) == 1
    assert "no-such-package missing (locked: 1.0)" in capsys.readouterr().out


def test_fails_only_when_something_fails(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "findings", lambda workdir: [doctor.check_cores(1)])
    assert doctor.run([]) == 0
    monkeypatch.setattr(doctor, "findings", lambda workdir: [doctor.check_disk(0, workdir)])
    assert doctor.run(["--workdir", "here"]) == 1
    assert "0 GiB free below here" in capsys.readouterr().out


def test_ranges_are_known_without_the_file_that_says_them(monkeypatch, tmp_path):
    """As where the project was installed, and in the image of the workers."""
    told = doctor._ranges("").splitlines()
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: told)
    assert doctor.check_packages(doctor._ranges(""), doctor.installed()).state == "ok"

    def nobody(name):
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "requires", nobody)
    assert doctor._ranges("") == ""
