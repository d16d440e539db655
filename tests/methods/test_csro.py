"""CSRO: what reaches what, its density model's inner steps, its collection, resuming."""

from __future__ import annotations

import pytest
import torch
from registered import Composition, meta_batch
from small_runs import check_adapts, check_resumed, outcome, reached, small_config
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.collectors import PROTOCOLS, EpisodeCollector, InterleavedProtocol, ProtocolSettings
from ctmrl_torchrl.envs import make_env
from ctmrl_torchrl.methods import CSROConfig
from ctmrl_torchrl.methods.csro import PosteriorTraining
from ctmrl_torchrl.modules import make_actor
from ctmrl_torchrl.objectives.policy import BRACSACConfig
from ctmrl_torchrl.objectives.representation import metric_loss
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.build import parameter_groups
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment, run_seeds
from ctmrl_torchrl.training.validate import validate_config

csro = Composition(representation="csro")
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def test_every_term_reaches_the_encoder_alone():
    loss = csro.build()
    out = loss(meta_batch())
    for name in ("loss_metric", "loss_club"):
        assert reached(loss, out[name]) == {"context_encoder"}
    for name in ("loss_actor", "loss_qvalue", "loss_value"):
        assert "context_encoder" not in reached(loss, out[name])


def test_the_guess_is_moved_by_its_own_optimizer_alone():
    loss, batch = csro.build(), meta_batch()
    guess = set(map(id, loss.representation.behaviour_posterior.parameters()))
    groups = parameter_groups(CSROConfig(posterior_hidden=[8]), BRACSACConfig(hidden=[8]), loss)
    assert not guess & {id(each) for group in groups for each in group.parameters}
    with torch.no_grad():
        encoding = loss.encoding(batch)
        contexts = encoding(encoding.draw("context")).entries()
    before = [each.clone() for each in loss.parameters()]
    part = PosteriorTraining(loss, 1e-2)
    errors = [loss(batch)["posterior_error"].item()]
    for _ in range(30):
        part.inner_steps(batch, contexts)
    errors.append(loss(batch)["posterior_error"].item())
    assert errors[1] < errors[0]
    changed = {
        name.rsplit(".", 1)[0].split(".network")[0]
        for (name, now), then in zip(loss.named_parameters(), before, strict=True)
        if not torch.equal(now, then)
    }
    assert changed == {"representation.behaviour_posterior.module"}
    loss.representation_frozen = True
    kept = [each.clone() for each in loss.representation.parameters()]
    part.inner_steps(batch, contexts)
    assert all(map(torch.equal, kept, loss.representation.parameters()))


def test_without_the_bound_it_is_ten_times_focal_without_positives():
    loss, batch = csro.build(club_weight=0.0), meta_batch()
    out = loss(batch)
    assert out["loss_club"] == 0.0
    contexts = loss.encode(batch, "context")
    torch.testing.assert_close(out["loss_metric"], 10.0 * metric_loss(contexts).mean())


def test_the_bound_is_that_of_all_pairs():
    loss, batch = csro.build(), meta_batch()
    with torch.no_grad():
        encoding = loss.encoding(batch)
        e = encoding(encoding.draw("context")).transition_contexts
        m, v, _ = loss.representation._guess(batch, e)
        pairs = (e.unsqueeze(1) - m.unsqueeze(2)).square() / v.unsqueeze(2)  # [T, i, j, d]
        expected = 25.0 * (pairs.mean() - ((e - m).square() / v).mean())
    torch.testing.assert_close(loss(batch)["loss_club"], expected)


