from __future__ import annotations

import json

import pytest
import torch
from registered import LENGTH, TASKS, Composition, meta_batch
from sameness import assert_same
from small_runs import check_adapts, check_resumed, outcome, small_config
from tensordict import TensorDict

from ctmrl_torchrl.methods.gentle import PseudoContexts
from ctmrl_torchrl.modules.decoders import make_transition_decoder
from ctmrl_torchrl.objectives.representation.gentle import TaskAutoencoderLoss
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import run_experiment
from ctmrl_torchrl.training.validate import validate_config

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")

SMALL = (
    "context.length=16",
    "policy_loss=td3_bc",
    "representation.store_every=3",
    "representation.store_rows=12",
    "representation.members=2",
    "representation.model_batch=100",  # four steps in each of seven epochs
    "representation.model_steps=28",
)
EPOCHS = 7


def gentle_config(root, run_dir, *overrides, **options):
    return small_config("gentle", root, run_dir, *SMALL, *overrides, **options)


@pytest.fixture(scope="module")
def uninterrupted(data_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("gentle")
    run_experiment(gentle_config(data_root, run_dir))
    return run_dir


@pytest.fixture
def experiment(data_root, tmp_path):
    return build_experiment(gentle_config(data_root, tmp_path))


def test_every_term_reaches_what_it_should():
    loss, batch = Composition(representation="gentle", policy_loss="td3_bc").build(), meta_batch()
    reached = {}
    for name in ("loss_reconstruction", "loss_qvalue", "loss_actor"):
        loss.zero_grad(set_to_none=True)
        loss(batch)[name].backward()
        reached[name] = {
            key.split(".")[0]
            for key, value in loss.named_parameters()
            if value.grad is not None and value.grad.any()
        }
    assert reached["loss_reconstruction"] == {"context_encoder", "representation"}
    assert reached["loss_qvalue"] == reached["loss_actor"] == {"policy"}


def test_the_reconstruction_by_hand():
    """Reward and next observation of the context's own transitions, each in its unit, padding left out."""
    torch.manual_seed(0)
    decoder = make_transition_decoder(observation_dim=3, action_dim=2, context_dim=4, hidden=[8])
    scales = torch.tensor([2.0]), torch.tensor([1.0, 4.0, 0.5])
    loss = TaskAutoencoderLoss(decoder, weight=10.0, reward_scale=scales[0], next_observation_scale=scales[1])
    batch = meta_batch()
    contexts = torch.randn(TASKS, 4)
    batch["context", "mask"][:, 5:] = False
    out = loss(batch.clone().set("task_context", contexts))
    context, total, rewards = batch["context"], 0.0, 0.0
    for task in range(TASKS):
        for step in range(5):
            row = context[task, step]
            reward, following = decoder(row["observation"], row["action"], contexts[task])
            error_r = ((reward - row["next", "reward"]) / 2.0).square()
            error_s = ((following - row["next", "observation"]) / scales[1]).square()
            total += torch.cat([error_r, error_s]).mean() / (5 * TASKS)
            rewards += error_r.mean() / (5 * TASKS)
    torch.testing.assert_close(out["loss_reconstruction"], 10.0 * total)
    torch.testing.assert_close(out["reward_error"], rewards.detach())


def test_rewards_alone_are_reconstructed_where_dynamics_do_not_vary(experiment):
    loss = experiment.loss.representation
    assert loss.decoder.out_keys == ["reward_prediction"]
    assert ("context", "next", "observation") not in loss.in_keys
    assert not experiment.parts.parts[0].models.next_observation


def test_the_reward_predictor_is_the_decoder():
    loss = Composition(representation="gentle").build().representation
    predictor = loss.reward_predictor
    assert predictor.out_keys == ["reward_prediction"] and len(loss.decoder.out_keys) == 2
    inputs = {"observation": torch.randn(5, 3), "action": torch.rand(5, 2), "task_context": torch.randn(5, 4)}
    given = TensorDict(inputs, [5])
    assert torch.equal(
        predictor(given.clone())["reward_prediction"], loss.decoder(given)["reward_prediction"]
    )


def test_the_models_learn_their_own_task(data_root, tmp_path):
    config = gentle_config(
        data_root,
        tmp_path,
        "representation.model_hidden=[32,32]",
        "representation.model_rate=0.01",
        "representation.model_steps=400",
    )
    part = PseudoContexts(build_experiment(config).parts.parts[0].setting, config.representation)
    part.prepare(lambda: None)
    inputs, targets, counts = part._data()
    assert inputs.shape[:2] == targets.shape[:2] == (30, int(counts.max()))
    with torch.no_grad():
        answers = part.models.network(inputs.unsqueeze(1)).mean(1)
        own = (answers - targets).square().mean((1, 2))
        other = (answers.roll(10, 0) - targets).square().mean((1, 2))
    assert (own < 0.1).all() and (own < 0.3 * other).all() and part.holdout_error < 0.1


def test_models_see_no_more_rows_than_asked_for_and_padding_never_counts(experiment):
    (part,) = experiment.parts.parts
    part.config.model_rows = 7
    inputs, _, counts = part._data()
    assert inputs.shape[1] == 7 and counts.tolist() == [7] * 30
    again, _, _ = part._data()
    assert torch.equal(inputs, again)  # an interrupted run draws the same rows
    # the rows are the task's own
    stored = experiment.dataset.transitions
    first = stored[stored["task_id"] == part.setting.train_ids[0]]
    known = part.models.inputs(first["observation"], first["action"])
    assert all((known == row).all(-1).any() for row in inputs[0])


def test_the_store_is_made_anew_on_schedule_from_the_present_policy(experiment):
    (part,), trainer = experiment.parts.parts, experiment.trainer
    trainer.begin()
    stores = []
    for _ in range(5):
        trainer.update(trainer.next_batch())
        trainer.update_count += 1
        stores.append(part.store)
    assert stores[0] is stores[1] is stores[2] is not stores[3] and stores[3] is stores[4]
    assert stores[0].batch_size == (30, 4 * 12)
    # the target actor's actions, without noise, with the task's own context
    loss = experiment.loss
    part.generator.manual_seed(1)
    store = part._made_up()
    part.generator.manual_seed(1)
    index = experiment.dataset.task_index(part.setting.train_ids)
    rows = experiment.dataset.rows.draw_rows(index, 12, part.generator)
    real = experiment.dataset.transitions[rows].exclude("task_id", "trajectory_id", "snapshot_id")
    assert torch.equal(store["observation"][:, :12], real["observation"])
    contexts = loss.encode(TensorDict({"context": real}, [30]), "context").detach()
    shown = {"observation": real["observation"], "task_context": contexts.unsqueeze(1).expand(30, 12, 5)}
    actions = loss.policy.act(TensorDict(shown, [30, 12]), target=True)
    torch.testing.assert_close(store["action"][:, :12], actions.detach())
    answers, _ = part.models(real["observation"], actions)
    torch.testing.assert_close(store["next", "reward"][:, :12], answers.detach())
    assert not store["next", "terminated"].any()


@pytest.mark.parametrize("policy_loss", ["brac_sac", "iql", "sac"])
def test_policies_without_a_target_actor_act_for_the_store_themselves(policy_loss, data_root, tmp_path):
    config = gentle_config(data_root, tmp_path, f"policy_loss={policy_loss}")
    experiment = build_experiment(config)
    (part,) = experiment.parts.parts
    store, again = (part._made_up() for _ in range(2) if part.generator.manual_seed(0))
    assert torch.equal(store["action"], again["action"]) and store["action"].abs().max() <= 1.0


def test_contexts_are_mostly_made_up_for_their_own_task(experiment):
    (part,), trainer = experiment.parts.parts, experiment.trainer
    trainer.begin()
    part.before_update(0)
    sampled = trainer.buffer.sample()
    before = sampled["context"].clone()
    batch = part.batch(sampled)
    context = batch["context"]
    assert context.batch_size == (4, 16) and context["mask"].all()
    for row, task in enumerate(batch["task_id"].tolist()):
        place = list(part.setting.train_ids).index(task)
        for step in range(16):  # int(16 * 0.95) = 15 made up, after one real transition
            source = before[row] if step == 0 else part.store[place]
            same = (source["observation"] == context["observation"][row, step]).all(-1)
            same &= (source["next", "reward"] == context["next", "reward"][row, step]).all(-1)
            assert same.any()


def test_padding_is_never_taken_for_a_real_transition(data_root, tmp_path):
    changes = ("context.kind=trajectories", "context.trajectories=[1,3]", "representation.made_up_share=0.2")
    experiment = build_experiment(gentle_config(data_root, tmp_path, *changes))
    (part,), trainer = experiment.parts.parts, experiment.trainer
    trainer.begin()
    part.before_update(0)
    sampled = trainer.buffer.sample()
    used = sampled["context", "mask"].sum(1)
    assert (used < 60).any()
    sampled["context", "observation"][~sampled["context", "mask"]] = 7.0
    assert (part.batch(sampled)["context", "observation"] < 7.0).all()


def test_without_made_up_transitions_it_is_a_task_autoencoder(data_root, tmp_path):
    """No models, no store, and contexts as they are sampled: the same numbers as the loss alone."""
    share = "representation.made_up_share=0"
    experiment = build_experiment(gentle_config(data_root, tmp_path / "whole", share))
    assert experiment.parts.parts == [] and isinstance(experiment.loss.representation, TaskAutoencoderLoss)
    twin = build_experiment(gentle_config(data_root, tmp_path / "alone", share))
    trainer = experiment.trainer
    trainer.begin()
    optimizer = torch.optim.Adam(
        [*twin.loss.context_encoder.parameters(), *twin.loss.representation.parameters()], 3e-3
    )
    twin.loss.policy_frozen = True
    twin.trainer.buffer.sampler.num_contexts = 1
    for _ in range(3):
        torch.manual_seed(0)
        trainer.schedule = None
        for group in trainer.optimizer.param_groups:
            group["lr"] = 3e-3
        trainer.update(trainer.next_batch())
        batch = twin.trainer.buffer.sample()
        optimizer.zero_grad()
        twin.loss(batch)["loss_reconstruction"].backward()
        optimizer.step()
    for name, value in twin.loss.context_encoder.named_parameters():
        torch.testing.assert_close(experiment.loss.context_encoder.get_parameter(name), value)


# 7 epochs of the models' fit; 8 updates, stores at 0, 3, 6, checkpoints after 3 and 6 and as said here
@pytest.mark.parametrize(
    ("where", "epoch", "updates"),
    [
        ("fit", 1, 0),
        ("fit", 5, 0),
        ("fitted", EPOCHS, 0),
        ("between stores", EPOCHS, 5),
        ("later", EPOCHS, 7),
    ],
)
def test_resumed_equals_uninterrupted_bit_for_bit(
    where, epoch, updates, uninterrupted, data_root, tmp_path, monkeypatch
):
    monkeypatch.setattr(PseudoContexts, "checkpoint_epochs", 1)
    checkpoints = "output.checkpoint_every=2" if where == "between stores" else "output.checkpoint_every=3"

    def killed(trainer, moment):
        (part,) = trainer.parts.parts
        if updates:
            return moment == "update" and trainer.update_count == updates
        return moment == "save" and part.epochs == epoch and part.fitted == (where == "fitted")

    check_resumed(
        lambda run_dir, *more: gentle_config(data_root, run_dir, checkpoints, *more),
        uninterrupted,
        tmp_path,
        killed,
    )


def test_what_a_run_holds(uninterrupted):
    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert summary["task_models"]["epochs"] == EPOCHS and summary["task_models"]["holdout_error"] > 0
    state = outcome(uninterrupted)[0]["parts"]["pseudo_contexts"]
    assert state["fitted"] and state["fit"] is None and state["store"]["action"].shape == (30, 48, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "representation.made_up_share=1",
            "representation.made_up_share: got 1.0, allowed is a number from 0",
        ),
        (
            "representation.store_every=0",
            "representation.store_every: got 0, allowed is a whole number of at",
        ),
        ("representation.others=30", "representation.others: got 30, allowed is at most 29"),
        ("representation.members=0", "representation.members: got 0"),
        ("representation.model_rate=0", "representation.model_rate: got 0.0, allowed is a positive number"),
        ("representation.model_rows=1", "representation.model_rows: got 1"),
        ("representation.reconstruction_weight=0", "representation.reconstruction_weight: got 0.0"),
    ],
)
def test_wrong_options_name_the_field(override, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(compose_config(["method=gentle", override]))


def test_the_policy_learns_from_the_beginning():
    config = compose_config(["method=gentle", "preset=quick", "env=ant_goal", "schedule.updates=70"])
    assert config.schedule.policy_start == 0.0 and config.representation.model_steps == 70
    assert compose_config(["method=gentle", "env=hopper_rand_params"]).encoder.context_dim == 10


def test_next_observations_are_part_of_everything_where_dynamics_vary(data_root, tmp_path):
    config = gentle_config(data_root, tmp_path, "env=point_robot_wind", "schedule.policy_start=0")
    experiment = build_experiment(config)
    (part,), trainer = experiment.parts.parts, experiment.trainer
    trainer.begin()
    trainer.update(trainer.next_batch())
    assert ("next", "observation") in part.store.keys(True) and part.models.next_observation
    assert experiment.loss.representation.decoder.out_keys[-1] == "next_observation_prediction"


def test_it_adapts_under_every_protocol(data_root, tmp_path):
    check_adapts("gentle", data_root, tmp_path, ("offline", "online", "np", "np_refine", "codes"), *SMALL)


def test_states_of_the_part_go_and_come_back(uninterrupted, data_root, tmp_path):
    state = outcome(uninterrupted)[0]["parts"]
    fresh = build_experiment(gentle_config(data_root, tmp_path)).parts
    fresh.load_state_dict(state)
    assert_same(fresh.state_dict(), state)


def test_a_transition_of_another_shape_is_named():
    batch = meta_batch().set("task_context", torch.zeros(TASKS, 4))
    loss = Composition(representation="gentle").build().representation
    batch["context", "next", "reward"] = torch.zeros(TASKS, LENGTH)
    with pytest.raises(ValueError, match=r"TaskAutoencoderLoss.*reward.*\[T, L, 1\]"):
        loss(batch)
