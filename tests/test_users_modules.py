"""Choices that are registered outside the library: where, and how other processes get them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ctmrl_torchrl import guests
from ctmrl_torchrl.cli import main
from ctmrl_torchrl.guests import Guest, code_digest, guests_of, plugin_of
from ctmrl_torchrl.registry import Registry
from ctmrl_torchrl.studies.attempts import WithGuests
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.identity import code_of, data_key, identity_of
from ctmrl_torchrl.studies.jobs import Job, Outcome
from ctmrl_torchrl.training.plugins import load_plugin

FILE = """
from ctmrl_torchrl.registry import Registry
SHAPES = Registry("shape")
SHAPES.register("{name}", 1)
"""


@pytest.fixture
def shape(tmp_path, monkeypatch):
    """A loaded file that registers a choice of its own name."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    file = tmp_path / "a_shape.py"
    file.write_text(FILE.format(name="a_shape"))
    module = load_plugin(str(file))
    yield file
    module.SHAPES.unregister("a_shape")
    sys.modules.pop("a_shape")


def test_the_file_that_registers_a_choice_is_known(shape, monkeypatch):
    (guest,) = guests_of(["a_shape", "ctmrl"])
    assert (guest.module, guest.file, guest.choice) == ("a_shape", str(shape), "a_shape")
    assert plugin_of(guest) == "a_shape.py"
    monkeypatch.chdir(shape.parents[1])
    assert plugin_of(guest) == f"{shape.parent.name}/a_shape.py"


def test_a_choice_of_a_function_of_ours_belongs_to_its_caller():
    shapes = Registry("shape")
    shapes.register("round")(object())
    assert guests_of(["round"])[0].module == __name__
    shapes.unregister("round")
    assert guests_of(["round"]) == ()


def test_keys_change_with_the_file_of_a_choice_and_only_then(shape):
    ours, theirs = {"env": "point_robot", "method": "focal"}, {"env": "a_shape", "method": "focal"}
    assert code_of(ours) == "" != code_of(theirs)
    before = identity_of(theirs, "d", code_of(theirs)), data_key(theirs)
    assert identity_of(ours, "d", code_of(ours)) == identity_of(ours, "d")
    shape.write_text(shape.read_text() + "# a comment\n")
    assert before == (identity_of(theirs, "d", code_of(theirs)), data_key(theirs))
    shape.write_text(shape.read_text() + "CHANGED = True\n")
    assert before[0] != identity_of(theirs, "d", code_of(theirs)) and before[1] != data_key(theirs)


@pytest.mark.parametrize("name", ["a_shape.py", "a-shape.py"])
def test_another_process_loads_it(name, tmp_path):
    """Also a file whose name is no module's."""
    file = tmp_path / name
    file.write_text(FILE.format(name="a_shape"))
    code = """
import json, sys
from ctmrl_torchrl.guests import Guest, guests_of
from ctmrl_torchrl.training.plugins import load_guest
for _ in range(2):
    load_guest(Guest("a_shape", sys.argv[1], "a_shape"))
print(json.dumps([[each.module, each.file] for each in guests_of(["a_shape"])]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True)
    assert json.loads(done.stdout) == [["a_shape", str(file)]], done.stderr


def test_a_program_is_run_under_the_name_of_a_worker(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(
        FILE.format(name="mine") + "if __name__ == '__main__':\n    raise SystemExit('run again')\n"
    )
    code = """
import sys
from ctmrl_torchrl.guests import Guest, guests_of
from ctmrl_torchrl.training.plugins import load_guest
load_guest(Guest("__main__", sys.argv[1], "mine"))
print(guests_of(["mine"])[0].module)
"""
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True)
    assert done.stdout.strip() == "__mp_main__", done.stderr


def test_a_choice_without_a_file_has_no_digest_and_no_option():
    guest = Guest("__main__", "", "mine")
    assert guest.digest == "" and plugin_of(guest) is None


def planned(**configuration):
    configuration = {"env": "point_robot", "method": "focal"} | configuration
    return PlannedRun({}, (), configuration, data_key(configuration), code_of(configuration))


def test_a_protocol_of_ones_own_changes_no_training(shape):
    plain, own = (planned(evaluation={"every": 0, "protocols": each}) for each in (["np"], ["np", "a_shape"]))
    assert plain.training("d") == own.training("d") and plain.identity("d") != own.identity("d")
    before = own.training("d"), own.identity("d")
    shape.write_text(shape.read_text() + "CHANGED = True\n")
    changed = planned(evaluation={"every": 0, "protocols": ["np", "a_shape"]})
    assert changed.training("d") == before[0] and changed.identity("d") != before[1]


def test_a_logger_of_ones_own_changes_no_run(shape):
    assert code_of({"env": "point_robot", "output": {"logger": "a_shape"}}) == ""


def test_a_file_is_the_same_as_a_plugin_and_as_a_program(shape, monkeypatch):
    configuration = {"env": "a_shape"}
    before = code_of(configuration), data_key(configuration)
    monkeypatch.setitem(sys.modules, "__mp_main__", sys.modules["a_shape"])
    monkeypatch.setitem(guests._ORIGINS, ("shape", "a_shape"), "__mp_main__")
    assert guests_of(["a_shape"])[0].module == "__mp_main__"
    assert before == (code_of(configuration), data_key(configuration))


def test_a_worker_refuses_a_file_that_has_changed_since_the_plan(shape):
    work = WithGuests(lambda job: Outcome(job.key, "done"), guests_of(["a_shape"]))
    job = Job("key", (), "store")
    assert work(job).state == "done"
    shape.write_text(shape.read_text() + "# a comment\n")
    assert work(job).state == "done"
    shape.write_text(shape.read_text() + "CHANGED = True\n")
    outcome = work(job)
    assert outcome.state == "failed" and "a_shape.py has changed since the study was started" in outcome.error


def test_words_that_run_together_are_another_program():
    assert code_digest("a = not b\n") != code_digest("a = notb\n")


@pytest.mark.parametrize("option", [["--plugin", "{}"], ["--plugin={}"]])
@pytest.mark.parametrize("after", [False, True])
def test_a_plugin_may_stand_before_and_after_the_command(option, after, shape, capsys):
    option = [each.format(shape) for each in option]
    command = ["study", "plan", "quick", "root=nowhere"]
    assert main([*command, *option] if after else [*option, *command]) == 0
    assert "6 runs" in capsys.readouterr().out
    assert main(["study", "plan", "quick", "--plugin"]) == 2


def test_a_file_that_is_gone_has_no_digest(shape):
    shape.unlink()
    (guest,) = guests_of(["a_shape"])
    assert guest.digest == "" and guest.file == str(shape)
