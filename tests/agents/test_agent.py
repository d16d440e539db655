from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl import Agent
from ctmrl_torchrl.agents import AgentError
from ctmrl_torchrl.data import CollectionRecipe, collect_task_dataset, draw_episode
from ctmrl_torchrl.envs import TaskSet, get_family, make_env
from ctmrl_torchrl.modules import EncoderConfig, TaskTableConfig
from ctmrl_torchrl.objectives.policy import BRACSACConfig
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.registry import UnknownChoiceError
from ctmrl_torchrl.rules import ConfigError


def make_agent(seed=0, gain=2.0):
    statistics = {key: (torch.full((2,), 0.3), torch.full((2,), 0.5)) for key in ("observation", "action")}
    statistics["observation_change"] = torch.zeros(2), torch.ones(2)
    statistics["next", "reward"] = torch.tensor([-1.0]), torch.tensor([0.7])
    problem = Problem(2, 2, 0.9, ("next", "reward"), False, statistics)
    torch.manual_seed(seed)
    agent = Agent.build(
        "ctmrl",
        "point_robot",
        problem,
        EncoderConfig(hidden=[8], context_dim=4, pool="mean_mlp", head_hidden=[8]),
        BRACSACConfig(hidden=[8], observation_gain=gain),
        horizon=20,
        episodes=4,
        random_episodes=2,
    )
    agent.candidates = torch.randn(3, 4)
    return agent


def evidence(rows=3, length=7):
    return TensorDict(
        {
            "observation": torch.randn(rows, length, 2),
            "action": torch.rand(rows, length, 2),
            "next": {"reward": torch.randn(rows, length, 1)},
        },
        [rows, length],
    )


def test_a_loaded_agent_is_the_saved_one(tmp_path):
    agent = make_agent()
    loaded = Agent.load(agent.save(tmp_path / "agent"))
    assert loaded.card == agent.card and torch.equal(loaded.candidates, agent.candidates)
    seen, observation = evidence(), torch.randn(3, 2)
    assert torch.equal(loaded.encode(seen), agent.encode(seen))
    context = agent.encode(seen)
    assert torch.equal(loaded.act(observation, context), agent.act(observation, context))
    assert loaded.act(observation, context).abs().max() <= 1.0
    assert {file.name for file in (tmp_path / "agent").iterdir()} == {"agent.json", "agent.safetensors"}


def test_statistics_travel_with_the_weights(tmp_path):
    """A fresh agent is built with placeholders: what it loads must replace them."""
    agent = make_agent()
    loaded = Agent.load(agent.save(tmp_path))
    names = [name for name, _ in loaded.context_encoder.named_buffers()]
    assert any(name.endswith("scale") for name in names)
    for (name, own), (_, other) in zip(
        agent.context_encoder.named_buffers(), loaded.context_encoder.named_buffers(), strict=True
    ):
        assert torch.equal(own, other), name


def test_adapting_gives_episodes_contexts_and_returns():
    agent, env = make_agent(), make_env("point_robot", [2, 6, 6])
    adapted = agent.adapt(env, "np", seed=1)
    assert adapted.returns.shape == (3, 4) and adapted.task_context.shape == (3, 4)
    assert adapted.episodes.shape == (3, 3, 20) and adapted.episodes["mask"].all()
    again = agent.adapt(env, "np", seed=1)
    assert torch.equal(adapted.returns, again.returns)
    # The last context is that of everything collected.
    torch.testing.assert_close(adapted.task_context, agent.encode(adapted.episodes.flatten(1, 2)))
    assert agent.adapt(env, "codes", episodes=5).returns.shape == (3, 5)
    assert agent.adapt(env, "none").episodes.shape == (3, 0, 20)


