"""IDAQ's gate on scripted returns, and its diverse candidates."""

from __future__ import annotations

import torch

from ctmrl_torchrl.modules.episode_gate import DiverseCandidates, EpisodeGate


def literal(returns, references, encode):
    """The published procedure for one task, with lists: contexts played and the last one."""
    best, best_z, best_c, first_c = float("-inf"), None, [], []
    played = []
    for episode in range(references):
        z = -1.0 - episode
        played.append(z)
        if returns[episode] > best:
            best, best_z, best_c, first_c = returns[episode], z, [], [episode]
    c = list(first_c)
    z = encode(c)
    for episode in range(references, len(returns)):
        played.append(z)
        if returns[episode] > best:
            best, best_z, best_c = returns[episode], z, list(c)
            c = [*c, episode]
            z = encode(c)
        else:
            c, z = list(best_c), best_z
    return played, best_z


def number(episodes):
    """A context that tells which episodes it was inferred from."""
    return float(sum(2**episode for episode in episodes))


SCRIPTS = [
    [-3, -5, -4, -2, -1, -3, 0, -9],  # accept, accept, reject, accept, reject
    [-1, -5, -4, -2, -2, -2, -2, -2],  # the first reference is never beaten
    [-9, -5, -4, -4, -3, -2, -1, 0],  # a tie is rejected, then always better
    [0, 0, 0, 0, 0, 0, 0, 0],
]


def test_the_gate_follows_the_published_procedure_for_all_tasks_at_once():
    returns = torch.tensor(SCRIPTS, dtype=torch.float64)
    tasks, episodes = returns.shape
    powers = 2.0 ** torch.arange(episodes).double()
    gate = EpisodeGate(tasks, episodes, 1, like=returns)
    played = []
    for episode in range(3):
        context = torch.full((tasks, 1), -1.0 - episode).double()
        played.append(context)
        gate.observe_reference(episode, returns[:, episode], context)
    gate.begin_update()
    for episode in range(3, episodes):
        inferred = (gate.evidence.double() * powers).sum(-1, keepdim=True)
        context = gate.next_context(inferred)
        played.append(context)
        gate.observe_update(episode, returns[:, episode], context)
    last = gate.final_context(torch.full((tasks, 1), torch.nan).double())
    for task, script in enumerate(SCRIPTS):
        expected, expected_last = literal(script, 3, number)
        assert [context[task].item() for context in played] == expected
        assert last[task].item() == expected_last
    assert gate.accepted.tolist()[0] == [False, False, False, True, True, False, True, False]
    assert not gate.accepted[3].any()
    torch.testing.assert_close(gate.best, returns.amax(-1))


def test_a_rejection_after_the_first_update_goes_back_to_the_reference_context():
    gate = EpisodeGate(1, 4, 1)
    gate.observe_reference(0, torch.tensor([1.0]), torch.tensor([[0.5]]))
    gate.begin_update()
    assert gate.next_context(torch.tensor([[7.0]])).item() == 7.0  # inferred from episode 0
    gate.observe_update(1, torch.tensor([0.0]), torch.tensor([[7.0]]))
    assert gate.next_context(torch.tensor([[torch.nan]])).item() == 0.5
    assert not gate.evidence.any()


def test_the_judges_by_models_keep_their_threshold():
    def gated(**options):
        gate = EpisodeGate(1, 5, 1, **options)
        gate.observe_reference(0, torch.tensor([-3.0]), torch.tensor([[0.1]]))
        gate.observe_reference(1, torch.tensor([-4.0]), torch.tensor([[0.2]]))
        gate.begin_update()
        for episode, score in ((2, -1.0), (3, -2.0)):
            gate.observe_update(episode, torch.tensor([score]), torch.tensor([[float(episode)]]))
        return gate

    ratcheting, fixed = gated(), gated(ratchet=False)
    assert ratcheting.accepted.tolist() == [[False, False, True, False, False]]
    assert fixed.accepted.tolist() == [[False, False, True, True, False]]
    assert fixed.best.item() == -3.0
    inferred = torch.tensor([[9.0]])
    assert ratcheting.final_context(inferred).item() == 2.0 and fixed.final_context(inferred).item() == 9.0
    assert gated(threshold=-1.5).accepted.tolist() == [[False, False, True, False, False]]


def test_an_interrupted_gate_goes_on():
    returns = torch.tensor(SCRIPTS, dtype=torch.float32)
    gate, other = EpisodeGate(4, 8, 1), EpisodeGate(4, 8, 1)
    gate.observe_reference(0, returns[:, 0], torch.ones(4, 1))
    gate.begin_update()
    gate.observe_update(1, returns[:, 1], torch.full((4, 1), 2.0))
    other.load_state_dict(gate.state_dict())
    for each in (gate, other):
        each.observe_update(2, returns[:, 2], torch.full((4, 1), 3.0))
    for name, value in gate.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_candidates_lie_far_from_those_tried():
    generator = torch.Generator().manual_seed(0)
    candidates = torch.randn(12, 3, generator=generator)
    proposals = DiverseCandidates(candidates, 2, draws=4, generator=torch.Generator().manual_seed(1))
    twin = torch.Generator().manual_seed(1)
    tried = [[], []]
    for _ in range(6):
        drawn = (torch.rand(2, 4, generator=twin, dtype=torch.float64) * 12).long()
        found = proposals.propose()
        for task in range(2):
            offered = [candidates[i] for i in drawn[task].tolist()]
            if tried[task]:
                scores = [min(((z - other) ** 2).mean().item() for other in tried[task]) for z in offered]
                expected = offered[max(range(4), key=scores.__getitem__)]
            else:
                expected = offered[0]
            assert torch.equal(found[task], expected)
            tried[task].append(expected)
    other = DiverseCandidates(candidates, 2)
    other.load_state_dict(proposals.state_dict())
    assert torch.equal(other.distance, proposals.distance)
