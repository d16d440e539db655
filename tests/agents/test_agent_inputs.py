"""What an agent cannot read is named with its key, its shape or type, and the mend."""

from __future__ import annotations

import gymnasium
import pytest
import torch
from tensordict import TensorDict
from test_agent import evidence, make_agent
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import (
    DoubleToFloat,
    DTypeCastTransform,
    EnvBase,
    GymEnv,
    RenameTransform,
    SerialEnv,
    TransformedEnv,
)

from ctmrl_torchrl import Agent
from ctmrl_torchrl.envs import make_env
from ctmrl_torchrl.modules import EncoderConfig, TaskParametersConfig
from ctmrl_torchrl.objectives.policy import BRACSACConfig
from ctmrl_torchrl.problem import Problem

STATE = torch.zeros(3, 2), torch.zeros(3, 4)


def says(error, *parts):
    for part in parts:
        assert part in str(error.value), f"{part!r} is not in {str(error.value)!r}"


@pytest.mark.parametrize(
    ("observation", "context", "parts"),
    [
        (STATE[0].double(), STATE[1], ["'observation' has the dtype torch.float64, expected torch.float32"]),
        (STATE[0], STATE[1].double(), ["'task_context' has the dtype torch.float64", ".to(torch.float32)"]),
        (STATE[0].half(), STATE[1].half(), ["'observation' has the dtype torch.float16"]),
        (
            STATE[0][0],
            STATE[1][0],
            ["'observation' has shape [2], expected [n, 2]", "observation.unsqueeze(0)"],
        ),
        (STATE[0], STATE[1][0], ["'task_context' has shape [4], expected [n, 4]", "unsqueeze(0)"]),
        (STATE[0], STATE[1][:, :3], ["'task_context' has shape [3, 3], expected [n, 4]"]),
        (torch.zeros(3, 5), STATE[1], ["'observation' has shape [3, 5], expected [n, 2]"]),
        (STATE[0], STATE[1][:1], ["[3, 2] and 'task_context' [1, 4]", "task_context.expand"]),
        (STATE[0] / 0, STATE[1], ["6 of the 6 numbers in 'observation' are not finite"]),
        (STATE[0], STATE[1] / 0, ["numbers in 'task_context' are not finite"]),
        (STATE[0].to("meta"), STATE[1], ["'observation' is on the device meta, expected cpu"]),
    ],
)
def test_states_that_do_not_fit(observation, context, parts):
    with pytest.raises(ValueError) as error:
        make_agent().act(observation, context)
    says(error, "Agent.act: ", *parts)


def test_arrays_are_not_tensors():
    with pytest.raises(TypeError, match=r"'observation' is a ndarray, expected a torch.Tensor"):
        make_agent().act(STATE[0].numpy(), STATE[1])


def test_what_promotes_to_the_agents_type_is_read():
    agent = make_agent()
    expected = agent.act(*STATE)
    for observation in (STATE[0].long(), STATE[0].half()):
        assert torch.equal(agent.act(observation, STATE[1]), expected)
    double = make_agent().to(torch.float64)
    assert double.act(STATE[0].double(), double.prior_context(3)).dtype == torch.float64
    assert agent.act(*(torch.zeros(2, 3, size) for size in (2, 4))).shape == (2, 3, 2)


def broken(key):
    transitions = evidence()
    transitions[key].flatten()[0] = float("nan")
    return transitions


@pytest.mark.parametrize(
    ("transitions", "kind", "parts"),
    [
        (lambda: evidence().double(), ValueError, ["'observation' has the dtype torch.float64"]),
        (lambda: evidence()[0], ValueError, ["[7, 2], expected [n, L, 2]", "transitions.unsqueeze(0)"]),
        (lambda: evidence().exclude("action"), KeyError, ["Agent.encode reads 'action'", "it holds"]),
        (
            lambda: evidence().set("action", torch.zeros(3, 7, 5)),
            ValueError,
            ["'action' has shape [3, 7, 5], expected [n, L, 2]"],
        ),
        (
            lambda: broken(("next", "reward")),
            ValueError,
            ["1 of the 21 numbers in ('next', 'reward') are not finite"],
        ),
        (lambda: {"observation": STATE[0]}, TypeError, ["are a dict, expected a TensorDict [n, L]"]),
    ],
)
def test_evidence_that_does_not_fit(transitions, kind, parts):
    with pytest.raises(kind) as error:
        make_agent().encode(transitions())
    says(error, "Agent.encode", *parts)