def test_the_candidates_move_with_the_networks():
    agent = make_agent()
    moved = agent.to(torch.float64)
    assert moved is agent and moved.candidates.dtype == moved.prior_context(1).dtype == torch.float64
    assert moved.to("meta").candidates.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_agent_is_loaded_with_the_precision_it_was_saved_with(dtype, tmp_path):
    agent = make_agent().to(dtype)
    agent.save(tmp_path)
    loaded = Agent.load(tmp_path)
    state, context = torch.full((3, 2), 0.3, dtype=dtype), torch.full((3, 4), 0.2, dtype=dtype)
    assert loaded.act(state, context).dtype == loaded.candidates.dtype == dtype
    assert torch.equal(loaded.act(state, context), agent.act(state, context))
    assert torch.equal(loaded.candidates, agent.candidates)
    assert loaded.context_encoder.state_dict().keys() == agent.context_encoder.state_dict().keys()


def test_a_task_that_is_in_no_set():
    family = get_family("point_robot")
    own = TaskSet(family, "mine", torch.tensor([[0.3, 0.9], [0.6, 0.6]], dtype=torch.float64), (0,), (1,))
    adapted = make_agent().adapt(make_env("point_robot", [1], task_set=own), episodes=3, random_episodes=1)
    assert adapted.returns.isfinite().all()


def test_offline_data_of_the_task_are_a_context():
    recipe = CollectionRecipe(snapshot_steps=(2,), trajectories_per_snapshot=3, hidden_sizes=(8,))
    dataset = collect_task_dataset("point_robot", recipe=recipe)
    agent, env = make_agent(), make_env("point_robot", [2, 6])
    draw = partial(draw_episode, dataset)
    adapted = agent.adapt(env, "offline", episodes=4, offline_draw=draw)
    assert adapted.episodes.shape == (2, 3, 20)
    recorded = dataset.transitions["observation"][dataset.transitions["task_id"].flatten() == 6]
    assert (adapted.episodes["observation"][1].flatten(0, 1)[:, None] == recorded).all(-1).any(-1).all()
    with pytest.raises(ValueError, match="40"):
        agent.adapt(env, "offline", task_ids=torch.tensor([2, 40]), offline_draw=draw)


def test_wrong_use_is_named(tmp_path):
    agent, env = make_agent(), make_env("point_robot", [2])
    with pytest.raises(UnknownChoiceError, match="Did you mean 'np'"):
        agent.adapt(env, "npp")
    with pytest.raises(ValueError, match="'offline' needs the task's offline data"):
        agent.adapt(env, "offline")
    with pytest.raises(AgentError, match="contains no agent"):
        Agent.load(tmp_path)


@pytest.mark.parametrize("protocol", ["np", "told"])
def test_a_table_of_training_tasks_does_not_encode_other_tasks(protocol):
    one = torch.zeros(2), torch.ones(2)
    problem = Problem(2, 2, 0.9, ("next", "reward"), False, {"observation": one}, num_tasks=40)
    networks = TaskTableConfig(context_dim=4), BRACSACConfig(hidden=[8])
    agent = Agent.build("anole", "point_robot", problem, *networks, horizon=20)
    agent.candidates, env = torch.randn(3, 4), make_env("point_robot", [2])
    with pytest.raises(
        ValueError, match=f"{protocol!r} encodes.*knows only its training.*anole, codes, none"
    ):
        agent.adapt(env, protocol)
    for name in ("anole", "codes", "none"):
        assert agent.adapt(env, name).returns.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.pop("encoder"), "lacks encoder"),
        (lambda card: card.update(nonsense=1), "unknown fields nonsense"),
        (lambda card: card.update(format_version=99), "format_version 99"),
        (lambda card: card["encoder"].update(name="mine"), "'mine' is not registered"),
        (lambda card: card["encoder"].update(mystery=1), "other fields"),
        (lambda card: card["encoder"].update(context_dim=5), "does not match its card"),
        (lambda card: card["problem"].update(action_dim="two"), "problem is not complete"),
        (lambda card: card.update(horizon="long"), "horizon must be a int"),
        (lambda card: card.update(horizon=0), "horizon must be at least 1"),
        (lambda card: card.update(format_version=99, versions=["2"]), "names: unknown"),
        (lambda card: card["encoder"].update(name=["pooling"]), "is not registered"),
        (lambda card: card["encoder"].update(hidden="wide"), "encoder.hidden: got 'wide', allowed is"),
        (lambda card: card["encoder"].update(hidden=[10**9]), "encoder.hidden exceeds the weights"),
        (lambda card: card["encoder"].update(context_dim=10**9), "encoder.context_dim exceeds the weights"),
        (lambda card: card["problem"].update(observation_dim=10**9), "observation_dim exceeds the weights"),
        (lambda card: card["problem"].update(observation_dim=2.0), "problem is not complete or not valid"),
        (lambda card: card["problem"].update(action_dim=True), "problem is not complete or not valid"),
    ],
)
def test_cards_that_do_not_fit(change, message, tmp_path):
    make_agent().save(tmp_path)
    card = json.loads((tmp_path / "agent.json").read_text())
    change(card)
    (tmp_path / "agent.json").write_text(json.dumps(card))
    with pytest.raises(AgentError, match=message):
        Agent.load(tmp_path)


