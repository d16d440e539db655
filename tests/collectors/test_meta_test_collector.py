from __future__ import annotations

import pytest
import torch
from hand_made_agents import HORIZON, Counts, EarlyEnv, GoalFinder, MarkedActor, Walker, make_collector
from tensordict import TensorDict
from torch import nn
from torchrl.data import Composite, Unbounded
from torchrl.envs import RenameTransform, TransformedEnv

from ctmrl_torchrl.collectors import MetaTestCollector, NonPriorProtocol, OfflineProtocol, OnlineProtocol
from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.modules import ContextEncoder, make_context_encoder


def counts(run):
    """Episodes in each measurement's context [E, kind], the same for every row."""
    contexts = run["task_context"]
    torch.testing.assert_close(contexts, contexts[:1].expand_as(contexts))
    return contexts[0].tolist()


def test_np_uses_k_episodes_random_ones_first_and_no_measured_ones():
    run = make_collector(Counts(), MarkedActor()).run(NonPriorProtocol(episodes=6, random_episodes=3))
    # all, deterministic (so measured) ones, noisy ones of the policy's own
    assert counts(run) == [[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 1], [5, 0, 2]]


def test_online_starts_from_zeros_and_collects_its_own_noisy_episodes():
    run = make_collector(Counts(), MarkedActor()).run(OnlineProtocol(episodes=4))
    assert counts(run) == [[0, 0, 0], [1, 0, 1], [2, 0, 2], [3, 0, 3]]


def test_result_is_as_documented():
    run = make_collector(Counts(), MarkedActor()).run(OnlineProtocol(episodes=4))
    assert run.batch_size == (3,)
    assert run["task_id"].tolist() == [2, 6, 6]
    assert run["returns"].shape == (3, 4)
    assert run["task_context"].shape == (3, 4, 3)
    assert run["first_path"].shape == run["last_path"].shape == (3, HORIZON + 1, 2)
    assert not run["first_path"][:, 0].any()
    # the first collected episode is noisy, the last measured one is not
    assert (run["first_path"][:, -1, 1] < 0).all() and (run["last_path"][:, -1, 1] > 0).all()


def test_a_protocol_may_change_its_context_in_place():
    class Running(OnlineProtocol):
        def reset(self, run):
            self.own = run.prior_context.clone()

        def context(self, run):
            return self.own

        def collect(self, run):
            run.add(run.play(self.own))
            self.own += 1

    run = make_collector(Counts(), MarkedActor()).run(Running(episodes=4))
    assert run["task_context"][..., 0].tolist() == [[0, 1, 2, 3]] * 3


def test_one_measurement_needs_no_evidence():
    run = make_collector(Counts(), MarkedActor()).run(NonPriorProtocol(episodes=1))
    assert counts(run) == [[0, 0, 0]]
    assert torch.equal(run["first_path"], run["last_path"])


def test_returns_follow_from_what_the_context_says():
    tasks = make_task_set("point_robot")
    collector = make_collector(GoalFinder(), Walker())
    run = collector.run(NonPriorProtocol(episodes=4, random_episodes=2), seed=3)
    goals = tasks.parameters[collector.task_ids].float()
    # without evidence it walks to zero: it stays; with evidence it walks to its own task's goal
    torch.testing.assert_close(run["returns"][:, 0], -HORIZON * goals.norm(dim=-1))
    torch.testing.assert_close(run["task_context"][:, 1:], goals[:, None].expand(3, 3, 2), atol=2e-3, rtol=0)
    torch.testing.assert_close(run["last_path"][:, -1], goals, atol=2e-3, rtol=0)
    assert (run["returns"][:, 1:] > run["returns"][:, :1] / 2).all()


def offline_draw(task_ids, generator):
    """Episodes that carry their task: goal-finding evidence around the tasks' goals."""
    position = torch.rand(len(task_ids), HORIZON, 2, generator=generator)
    goal = torch.stack([task_ids.float(), -task_ids.float()], -1)
    distance = (position - goal[:, None]).norm(dim=-1, keepdim=True)
    following = {"observation": position, "reward": -distance}
    mask = torch.ones(len(task_ids), HORIZON, dtype=torch.bool)
    return TensorDict({"observation": position, "next": following, "mask": mask}, mask.shape)


