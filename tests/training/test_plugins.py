"""A user's file or module that is imported first: what it is called, and what is wrong with it."""

from __future__ import annotations

import json
import sys

import pytest

from ctmrl_torchrl.cli import main
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.plugins import load_plugin


@pytest.mark.parametrize("name", ["json.py", "random.py", "torch.py", "antigravity.py"])
def test_a_file_does_not_take_the_place_of_another_module(name, tmp_path):
    (tmp_path / name).write_text("MINE = 1\n")
    with pytest.raises(ConfigError, match="another module is named .* rename the file"):
        load_plugin(str(tmp_path / name))
    assert sys.modules["json"] is json


@pytest.mark.parametrize("content", [b"def f(:\n", b"\xff\xfe\x00", b"a\x00b"])
def test_what_is_no_python_is_told_in_a_line(content, tmp_path):
    (tmp_path / "broken_plugin.py").write_bytes(content)
    with pytest.raises(ConfigError, match="plugin .*broken_plugin.py") as told:
        load_plugin(str(tmp_path / "broken_plugin.py"))
    assert "\n" not in str(told.value) and "broken_plugin" not in sys.modules


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a b", "1"])
def test_a_name_that_is_no_module(name):
    with pytest.raises(ConfigError, match="give a module, or the path of a file"):
        load_plugin(name)


def test_a_file_that_fails_can_be_mended_and_loaded(tmp_path, monkeypatch):
    file = tmp_path / "own_plugin.py"
    file.write_text("raise KeyError('mine')\n")
    with pytest.raises(KeyError, match="mine"):  # the user's own error, with its traceback
        load_plugin(str(file))
    file.write_text("MINE = 12\n")
    monkeypatch.chdir(tmp_path)
    assert load_plugin("own_plugin.py").MINE == 12
    assert load_plugin(str(file)) is load_plugin("own_plugin.py")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "own_plugin.py").write_text("MINE = 345\n")
    assert load_plugin("other/own_plugin.py").MINE == 345  # of the same name, also a user's


def test_an_invalid_argument_in_a_users_file_is_told_in_a_line(tmp_path):
    """The library's own message, with the user's line; nothing of the library's insides."""
    file = tmp_path / "no_horizon.py"
    code = """
import gymnasium
from ctmrl_torchrl.envs import from_gymnasium

def make(mass):
    return gymnasium.make("Pendulum-v1").unwrapped

from_gymnasium("no_horizon", make, parameters={"mass": (0.5, 1.5)})
"""
    file.write_text(code)
    with pytest.raises(
        ConfigError, match="no_horizon.py, line 8: The horizon of 'no_horizon' is unknown"
    ) as told:
        load_plugin(str(file))
    assert "\n" not in str(told.value) and "no_horizon" not in sys.modules
    file.write_text(code.replace("0.5, 1.5", "1.5, 0.5"))
    with pytest.raises(ConfigError, match="line 8: Parameter 'mass' must be a range"):
        load_plugin(str(file))


def test_an_error_in_a_users_function_keeps_its_traceback(tmp_path):
    (tmp_path / "bad_draw.py").write_text(
        "from ctmrl_torchrl.envs import from_gymnasium\n"
        "from_gymnasium('bad', dict, parameters={'mass': lambda generator: 1 / 0})\n"
    )
    with pytest.raises(ValueError, match="ZeroDivisionError") as told:
        load_plugin(str(tmp_path / "bad_draw.py"))
    assert not isinstance(told.value, ConfigError)


@pytest.mark.parametrize(
    "words", [["--plugin=", "train"], ["train", "--plugin=", "preset=smoke"], ["--plugin"]]
)
def test_a_plugin_without_a_name_does_not_take_the_command(words, capsys):
    assert main(words) == 2
    assert "--plugin needs a module or the path of a .py file" in capsys.readouterr().err
