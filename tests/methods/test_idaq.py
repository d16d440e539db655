"""IDAQ: FOCAL in training, its protocol on scripted returns, its judges, resuming."""

from __future__ import annotations

import pytest
import torch
from sameness import assert_same
from small_runs import check_adapts, check_resumed, outcome, small_config
from tensordict import TensorDict

from ctmrl_torchrl.collectors import PROTOCOLS, InDistributionProtocol, ProtocolSettings
from ctmrl_torchrl.methods import REPRESENTATIONS, FOCALConfig, IDAQConfig
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment
from ctmrl_torchrl.training.validate import validate_config

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
ENSEMBLE = ("representation.ensemble=true", "representation.members=3", "evaluation.judge=error")


class Scripted:
    """A run of two rows whose collected episodes return what is written; contexts count what they are made of.

    An episode is marked by its number; the context of some episodes is the sum of ``2 ** number``.
    """

    def __init__(self, returns):
        self.script, self.episodes, self.returns, self.played = returns, [], [], []
        self.prior_context = torch.zeros(2, 1)
        self.generator = torch.Generator().manual_seed(0)

    def play(self, context):
        self.played.append(context.flatten().tolist())
        value = torch.full((2, 1), 2.0 ** len(self.episodes))
        return TensorDict({"value": value, "mask": torch.ones(2, 1, dtype=torch.bool)}, [2, 1])

    def add(self, episode):
        self.returns.append(torch.tensor(self.script[len(self.episodes)]))
        self.episodes.append(episode)

    def encode(self, episodes):
        return sum((each["value"] * each["mask"]).sum(1, keepdim=True) for each in episodes)


def play(protocol, returns):
    run, measured = Scripted(returns), []
    protocol.reset(run)
    for turn in range(protocol.episodes):
        measured.append(protocol.context(run).flatten().tolist())
        if turn + 1 < protocol.episodes:
            protocol.collect(run)
    return run, measured


def test_the_gate_accepts_rejects_goes_back_and_ends_with_the_best():
    # one candidate, so that all reference contexts are -1; the rows have different stories
    returns = [
        [-5.0, -2.0],  # 0: reference
        [-3.0, -4.0],  # 1: reference; the best is 1 in row 0, 0 in row 1
        [-2.0, -1.0],  # 2: accepted in both
        [-4.0, -0.5],  # 3: rejected, accepted
        [-1.0, -9.0],  # 4: accepted, rejected
    ]
    run, measured = play(InDistributionProtocol(torch.tensor([[-1.0]]), 6, 2), returns)
    assert run.played == [
        [-1.0, -1.0],
        [-1.0, -1.0],
        [2.0, 1.0],  # evidence: the best reference episode alone
        [2.0 + 4.0, 1.0 + 4.0],  # the accepted episode has joined
        [2.0, 1.0 + 4.0 + 8.0],  # row 0 goes back to what episode 2 was played with
    ]
    assert measured == [
        [0.0, 0.0],  # the prior
        [-1.0, -1.0],
        [-1.0, -1.0],
        [2.0, 1.0],
        [2.0, 5.0],
        [2.0, 5.0],  # the last is the best: in row 0 played again in episode 4, in row 1 before the rejection
    ]


def test_a_tie_is_rejected():
    run, measured = play(InDistributionProtocol(torch.tensor([[-1.0]]), 4, 1), [[1.0, 1.0]] * 3)
    assert run.played == [[-1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]]
    assert measured[-1] == [-1.0, -1.0]


def test_without_any_evidence_the_best_reference_context_is_played_on():
    run, measured = play(
        InDistributionProtocol(torch.tensor([[-1.0]]), 5, 1), [[1.0, 1.0]] + [[0.0, 0.0]] * 3
    )
    assert run.played == [[-1.0, -1.0], [1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]]
    assert measured[1:] == [[-1.0, -1.0]] * 4


def test_judges_by_models_keep_their_threshold_and_act_with_the_present_context():
    scores = iter([[3.0, 1.0], [5.0, 2.0], [4.0, 2.0]])

    def judge(episode, context):
        return torch.tensor(next(scores))

    protocol = InDistributionProtocol(torch.tensor([[-1.0]]), 4, 1, judge=judge)
    run, measured = play(protocol, [[-9.0, -9.0]] * 3)
    # 5 > 3 is accepted and so is 4 > 3, though 4 < 5; 2 > 1 twice as well
    assert protocol.gate.accepted.tolist() == [[False, True, True], [False, True, True]]
    assert run.played == [[-1.0, -1.0], [1.0, 1.0], [3.0, 3.0]]
    assert measured == [[0.0, 0.0], [-1.0, -1.0], [3.0, 3.0], [7.0, 7.0]]


def test_reference_contexts_are_different_ones():
    candidates = torch.arange(4.0).unsqueeze(-1)
    run, _ = play(InDistributionProtocol(candidates, 5, 4, draws=200), [[0.0, 0.0]] * 4)
    for row in range(2):
        assert {step[row] for step in run.played} == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference_episodes": 4, "episodes": 4}, "evaluation.reference_episodes: got 4, allowed is from 1"),
        (
            {"random_episodes": 9, "episodes": 4},
            "evaluation.random_episodes: got 9.*set evaluation.reference_episodes",
        ),
        ({"judge": "error"}, "evaluation.judge: got 'error', allowed is one of return under"),
        ({}, "evaluation.protocols: got 'idaq', allowed is anything without 'idaq'"),
    ],
)
def test_settings_that_cannot_work_name_the_field(settings, message):
    with pytest.raises(ConfigError, match=message):
        PROTOCOLS.get("idaq").from_settings(ProtocolSettings(**settings))