def test_an_encoder_of_the_task_id_encodes_no_transitions():
    parameters, statistics = torch.randn(40, 2), {"observation": (torch.zeros(2), torch.ones(2))}
    problem = Problem(2, 2, 0.9, ("next", "reward"), False, statistics, 40, parameters)
    networks = TaskParametersConfig(), BRACSACConfig(hidden=[8])
    agent = Agent.build("oracle", "point_robot", problem, *networks, horizon=20)
    with pytest.raises(ValueError) as error:
        agent.encode(evidence())
    says(error, "encoder reads 'task_id', which is no entry of transitions", "Agent.adapt(env, 'told')")
    told = agent.adapt(make_env("point_robot", [6]), "told").task_context
    assert torch.equal(told, parameters[6:7])


def test_environments_that_are_none():
    agent = make_agent()
    for env in (gymnasium.make("Pendulum-v1"), "point_robot"):
        with pytest.raises(TypeError) as error:
            agent.adapt(env)
        says(error, f"env is a {type(env).__name__}, expected a batched torchrl", "make_env", "SerialEnv")
    with pytest.raises(ValueError, match="env is a function.*give task_ids="):
        agent.adapt(lambda tasks: make_env("point_robot", tasks))


def test_the_mend_for_an_environment_of_gymnasium():
    sizes = {"observation": 3, "action": 1, ("next", "reward"): 1, "observation_change": 3}
    statistics = {key: (torch.zeros(size), torch.ones(size)) for key, size in sizes.items()}
    problem = Problem(3, 1, 0.9, ("next", "reward"), False, statistics)
    networks = EncoderConfig(hidden=[8], context_dim=4), BRACSACConfig(hidden=[8])
    card = {"horizon": 5, "episodes": 2, "random_episodes": 1}
    agent = Agent.build("ctmrl", "pendulum", problem, *networks, **card)
    with pytest.raises(ValueError, match=r"batch size \[\].*SerialEnv"):
        agent.adapt(GymEnv("Pendulum-v1"))
    assert agent.adapt(SerialEnv(1, lambda: GymEnv("Pendulum-v1"))).returns.shape == (1, 2)


def test_the_mend_for_an_environment_of_double_precision():
    agent, budget = make_agent(), {"episodes": 2, "random_episodes": 1}
    widen = DTypeCastTransform(torch.float32, torch.float64, in_keys=["observation"])
    env = TransformedEnv(make_env("point_robot", [2]), widen)
    with pytest.raises(ValueError) as error:
        agent.adapt(env, **budget)
    says(error, "computes with torch.float32", "'observation' has the dtype torch.float64", "DoubleToFloat()")
    assert agent.adapt(env.append_transform(DoubleToFloat()), **budget).returns.shape == (1, 2)


class Flagged(EnvBase):
    """Two steps to the end, which is marked below the robot alone, as in environments of several agents."""

    def __init__(self):
        super().__init__(batch_size=[2])
        numbers, flag = Unbounded((2, 2)), Categorical(2, dtype=torch.bool, shape=(2, 1))
        self.observation_spec = Composite(observation=numbers, shape=(2,))
        self.action_spec = Bounded(-1, 1, (2, 2))
        self.reward_spec = Unbounded((2, 1))
        flags = Composite(done=flag, terminated=flag.clone(), shape=(2,))
        self.done_spec = Composite(robot=flags, shape=(2,))

    @staticmethod
    def _state(observation):
        done = observation[:, :1] == 2
        flags = TensorDict({"done": done, "terminated": done.clone()}, [2])
        return TensorDict({"observation": observation, "robot": flags}, [2])

    def _reset(self, tensordict=None, **kwargs):
        return self._state(torch.zeros(2, 2))

    def _step(self, tensordict):
        return self._state(tensordict["observation"] + 1).set("reward", torch.ones(2, 1))

    def _set_seed(self, seed):
        pass


def test_the_mend_for_an_environment_whose_end_is_nested():
    agent, budget = make_agent(), {"episodes": 2, "random_episodes": 1}
    with pytest.raises(ValueError) as error:
        agent.adapt(Flagged(), **budget)
    says(error, "('robot', 'done')", "expected 'done'", "out_keys=['done', 'terminated']")
    renamed = RenameTransform(
        in_keys=[("robot", "done"), ("robot", "terminated")], out_keys=["done", "terminated"]
    )
    adapted = agent.adapt(TransformedEnv(Flagged(), renamed), **budget)
    assert adapted.returns.tolist() == [[2, 2], [2, 2]]