def test_offline_takes_its_evidence_from_the_rows_own_data_and_not_from_the_env():
    collector = make_collector(GoalFinder(), Walker(), task_ids=(1, 3, 7), offline_draw=offline_draw)
    steps, make_step = [], collector.env._step
    collector.env._step = lambda tensordict: (steps.append(1), make_step(tensordict))[1]
    run = collector.run(OfflineProtocol(episodes=3))
    assert len(steps) == 3 * HORIZON  # the measured episodes only
    expected = torch.tensor([[1.0, -1.0], [3.0, -3.0], [7.0, -7.0]])
    assert not run["task_context"][:, 0].any()
    torch.testing.assert_close(
        run["task_context"][:, 1:], expected[:, None].expand(3, 2, 2), atol=1e-2, rtol=0
    )


def test_offline_without_data_is_a_clear_error():
    collector = make_collector(Counts(), MarkedActor())
    with pytest.raises(ValueError, match="offline_draw="):
        collector.run(OfflineProtocol(episodes=2))


def test_wrong_number_of_rows_is_a_clear_error():
    with pytest.raises(ValueError, match="3 rows but task_ids has 2"):
        make_collector(
            Counts(), MarkedActor(), env=make_collector(Counts(), MarkedActor()).env, task_ids=(1, 2)
        )


def test_early_ends_are_masked():
    limits = [1, 7, 100]
    collector = make_collector(Counts(), MarkedActor(), task_ids=(0, 1, 2), env=EarlyEnv(limits))
    run = collector.run(OnlineProtocol(episodes=3))
    valid = torch.tensor([1.0, 7.0, 20.0])
    torch.testing.assert_close(run["returns"], valid[:, None].expand(3, 3))
    torch.testing.assert_close(run["task_context"][:, 2, 0], 2 * valid / HORIZON)
    # the picture stops where the episode ended, it does not show the next one
    steps = torch.arange(HORIZON + 1).float()
    expected = torch.minimum(steps, valid[:, None])
    torch.testing.assert_close(run["last_path"].squeeze(-1), expected)


def test_an_encoder_that_compares_transitions_sees_all_episodes_together():
    class Compared(nn.Module):
        def forward(self, features):
            return features - features.mean(-2, keepdim=True).square()

    encoder = ContextEncoder(Compared(), in_keys=[("context", "observation")])
    run = make_collector(encoder, Walker()).run(NonPriorProtocol(4, 3), keep_episodes=True)
    everything = TensorDict({"context": run["collected"].flatten(1, 2)}, [3])
    torch.testing.assert_close(run["task_context"][:, 3], encoder(everything)["task_context"])


def test_observations_may_be_pictures():
    class Pictures(EarlyEnv):
        """Observes its step as a picture of 2 x 3 pixels."""

        def __init__(self, limits):
            super().__init__(limits)
            self.observation_spec = Composite(observation=Unbounded((2, 2, 3)), shape=[2])

        def _reset(self, tensordict=None, **kwargs):
            return self.shown(super()._reset(tensordict, **kwargs))

        def _step(self, tensordict):
            return self.shown(super()._step(tensordict))

        def shown(self, out):
            return out.set("observation", out["observation"].unsqueeze(-1).expand(2, 2, 3).clone())

    encoder = make_context_encoder(feature_dims={("context", "next", "reward"): 1}, context_dim=2, hidden=[8])
    env = Pictures([7, 100])
    run = make_collector(encoder, MarkedActor(), (0, 1), env).run(NonPriorProtocol(2, 1))
    steps = torch.minimum(torch.arange(HORIZON + 1.0), torch.tensor([[7.0], [20.0]]))
    for path in (run["first_path"], run["last_path"]):
        assert torch.equal(path, steps[..., None, None].expand(2, HORIZON + 1, 2, 3))