def test_training_contexts_come_first_and_candidates_serve_as_well():
    make = PROTOCOLS.get("idaq").from_settings
    both = ProtocolSettings(training_contexts=lambda: torch.ones(3, 2), candidates=lambda: torch.zeros(5, 2))
    assert make(both).training_contexts.shape == (3, 2)
    assert make(ProtocolSettings(candidates=lambda: torch.zeros(5, 2))).training_contexts.shape == (5, 2)


@pytest.mark.parametrize("more", [(), ENSEMBLE], ids=["alone", "with its ensemble"])
def test_in_training_it_is_focal_bit_for_bit(more, data_root, tmp_path):
    for method, changes in {"focal": (), "idaq": more}.items():
        protocols = "[np]" if method == "focal" else "[np,idaq]"
        config = small_config(
            method, data_root, tmp_path / method, *changes, "evaluation.episodes=3", protocols=protocols
        )
        run_experiment(config)
    first, second = (outcome(tmp_path / method) for method in ("focal", "idaq"))
    for part in ("loss", "optimizer", "sampling", "torch_rng"):
        assert_same(first[0][part], second[0][part], part)
    assert first[1]["returns"]["test"]["np"] == second[1]["returns"]["test"]["np"]


def test_its_configuration_is_focals_and_an_ensemble():
    assert issubclass(IDAQConfig, FOCALConfig) and REPRESENTATIONS.get("idaq") is IDAQConfig
    focal, idaq = (compose_config([f"method={name}"]) for name in ("focal", "idaq"))
    for section in ("encoder", "batch", "context", "policy_loss", "schedule"):
        assert getattr(focal, section) == getattr(idaq, section)
    assert "idaq" in idaq.evaluation.protocols


def test_all_members_learn_rewards_and_dynamics(data_root, tmp_path):
    config = small_config("idaq", data_root, tmp_path, *ENSEMBLE, "evaluation.episodes=3", protocols="[idaq]")
    experiment = build_experiment(config)
    (part,) = experiment.parts.parts
    held = {id(each) for group in experiment.trainer.optimizer.param_groups for each in group["params"]}
    assert not held & {id(each) for each in part.ensemble.parameters()}
    before = [each.clone() for each in part.ensemble.parameters()]
    experiment.trainer.begin()
    experiment.trainer.next_batch()
    for then, now in zip(before, part.ensemble.parameters(), strict=True):
        assert all(not torch.equal(then[member], now[member]) for member in range(3))


def test_the_judges_by_hand(data_root, tmp_path):
    config = small_config("idaq", data_root, tmp_path, *ENSEMBLE, "evaluation.episodes=3", protocols="[idaq]")
    experiment = build_experiment(config)
    (part,) = experiment.parts.parts
    n, steps = 2, 4
    episode = TensorDict(
        {
            "observation": torch.randn(n, steps, 2),
            "action": torch.randn(n, steps, 2),
            "next": {"observation": torch.randn(n, steps, 2), "reward": torch.randn(n, steps, 1)},
            "mask": torch.tensor([[True] * 4, [True, True, False, False]]),
        },
        [n, steps],
    )
    context = torch.randn(n, experiment.config.encoder.context_dim)
    errors, deviations = torch.zeros(n), torch.zeros(n)
    for row in range(n):
        kept = episode[row][episode["mask"][row]]
        inputs = torch.cat(
            [part.observation(kept["observation"]), kept["action"], context[row].expand(len(kept), -1)], -1
        )
        reward = part.reward(kept["next", "reward"])
        change = part.change(kept["next", "observation"] - kept["observation"])
        for network, target in (
            (part.ensemble.reward, reward),
            (part.ensemble.next_observation, change),
        ):
            guesses = network(inputs)
            errors[row] += (guesses - target).square().mean()
            deviations[row] += guesses.std(0).mean()
    torch.testing.assert_close(part.judge_error(episode, context), -errors)
    torch.testing.assert_close(part.judge_disagreement(episode, context), -deviations)


@pytest.mark.parametrize("judge", ["return", "error", "disagreement"])
def test_it_adapts_under_every_protocol(judge, data_root, tmp_path):
    extra = (*ENSEMBLE[:2], f"evaluation.judge={judge}")
    protocols = ("offline", "online", "np", "np_refine", "codes", "np_csro", "idaq")
    check_adapts("idaq", data_root, tmp_path, protocols, *extra)


@pytest.mark.parametrize("method", ["ctmrl", "csro", "unicorn"])
def test_any_method_can_be_tested_so(method, data_root, tmp_path):
    runs = check_adapts(method, data_root, tmp_path, ("idaq",))
    assert (runs["idaq"]["episodes"][..., -1] == 3).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["evaluation.judge=error"],
            "evaluation.judge: got 'error', allowed is one of return under protocol",
        ),
        (
            ["evaluation.judge=eror", "representation.ensemble=true"],
            "evaluation.judge: got 'eror', allowed is one of return, error, disagreement",
        ),
        (["evaluation.reference_episodes=20"], "evaluation.reference_episodes: got 20"),
        (
            ["representation.members=1"],
            "representation.members: got 1, allowed is a whole number of at least 2",
        ),
        (["evaluation.candidate_draws=0"], "evaluation.candidate_draws: got 0"),
    ],
)
def test_wrong_options_name_the_field(overrides, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(compose_config(["method=idaq", *overrides]))


def test_it_goes_on_where_it_was_killed_bit_for_bit(data_root, tmp_path):
    def config(run_dir, *more):
        extra = (*ENSEMBLE, "evaluation.episodes=3", *more)
        return small_config("idaq", data_root, run_dir, *extra, protocols="[idaq]")

    run_experiment(config(tmp_path / "whole"))
    check_resumed(
        config,
        tmp_path / "whole",
        tmp_path / "parts",
        lambda trainer, moment: moment == "update" and trainer.update_count == 5,
    )
