from __future__ import annotations

import pytest
import torch
from registered import LENGTH, TASKS, Composition, meta_batch
from small_runs import assert_same, check_adapts, check_resumed, outcome, reached, small_config
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from ctmrl_torchrl.collectors import FragmentSource, MetaTestCollector, PreferenceSearchProtocol
from ctmrl_torchrl.collectors.protocol import ProtocolSettings
from ctmrl_torchrl.envs import make_env, make_task_set
from ctmrl_torchrl.envs.mujoco.relabel import rewards_in_tasks as robot_rewards
from ctmrl_torchrl.envs.point_robot import rewards_in_tasks
from ctmrl_torchrl.modules import TaskTable
from ctmrl_torchrl.modules.decoders import make_preference_reward
from ctmrl_torchrl.objectives.representation.anole import PreferenceLoss
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import prepare, run_experiment
from ctmrl_torchrl.training.fragments import stored_fragments
from ctmrl_torchrl.training.stacked import StackedTrainer
from ctmrl_torchrl.training.validate import validate_config

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def anole_config(root, run_dir, *overrides, protocols="[anole]"):
    return small_config("anole", root, run_dir, *overrides, protocols=protocols)


@pytest.fixture(scope="module")
def uninterrupted(data_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("anole")
    run_experiment(anole_config(data_root, run_dir))
    return run_dir


# the loss


def test_every_term_reaches_what_it_should():
    composition = Composition(encoder="table", representation="anole")
    for critic_gradient, by_critic in (("none", {"policy"}), ("all", {"policy", "context_encoder"})):
        loss = composition.build(critic_gradient=critic_gradient)
        torch.manual_seed(0)
        out = loss(meta_batch())
        assert reached(loss, out["loss_preference"]) == {"context_encoder", "representation"}
        assert reached(loss, out["loss_divergence"]) == {"context_encoder"}
        assert reached(loss, out["loss_qvalue"]) == by_critic
        assert reached(loss, out["loss_actor"]) == {"policy"}


def reward_model():
    return make_preference_reward(observation_dim=3, action_dim=2, context_dim=4, hidden=[8])


def test_preferences_by_hand():
    """Whole draws are compared; what the mask leaves out counts neither for the model nor for the label."""
    torch.manual_seed(0)
    model, batch = reward_model(), meta_batch()
    loss = PreferenceLoss(model, preference_weight=10.0, fragment=LENGTH)
    batch["context", "mask"][:, 4:] = False
    batch["context", "next", "reward"][:, 4:] = 100.0
    contexts = torch.randn(TASKS, 4)
    out = loss(batch.clone().set("task_context", contexts))
    total, right = 0.0, 0.0
    for task in range(TASKS):
        sums = []
        for name, steps in (("context", 4), ("context_positive", LENGTH)):
            rows = batch[name][task][:steps]
            features = torch.cat([rows["observation"], rows["action"]], -1)
            predicted = torch.tanh(model.module.embedding(features) @ contexts[task]).sum()
            sums.append((predicted, rows["next", "reward"].sum()))
        (first, true_first), (second, true_second) = sums
        better = true_first >= true_second
        chance = torch.sigmoid(first - second)
        total -= torch.log(chance if better else 1 - chance) / TASKS
        right += ((first > second) == better).float() / TASKS
    torch.testing.assert_close(out["loss_preference"], 10.0 * total)
    torch.testing.assert_close(out["preference_accuracy"], right)
    assert out["loss_divergence"] == 0.0  # this encoder has no distribution


def test_fragments_are_consecutive_steps_that_count():
    loss, tasks, length = PreferenceLoss(reward_model(), fragment=3), 400, 9
    steps = torch.arange(float(length)).expand(tasks, length)
    mask = torch.ones(tasks, length, dtype=torch.bool)
    mask[:, 2] = mask[:, 7:] = False  # a gap and padding: six steps count
    number = torch.where(mask, mask.cumsum(1) - 1.0, torch.nan).unsqueeze(-1)
    tensors = {"observation": steps.unsqueeze(-1).expand(-1, -1, 3), "action": torch.zeros(tasks, length, 2)}
    draw = TensorDict(tensors | {"next": {"reward": number}, "mask": mask}, [tasks, length])
    torch.manual_seed(0)
    _, returns = loss._compared(draw, torch.zeros(tasks, 4))
    assert returns.unique().tolist() == [3.0, 6.0, 9.0, 12.0]  # 0+1+2 to 3+4+5
    # an episode shorter than a fragment is compared as a whole
    draw["mask"] = torch.arange(length).expand(tasks, length) < 2
    draw["next", "reward"] = torch.ones(tasks, length, 1)
    assert loss._compared(draw, torch.zeros(tasks, 4))[1].unique().tolist() == [2.0]


def test_the_prior_is_that_of_the_tables_rows():
    loss = Composition(encoder="table", representation="anole").build(divergence_weight=0.5)
    batch = meta_batch()
    batch["task_id"] = torch.tensor([3, 0, 0, 1, 2])
    torch.manual_seed(0)
    out = loss(batch)
    table = loss.context_encoder
    normal = torch.distributions.Normal(table.mean, table.log_std.exp())
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    expected = 0.5 * divergence[batch["task_id"]].mean()
    torch.testing.assert_close(out["loss_divergence"], expected)


def test_it_learns_to_tell_better_from_worse(data_root, tmp_path):
    changes = ["sizes.encoder_hidden=[32]", "batch.tasks=120", "encoder.noisy=false"]
    experiment = build_experiment(anole_config(data_root, tmp_path, *changes))
    trainer, accuracies = experiment.trainer, []
    trainer.schedule, experiment.loss.policy_frozen = None, True
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.02
    trainer.begin()
    for _ in range(60):
        accuracies.append(trainer.update(trainer.next_batch())["preference_accuracy"].item())
    assert sum(accuracies[-10:]) / 10 > 0.7 > accuracies[0]


# rewards of other tasks, and fragments


def test_stored_rewards_are_those_of_their_own_task(data_root, tmp_path):
    experiment = build_experiment(anole_config(data_root, tmp_path))
    stored = experiment.dataset.transitions[::97]
    rows = stored.exclude("task_id", "trajectory_id", "snapshot_id").reshape(-1, 1)
    rewards = rewards_in_tasks(experiment.task_set, torch.arange(40), rows)
    own = rewards[stored["task_id"], torch.arange(len(stored)), 0]
    torch.testing.assert_close(own, stored["next", "reward"].squeeze(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("env", ["half_cheetah_vel", "ant_goal"])
def test_a_robots_rewards_are_those_of_its_task(env):
    tasks = torch.tensor([0, 7, 7])
    played = make_env(env, tasks).rollout(6, break_when_any_done=False)
    rewards = robot_rewards(make_task_set(env), tasks, played)
    own = rewards[torch.arange(3), torch.arange(3)]
    torch.testing.assert_close(own, played["next", "reward"].squeeze(-1), atol=2e-3, rtol=1e-3)
    assert not torch.allclose(rewards[0, 1], rewards[1, 1])


def test_a_robot_of_another_body_has_no_such_rewards():
    with pytest.raises(ValueError, match="share one reward function"):
        robot_rewards(make_task_set("hopper_rand_params"), torch.tensor([0]), TensorDict({}, [1, 1]))


def test_fragments_lie_within_episodes_of_training_tasks(data_root, tmp_path):
    experiment = build_experiment(anole_config(data_root, tmp_path))
    dataset, task_set = experiment.dataset, experiment.task_set
    source = stored_fragments(dataset, task_set, torch.device("cpu"))
    fragments = source.draw(50, torch.Generator().manual_seed(0))
    assert fragments.batch_size == (50, 20)
    assert torch.equal(fragments["observation"][:, 1:], fragments["next", "observation"][:, :-1])
    training = torch.isin(dataset.transitions["task_id"], torch.tensor(list(task_set.train_ids)))
    known = dataset.transitions[training]["observation"]
    assert all((known == row).all(-1).any() for row in fragments["observation"][:, 3])
    tasks = torch.tensor([5, 2, 5])
    returns = source.returns(fragments, tasks)
    torch.testing.assert_close(returns, rewards_in_tasks(task_set, tasks, fragments).sum(-1))


def test_families_with_one_reward_function_have_no_fragments(data_root, tmp_path):
    experiment = build_experiment(anole_config(data_root, tmp_path))
    assert (
        stored_fragments(experiment.dataset, make_task_set("point_robot_wind"), torch.device("cpu")) is None
    )


# the search


GOALS = make_task_set("point_robot").parameters.float()


def exact_rewards():
    """Knows the rewards of a task whose context is its goal."""

    def reward(observation, action, goal):
        position = observation + 0.1 * action.clamp(-1, 1)
        return -(position - goal).norm(dim=-1, keepdim=True)

    return TensorDictModule(reward, ["observation", "action", "task_context"], ["reward_prediction"])


def walker(toward):
    return TensorDictModule(toward, ["observation", "task_context"], ["action"])


def collector(env, tasks, toward):
    nothing = TaskTable(range(40), 2)  # an encoder that must not be asked
    options = {"task_ids": tasks, "horizon": 20, "context_dim": 2}
    return MetaTestCollector(make_env(env, tasks), walker(toward), nothing, **options)


def toward_goal(observation, goal):
    return ((goal - observation) / 0.1).clamp(-1, 1)


@pytest.fixture
def source(data_root, tmp_path):
    experiment = build_experiment(anole_config(data_root, tmp_path))
    return stored_fragments(experiment.dataset, experiment.task_set, torch.device("cpu"))


def test_a_noiseless_oracle_halves_the_candidates_and_finds_the_planted_one(source):
    """End to end on point_robot: the candidates are the goals of all tasks, the right one among them."""
    tasks = torch.tensor([3, 17, 17, 38])
    left = []

    class Watched(PreferenceSearchProtocol):
        def context(self, run):
            left.append(self._search.leaders().sum(-1))
            return super().context(run)

    protocol = Watched(
        GOALS, episodes=12, error_rate=0.0, reward_predictor=exact_rewards(), fragments=source, pairs=400
    )
    with collector("point_robot", tasks, toward_goal) as meta_test:
        run = meta_test.run(protocol, seed=0)
    counts = torch.stack(left, 1)  # after 0, 1, 2, ... questions
    assert counts[:, 0].tolist() == [40] * 4 and (counts[:, 1] <= 22).all() and (counts[:, 2] <= 12).all()
    assert (counts[:, 1:] <= counts[:, :-1]).all() and counts[:, -1].tolist() == [1] * 4
    assert torch.equal(run["task_context"][:, -1], GOALS[tasks])
    assert (run["returns"][:, -1] >= run["returns"][:, 0]).all()
    assert run["oracle_answers"][0].tolist() == [*range(11), 10]
    assert not run["episodes"].any() and not run["env_steps"].any()


def test_an_oracle_that_errs_is_forgiven(source):
    tasks = torch.arange(40)
    errors = []
    for error_rate in (0.0, 0.2):
        protocol = PreferenceSearchProtocol(
            GOALS, episodes=3, error_rate=error_rate, reward_predictor=exact_rewards(), fragments=source
        )
        with collector("point_robot", tasks, toward_goal) as meta_test:
            run = meta_test.run(protocol, seed=1)
        assert run["oracle_answers"][0].tolist() == [0, 5, 10]  # shared out among fewer measurements
        errors.append((run["task_context"] - GOALS.unsqueeze(1)).norm(dim=-1).mean(0))
    assert errors[0][-1] < 0.05 and errors[1][-1] < 0.5 * errors[1][0]


def test_where_rewards_are_shared_rollouts_are_compared():
    """Candidates are winds; the policy leans against the wind that it believes in."""
    winds = make_task_set("point_robot_wind").parameters.float()
    tasks = torch.arange(0, 40, 2)

    def against(observation, wind):
        return ((torch.tensor([1.0, 0.0]) - observation - wind) / 0.1).clamp(-1, 1)

    protocol = PreferenceSearchProtocol(winds, episodes=13, error_rate=0.0)
    with collector("point_robot_wind", tasks, against) as meta_test:
        run = meta_test.run(protocol, seed=0)
    # one episode first, then one per question; the eleventh question is not asked
    assert run["episodes"][0].tolist() == [*range(12), 11]
    assert run["oracle_answers"][0].tolist() == [0, 0, *range(1, 11), 10]
    error = (run["task_context"] - winds[tasks].unsqueeze(1)).norm(dim=-1).mean(0)
    assert error[-1] < 0.5 * error[0]
    assert run["returns"][:, -1].mean() > run["returns"][:, 0].mean()


def test_no_more_rollouts_than_the_budget_allows():
    protocol = PreferenceSearchProtocol(torch.randn(18, 2), episodes=4)
    assert protocol.queries == 2
    with collector("point_robot_wind", torch.tensor([1, 2]), toward_goal) as meta_test:
        run = meta_test.run(protocol, seed=0)
    assert run["episodes"][0].tolist() == [0, 1, 2, 3] and run["oracle_answers"][0].tolist() == [0, 0, 1, 2]
    few = PreferenceSearchProtocol(torch.randn(2, 2), episodes=6)  # both are played soon
    with collector("point_robot_wind", torch.tensor([1, 2]), toward_goal) as meta_test:
        run = meta_test.run(few, seed=0)
    assert run["episodes"][0].tolist() == [0, 1, 2, 2, 2, 2] and run["oracle_answers"][0, -1] == 4


def test_the_same_seed_plays_the_same_game(source):
    options = {"reward_predictor": exact_rewards(), "fragments": source}
    runs = []
    for _ in range(2):
        with collector("point_robot", torch.tensor([3, 3]), toward_goal) as meta_test:
            runs.append(meta_test.run(PreferenceSearchProtocol(GOALS, 6, **options), seed=4))
    assert (runs[0] == runs[1]).all()
    assert not torch.equal(runs[0]["task_context"][0], runs[0]["task_context"][1])  # repeats differ


def test_a_search_without_a_question_is_refused(source):
    with pytest.raises(ValueError, match="give at least 2 and 3, so that at least one query is possible"):
        PreferenceSearchProtocol(GOALS, episodes=2)
    with pytest.raises(ValueError, match="1 candidates"):
        PreferenceSearchProtocol(GOALS[:1], episodes=9)
    with pytest.raises(ValueError, match="need reward_predictor="):
        PreferenceSearchProtocol(GOALS, fragments=FragmentSource(source.draw, source.returns))


def test_candidates_come_from_the_method_or_from_the_training_tasks():
    wanted = []

    def own(count):
        wanted.append(count)
        return torch.ones(count, 2)

    settings = ProtocolSettings(
        options={"search_candidates": own}, training_contexts=lambda: torch.zeros(5, 2)
    )
    assert PreferenceSearchProtocol.from_settings(settings).candidates.shape == (18, 2) and wanted == [18]
    settings = ProtocolSettings(training_contexts=lambda: torch.zeros(5, 2))
    assert PreferenceSearchProtocol.from_settings(settings).candidates.shape == (5, 2)
    with pytest.raises(ConfigError, match="evaluation.protocols.*needs candidate contexts"):
        PreferenceSearchProtocol.from_settings(ProtocolSettings())


# the method


def test_candidates_are_the_training_tasks_alone(data_root, tmp_path):
    experiment = build_experiment(anole_config(data_root, tmp_path))
    candidates = experiment.tester.options()["search_candidates"]
    table, train_ids = experiment.loss.context_encoder, list(experiment.task_set.train_ids)
    assert torch.equal(candidates(18), table.mean[train_ids].detach())
    more = candidates(33)
    assert more.shape == (33, 5) and torch.equal(more, candidates(33))
    assert not (more[30:].unsqueeze(1) == table.mean).all(-1).any()


def test_it_adapts_by_the_search_alone(data_root, tmp_path):
    runs = check_adapts("anole", data_root, tmp_path, ["anole"])
    assert (runs["anole"]["oracle_answers"][..., -1] == 10).all() and not runs["anole"]["episodes"].any()


def test_it_adapts_by_rollouts_where_rewards_are_shared(data_root, tmp_path):
    runs = check_adapts("anole", data_root, tmp_path, ["anole"], "env=point_robot_wind")
    assert (runs["anole"]["oracle_answers"][..., -1] == 2).all() and (
        runs["anole"]["episodes"][..., -1] == 3
    ).all()


@pytest.mark.parametrize("method", ["gentle", "ctmrl_relabel", "unicorn"])
def test_other_methods_that_predict_rewards_can_be_searched(method, data_root, tmp_path):
    runs = check_adapts(method, data_root, tmp_path, ["anole", "np"], *method_extras(method))
    assert (runs["anole"]["oracle_answers"][..., -1] == 10).all() and not runs["np"]["oracle_answers"].any()


def method_extras(method):
    extras = {"gentle": ["representation.made_up_share=0"], "ctmrl_relabel": ["representation.codes=2"]}
    return extras.get(method, [])


def test_the_search_goes_with_any_method_where_rollouts_are_compared(data_root, tmp_path):
    check_adapts("focal", data_root, tmp_path, ["anole"], "env=point_robot_wind")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["method=anole", "evaluation.protocols=[anole,np]"],
            "evaluation.protocols: .*without 'np', which enc",
        ),
        (
            ["method=anole", "evaluation.protocols=[offline]"],
            "knows only the training tasks; choose from anole",
        ),
        (
            ["method=anole", "evaluation.protocols=[told]"],
            "evaluation.protocols: .*without 'told', which enc",
        ),
        (
            ["method=anole", "evaluation.protocols=[codes]"],
            "evaluation.protocols: .*without 'codes', which enc",
        ),
        (
            ["method=focal", "evaluation.protocols=[anole]"],
            "evaluation.protocols: got 'anole', .*predicts rewa",
        ),
        (
            ["method=anole", "evaluation.episodes=1"],
            "evaluation.episodes: got 1, allowed is at least 2 under",
        ),
        (["method=anole", "env=point_robot_wind", "evaluation.episodes=2"], "episodes: got 2, .* at least 3"),
        (
            ["method=anole", "evaluation.oracle_error=0.5"],
            "evaluation.oracle_error: got 0.5, allowed is a numb",
        ),
        (
            ["method=anole", "evaluation.queries=0"],
            "evaluation.queries: got 0, allowed is a whole number of at",
        ),
        (["method=anole", "representation.fragment=0"], "representation.fragment: got 0"),
        (["method=anole", "representation.preference_weight=0"], "representation.preference_weight: got 0.0"),
        (
            ["method=anole", "representation.divergence_weight=-1"],
            "representation.divergence_weight: got -1.0",
        ),
        (["method=anole", "representation.reward_hidden=[]"], "representation.reward_hidden: got"),
    ],
)
def test_wrong_options_name_the_field(overrides, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(compose_config(overrides))


@pytest.mark.parametrize(
    ("env", "critic_gradient"),
    [("sparse_point_robot", "none"), ("point_robot_wind", "all"), ("ant_goal", "none")],
)
def test_contexts_and_protocols_are_its_own_in_every_environment(env, critic_gradient):
    config = compose_config(["method=anole", f"env={env}"])
    validate_config(config)
    assert config.context.trajectories == [1, 1] and config.context.behaviours is None
    assert config.evaluation.protocols == ["none", "anole"]
    assert config.representation.critic_gradient == critic_gradient


# 8 updates, checkpoints after 3 and 6
@pytest.mark.parametrize("killed_at", [2, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(killed_at, uninterrupted, data_root, tmp_path):
    check_resumed(
        lambda run_dir, *more: anole_config(data_root, run_dir, "output.checkpoint_every=2", *more),
        uninterrupted,
        tmp_path,
        lambda trainer, moment: moment == "update" and trainer.update_count == killed_at,
    )


def test_costs_are_in_the_summary(uninterrupted):
    summary = outcome(uninterrupted)[1]
    assert summary["returns"]["test"]["anole"]["cost"]["oracle_answers"] == 10
    assert summary["returns"]["test"]["anole"]["cost"]["episodes"] == 0


def test_seeds_can_be_trained_together(data_root, tmp_path):
    def config(kind, seed):
        folder = tmp_path / f"{kind}-{seed}"
        return anole_config(data_root, folder, f"seed={seed}", "schedule.updates=3")

    alone = prepare(config("alone", 1))
    alone.trainer.train()
    together = [prepare(config("together", seed)) for seed in (0, 1)]
    StackedTrainer([each.trainer for each in together], [0, 1]).train()
    expected = alone.loss.context_encoder.state_dict()
    found = together[1].loss.context_encoder.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_the_table_is_part_of_the_agent(uninterrupted):
    state = outcome(uninterrupted)[0]["loss"]
    assert state["context_encoder.mean"].shape == (40, 5)
    assert_same(outcome(uninterrupted)[0]["parts"], {"searched_table": {}})