def test_an_encoder_whose_first_feature_is_an_outcome_reads_the_mask_too():
    features = {("context", "next", "reward"): 1, ("context", "observation"): 1}
    encoder = make_context_encoder(feature_dims=features, context_dim=3, hidden=[8])
    collector = make_collector(encoder, MarkedActor(), task_ids=(0, 1), env=EarlyEnv([3, 9]), context_dim=3)
    run = collector.run(OnlineProtocol(episodes=2), keep_episodes=True)
    valid = run["collected"][:1, 0, :3]
    expected = encoder(TensorDict({"context": valid.exclude("mask")}, [1]))["task_context"]
    torch.testing.assert_close(run["task_context"][:1, 1], expected)


def test_seeded_and_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    collector = make_collector(GoalFinder(), Walker())
    protocol = NonPriorProtocol(episodes=4, random_episodes=2)
    first, again, other = (collector.run(protocol, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first.keys())  # noqa: SIM118
    assert not torch.equal(first["task_context"][:, 1:], other["task_context"][:, 1:])
    assert not torch.equal(first["first_path"], other["first_path"])
    # rows of the same task explore differently
    assert not torch.equal(first["first_path"][1], first["first_path"][2])


class Failing(Counts):
    def forward(self, tensordict):
        raise RuntimeError("broken encoder")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("encoder", [Counts, Failing])
def test_evaluates_in_evaluation_mode_and_restores_the_modes(encoder, training):
    seen = []

    class Noting(MarkedActor):
        def forward(self, tensordict):
            seen.append(self.training)
            return super().forward(tensordict)

    encoder, actor = encoder(), Noting().train(training)
    collector = make_collector(encoder, actor)
    if isinstance(encoder, Failing):
        with pytest.raises(RuntimeError, match="broken encoder"):
            collector.run(OnlineProtocol(episodes=2))
    else:
        collector.run(OnlineProtocol(episodes=2))
    assert seen and not any(seen)
    assert actor.training is training and encoder.training


def test_keys_can_be_renamed():
    """The environment's observation, the encoder's root and output, and what the actor reads."""
    plain = make_collector(GoalFinder(), Walker())
    env = TransformedEnv(
        plain.env, RenameTransform(["observation", "reward"], ["state", "gain"], create_copy=False)
    )

    class RenamedFinder(GoalFinder):
        in_keys = [("seen", "by", "next", "state"), ("seen", "by", "next", "gain")]
        out_keys = ["a note", "belief"]

        def forward(self, tensordict):
            old = TensorDict({"context": tensordict["seen", "by"]}, tensordict.batch_size)
            old = old.rename_key_(("context", "next", "state"), ("context", "next", "observation"))
            found = super().forward(
                old.rename_key_(("context", "next", "gain"), ("context", "next", "reward"))
            )
            tensordict["seen", "by", "scratch"] = tensordict["seen", "by", "mask"].clone()
            return tensordict.set("a note", found["task_context"] * 0).set("belief", found["task_context"])

    class RenamedWalker(Walker):
        in_keys = ["state", "belief"]

        def forward(self, tensordict):
            renamed = TensorDict(
                {"observation": tensordict["state"], "task_context": tensordict["belief"]},
                tensordict.batch_size,
            )
            return tensordict.set("action", super().forward(renamed)["action"])

    renamed = MetaTestCollector(
        env,
        RenamedWalker(),
        RenamedFinder(),
        task_ids=plain.task_ids,
        horizon=plain.horizon,
        context_dim=plain.context_dim,
        return_key=("next", "gain"),
        context_key="belief",
        observation_key="state",
        evidence_key=("seen", "by"),
    )
    protocol = NonPriorProtocol(episodes=4, random_episodes=2)
    expected, found = plain.run(protocol, seed=3), renamed.run(protocol, seed=3)
    for key in ("returns", "task_context", "last_path"):
        torch.testing.assert_close(found[key], expected[key])


@pytest.mark.parametrize("key", ["context", ("demos", "observation")])
def test_an_encoder_that_reads_elsewhere_is_refused(key):
    class Elsewhere(Counts):
        in_keys = [key]

    with pytest.raises(ValueError, match="reads .* which is not below 'context'; set evidence_key="):
        make_collector(Elsewhere(), MarkedActor())