@pytest.mark.parametrize(
    ("budget", "random_steps", "measured_with", "played_with"),
    [
        # K = 600 of half-cheetah, hopper and walker: 300 random steps, 100 with z = 0, 200 that are never used
        ((4, 2, 200), [200, 100, 0], [0, 0, 0, 2], [None, 0, 2]),
        # K = 800 of ant
        ((5, 2, 200), [200, 200, 0, 0], [0, 0, 0, 2, 3], [None, None, 2, 3]),
        # K = 400 of the point robot, shortened to 80
        ((5, 1, 20), [20, 20, 0, 0], [0, 0, 1, 2, 3], [None, None, 2, 3]),
    ],
)
def test_the_collection_step_by_step(budget, random_steps, measured_with, played_with):
    episodes, prior, horizon = budget

    class Run:
        def __init__(self):
            self.horizon, self.episodes, self.played, self.random = horizon, [], [], []
            self.prior_context = 0

        def encode(self, episodes):
            return len(episodes)

        def add(self, episode):
            self.episodes.append(episode)

        def play_randomly(self):
            self.played.append(None), self.random.append(horizon)

        def play(self, context, *, stochastic, random_steps):
            assert stochastic
            self.played.append(context), self.random.append(random_steps)

    protocol, run, measured = InterleavedProtocol(episodes, prior), Run(), []
    for turn in range(episodes):
        measured.append(protocol.context(run))
        if turn + 1 < episodes:
            protocol.collect(run)
    assert (run.random, measured, run.played) == (random_steps, measured_with, played_with)


def test_a_block_is_random_first_and_the_policys_then():
    tasks = torch.tensor([2, 6])
    actor = make_actor(observation_dim=2, action_dim=2, context_dim=2)
    env = make_env("point_robot", tasks)
    episodes = EpisodeCollector(env, actor, task_ids=tasks, horizon=20)
    context = torch.zeros(2, 2)
    with episodes.session(seed=0):
        torch.manual_seed(0)
        mixed = episodes.play(context, random_steps=7)
        torch.manual_seed(0)
        spec = env.action_spec
        expected = torch.stack([spec.rand() for _ in range(7)], 1)
    torch.testing.assert_close(mixed["action"][:, :7], expected)
    with torch.no_grad():
        shown = mixed[:, 7:].select("observation").set("task_context", context.unsqueeze(1).expand(2, 13, 2))
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            actions = actor(shown)["action"]
    torch.testing.assert_close(mixed["action"][:, 7:], actions)


def test_budgets_that_leave_no_context_are_refused():
    check = PROTOCOLS.get("np_csro").check
    check(ProtocolSettings(episodes=4, prior_episodes=2))
    with pytest.raises(ConfigError, match="evaluation.episodes: got 3, allowed is at least 4"):
        check(ProtocolSettings(episodes=3, prior_episodes=2))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.pool=mean_mlp", "config field encoder.pool: got 'mean_mlp', allowed is 'mean'"),
        ("representation.club_weight=-1.0", "config field representation.club_weight: got -1.0"),
        ("representation.posterior_rate=0.0", "config field representation.posterior_rate: got 0.0"),
        ("evaluation.prior_episodes=0", "config field evaluation.prior_episodes: got 0"),
    ],
)
def test_wrong_options_name_the_field(override, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(compose_config(["method=csro", override]))


def test_it_goes_on_where_it_was_killed_bit_for_bit(data_root, tmp_path):
    def config(run_dir, *more):
        return small_config("csro", data_root, run_dir, *more)

    run_experiment(config(tmp_path / "whole"))
    check_resumed(
        config,
        tmp_path / "whole",
        tmp_path / "parts",
        lambda trainer, moment: moment == "update" and trainer.update_count == 5,
    )


def test_the_part_is_made_and_left_out(data_root, tmp_path):
    with_bound = build_experiment(small_config("csro", data_root, tmp_path / "a"))
    assert [part.name for part in with_bound.parts.parts] == ["behaviour_posterior"]
    without = small_config("csro", data_root, tmp_path / "b", "representation.club_weight=0")
    assert build_experiment(without).parts.parts == []


def test_it_adapts_under_every_protocol(data_root, tmp_path):
    check_adapts("csro", data_root, tmp_path, ("offline", "online", "np", "np_refine", "codes", "np_csro"))


def test_seeds_are_trained_together_as_by_themselves(data_root, tmp_path):
    def config(kind, seed):
        return small_config("csro", data_root, tmp_path / f"{kind}-{seed}", f"seed={seed}")

    run_seeds([config("together", seed) for seed in (0, 1)])
    for seed in (0, 1):
        run_experiment(config("alone", seed))
        alone, together = (outcome(tmp_path / f"{kind}-{seed}")[0] for kind in ("alone", "together"))
        for name, value in alone["loss"].items():
            torch.testing.assert_close(value, together["loss"][name], rtol=1e-4, atol=1e-5)
