from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from ctmrl_torchrl.agents import Agent, AgentError
from ctmrl_torchrl.modules import EncoderConfig
from ctmrl_torchrl.modules.context_encoder import ContextEncoder
from ctmrl_torchrl.modules.encoder_configs import TaskParametersConfig
from ctmrl_torchrl.objectives.policy import BRACSACConfig
from ctmrl_torchrl.problem import Problem


def make_problem():
    statistics = {key: (torch.full((2,), 0.3), torch.full((2,), 0.5)) for key in ("observation", "action")}
    statistics["observation_change"] = torch.zeros(2), torch.ones(2)
    statistics["next", "reward"] = torch.tensor([-1.0]), torch.tensor([0.7])
    return Problem(2, 2, 0.9, ("next", "reward"), True, statistics)


def make_agent(encoder=None, problem=None):
    torch.manual_seed(0)
    encoder = encoder or EncoderConfig(hidden=[8], context_dim=4, flags=["terminated"])
    agent = Agent.build(
        "ctmrl", "point_robot", problem or make_problem(), encoder, BRACSACConfig(hidden=[8]), horizon=20
    )
    agent.candidates = torch.randn(3, 4)
    return agent


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    agent = make_agent()
    return agent, agent.export(tmp_path_factory.mktemp("agents") / "new" / "robot")


def load(file):
    return torch.export.load(file).module()


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 40), (5, 7)])
def test_the_programs_compute_what_the_agent_computes(exported, rows, length):
    agent, folder = exported
    description = json.loads((folder / "exported.json").read_text())
    mask = torch.rand(rows, length) > 0.4
    mask[:, 0] = True
    transitions = TensorDict(
        {
            "observation": torch.randn(rows, length, 2),
            "action": torch.rand(rows, length, 2),
            "next": {
                "reward": torch.randn(rows, length, 1),
                "observation": torch.randn(rows, length, 2),
                "terminated": torch.rand(rows, length, 1) > 0.5,
            },
            "mask": mask,
        },
        [rows, length],
    )
    flat = transitions.flatten_keys("_")
    arguments = [flat[each["name"]] for each in description["encode"]]
    context = load(folder / "encode.pt2")(*arguments)
    torch.testing.assert_close(context, agent.encode(transitions))
    observation = torch.randn(rows, 2)
    torch.testing.assert_close(
        load(folder / "act.pt2")(observation, context), agent.act(observation, context)
    )
    assert agent.act(observation, context).abs().max() > 0


def test_the_description_says_what_a_caller_needs(exported):
    agent, folder = exported
    description = json.loads((folder / "exported.json").read_text())
    assert [(each["name"], each["shape"], each["dtype"]) for each in description["encode"]] == [
        ("observation", ["n", "L", 2], "torch.float32"),
        ("action", ["n", "L", 2], "torch.float32"),
        ("next_reward", ["n", "L", 1], "torch.float32"),
        ("next_observation", ["n", "L", 2], "torch.float32"),
        ("next_terminated", ["n", "L", 1], "torch.bool"),
        ("mask", ["n", "L"], "torch.bool"),
    ]
    assert description["context_dim"] == 4
    assert torch.equal(torch.tensor(description["candidates"]), agent.candidates)
    assert description["card"] == agent.card.to_dict()


@pytest.mark.ci
def test_acting_needs_torch_alone(exported):
    """TorchRL, tensordict, this library and safetensors cannot be imported where the programs run."""
    _, folder = exported
    code = f"""
import sys
for name in ("ctmrl_torchrl", "torchrl", "tensordict", "safetensors", "gymnasium", "mujoco", "scipy", "yaml"):
    sys.modules[name] = None
import torch
encode, act = (torch.export.load({str(folder)!r} + "/" + name).module() for name in ("encode.pt2", "act.pt2"))
zeros = [torch.zeros(1, 9, size) for size in (2, 2, 1, 2)]
context = encode(*zeros, torch.zeros(1, 9, 1, dtype=torch.bool), torch.ones(1, 9, dtype=torch.bool))
assert context.shape == (1, 4) and act(torch.zeros(1, 2), context).shape == (1, 2)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_agent_is_unchanged_and_files_are_not_replaced(exported):
    agent, folder = exported
    assert torch.equal(
        agent.act(torch.ones(2, 2), torch.ones(2, 4)), make_agent().act(torch.ones(2, 2), torch.ones(2, 4))
    )
    with pytest.raises(AgentError, match=r"act\.pt2 exists and is not replaced; choose another folder"):
        agent.export(folder)
    with pytest.raises(AgentError, match="cannot be used for an agent"):
        agent.export(folder / "act.pt2")


def test_an_encoder_that_is_told_the_task(tmp_path):
    table = torch.tensor([[0.5, 1.0], [2.0, 3.0]])
    agent = make_agent(TaskParametersConfig(), replace(make_problem(), num_tasks=2, task_parameters=table))
    agent.candidates = None
    folder = agent.export(tmp_path)
    description = json.loads((folder / "exported.json").read_text())
    assert description["encode"] == [{"name": "task_id", "shape": ["n"], "dtype": "torch.int64"}]
    assert description["candidates"] is None
    assert torch.equal(load(folder / "encode.pt2")(torch.tensor([1, 0, 1])), table[[1, 0, 1]])


def test_an_agent_of_another_dtype(tmp_path):
    agent = make_agent().to(torch.float64)
    folder = agent.export(tmp_path)
    entries = {
        each["name"]: each["dtype"] for each in json.loads((folder / "exported.json").read_text())["encode"]
    }
    assert entries["observation"] == "torch.float64"
    observation, context = (torch.randn(3, size, dtype=torch.float64) for size in (2, agent.context_dim))
    torch.testing.assert_close(
        load(folder / "act.pt2")(observation, context), agent.act(observation, context)
    )


def test_an_unknown_entry_is_named_before_anything_is_written(tmp_path):
    agent = make_agent()
    agent.context_encoder = ContextEncoder(nn.Linear(7, 4), in_keys=[("context", "camera")])
    with pytest.raises(
        AgentError, match=r"its encoder reads \('context', 'camera'\), whose size is not known"
    ):
        agent.export(tmp_path / "new")
    assert not (tmp_path / "new").exists()