def test_a_number_beyond_reason_in_a_card(tmp_path):
    make_agent().save(tmp_path)
    (tmp_path / "agent.json").write_text('{"horizon": ' + "9" * 5000 + "}")
    with pytest.raises(AgentError, match="cannot be read as an agent's card"):
        Agent.load(tmp_path)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path):
    file = make_agent().save(tmp_path) / "agent.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1  # the lowest bits of a number: finite, and nothing else could tell
    file.write_bytes(content)
    with pytest.raises(AgentError, match="was not saved with its card"):
        Agent.load(tmp_path)
    card = json.loads((tmp_path / "agent.json").read_text())
    del card["weights"]  # as earlier versions have saved it
    (tmp_path / "agent.json").write_text(json.dumps(card))
    assert Agent.load(tmp_path).card.weights == ""


def test_networks_of_two_precisions_do_not_fit(tmp_path):
    agent = make_agent()
    agent.actor.double()
    agent.save(tmp_path)
    with pytest.raises(AgentError, match="does not match its card"):
        Agent.load(tmp_path)


@pytest.mark.parametrize("file", ["agent.json", "agent.safetensors"])
def test_a_users_file_is_not_replaced_by_an_agent(file, tmp_path):
    (tmp_path / file).write_text('{"mine": 1}')
    with pytest.raises(AgentError, match="was not written with an agent and is not replaced"):
        make_agent().save(tmp_path)
    assert (tmp_path / file).read_text() == '{"mine": 1}' and len(list(tmp_path.iterdir())) == 1


def test_an_agent_is_replaced_through_a_link_and_a_bad_place_is_named(tmp_path):
    folder = make_agent().save(tmp_path / "disk")
    (tmp_path / "link").symlink_to(folder)
    other = make_agent(seed=1)
    other.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    observation = torch.zeros(1, 2)
    expected = other.act(observation, other.prior_context(1))
    assert torch.equal(Agent.load(folder).act(observation, other.prior_context(1)), expected)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "agent", ""):
        with pytest.raises(AgentError, match="cannot be used for an agent"):
            other.save(place)


@pytest.mark.parametrize("damage", [b"", b"\x80\x04nothing", b"{" * 10_000])
@pytest.mark.parametrize("file", ["agent.json", "agent.safetensors"])
def test_damaged_files(file, damage, tmp_path):
    make_agent().save(tmp_path)
    (tmp_path / file).write_bytes(damage)
    with pytest.raises(AgentError):
        Agent.load(tmp_path)


@pytest.mark.ci
def test_acting_needs_no_simulator_no_data_and_no_training(tmp_path):
    make_agent().save(tmp_path)
    code = f"""
import sys
for name in ("mujoco", "gymnasium", "hydra", "matplotlib", "sklearn"):
    sys.modules[name] = None
import torch
from ctmrl_torchrl import Agent
agent = Agent.load({str(tmp_path)!r})
assert agent.act(torch.zeros(3, 2), agent.prior_context(3)).shape == (3, 2)
assert not any(name.startswith(("ctmrl_torchrl.training", "ctmrl_torchrl.data")) for name in sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["encoder"].update(feature_gain=3.0), "describes other networks"),
        (lambda card: card["encoder"].pop("last"), "describes other networks"),
        (lambda card: card["policy_loss"].update(observation_gain=1.5), "describes other networks"),
        (lambda card: card.update(transition_key="x"), "describes other networks"),
        (lambda card: card["policy_loss"].update(reward_scale=10**400), "policy_loss.reward_scale: got 1000"),
        (lambda card: card["problem"].update(discount=float("nan")), "problem is not complete or not valid"),
        (lambda card: card["problem"].update(reward_key=[]), "problem is not complete or not valid"),
        (lambda card: card["problem"].update(context_next_observation=""), "not complete or not valid"),
        (lambda card: card.update(horizon=10**12), "horizon must be at least 1 and at most"),
    ],
)
def test_a_changed_card_is_not_read_silently(change, message, tmp_path):
    """The weights still fit such a card, but the agent would act differently."""
    make_agent().save(tmp_path)
    card = json.loads((tmp_path / "agent.json").read_text())
    change(card)
    weights = tmp_path / "agent.safetensors"
    (tmp_path / "agent.json").write_text(json.dumps(card))
    with pytest.raises(AgentError, match=message):
        Agent.load(tmp_path)
    assert weights.exists()


def test_what_a_card_says_besides_the_networks_may_be_edited(tmp_path):
    make_agent().save(tmp_path)
    file = tmp_path / "agent.json"
    card = json.loads(file.read_text()) | {"license": "CC-BY-4.0", "horizon": 30}
    file.write_text(json.dumps(card), encoding="utf-8-sig")  # an editor that adds a byte order mark
    assert Agent.load(tmp_path).card.license == "CC-BY-4.0"


def test_an_interrupted_save_leaves_the_old_agent_or_the_new_one(tmp_path, monkeypatch):
    observation = torch.rand(1, 2)
    old, new = make_agent(seed=0), make_agent(seed=1, gain=3.0)
    acts = {name: each.act(observation, each.prior_context(1)) for name, each in (("old", old), ("new", new))}
    found, replace = [], os.replace
    for step in range(3):  # killed before each of the three renames
        folder, left = old.save(tmp_path / str(step)), [step]

        def killed(source, target, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            new.save(folder)
        monkeypatch.setattr(os, "replace", replace)
        loaded = Agent.load(folder)
        act = loaded.act(observation, loaded.prior_context(1))
        found.append(next(name for name, each in acts.items() if torch.equal(act, each)))
        new.save(folder)
        assert {file.name for file in folder.iterdir()} == {"agent.json", "agent.safetensors"}
    assert found == ["old", "old", "new"]


@pytest.mark.parametrize("place", ["~nobody-of-this-name/agent", "x" * 300, "", None])
def test_a_place_that_cannot_be_read_is_named(place):
    with pytest.raises(AgentError, match="cannot be read"):
        Agent.load(place)


def test_an_environment_of_other_sizes_and_a_wrong_budget_are_named():
    agent, env = make_agent(), make_env("point_robot", [2])
    with pytest.raises(ValueError, match="the environment has {'observation': 20, 'action': 6}"):
        agent.adapt(make_env("half_cheetah_vel", [2]))
    for budget in ({"episodes": 3.5}, {"episodes": True}, {"random_episodes": 1.5}, {"seed": -1}):
        with pytest.raises(ConfigError, match=f"field {next(iter(budget))}: got"):
            agent.adapt(env, **budget)
