"""Returns and contexts of a meta-test stay, bit for bit, what ``env.rollout`` gave when they were recorded.

``python tests/collectors/test_recorded_numbers.py`` records them anew: only after a change that is meant to
change them. Other processors round otherwise; there the numbers are compared within a tolerance.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl import modules
from ctmrl_torchrl.collectors import (
    CandidatesProtocol,
    MetaTestCollector,
    NonPriorProtocol,
    OfflineProtocol,
    OnlineProtocol,
    RefineProtocol,
)
from ctmrl_torchrl.envs import make_env, make_task_set

RECORD = Path(__file__).parent / "recorded_numbers.json"
TASKS = (2, 2, 6, 11)
#: family to steps of an episode; rows of the hopper fall before the end
HORIZONS = {"point_robot": 20, "sparse_point_robot": 20, "half_cheetah_vel": 12, "hopper_rand_params": 60}


def make_protocols():
    codes = torch.rand(3, 4, generator=torch.Generator().manual_seed(7)) * 2 - 1
    return [
        OfflineProtocol(3),
        OnlineProtocol(3),
        NonPriorProtocol(5, 2),
        RefineProtocol(6, 3),
        CandidatesProtocol(codes, 6),
    ]


def make_agent(name):
    """Untrained networks of a fixed seed; the encoder also reads next observations."""
    family = make_task_set(name).family
    sizes = {"observation_dim": family.observation_dim, "action_dim": family.action_dim}
    features = {
        ("context", "observation"): family.observation_dim,
        ("context", "action"): family.action_dim,
        ("context", "next", "observation"): family.observation_dim,
        ("context", "next", "reward"): 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(11)
        actor = modules.make_actor(**sizes, context_dim=4, hidden=(16, 16))
        encoder = modules.make_context_encoder(feature_dims=features, context_dim=4, hidden=(16, 16))
    return actor, encoder


def offline_draw(name):
    family, horizon = make_task_set(name).family, HORIZONS[name]

    def draw(task_ids, generator):
        shape = len(task_ids), horizon
        observation = torch.randn(*shape, family.observation_dim, generator=generator)
        values = {
            "observation": observation,
            "action": torch.randn(*shape, family.action_dim, generator=generator),
            "next": {"observation": observation + 0.1, "reward": -observation[..., :1].abs()},
            "mask": torch.arange(horizon).expand(shape) < horizon - 3,
        }
        values["next"]["sparse_reward"] = values["next"]["reward"] * 0
        return TensorDict(values, shape)

    return draw


def make_collector(name):
    actor, encoder = make_agent(name)
    return MetaTestCollector(
        make_env(name, TASKS, horizon=HORIZONS[name]),
        actor,
        encoder,
        task_ids=torch.tensor(TASKS),
        horizon=HORIZONS[name],
        context_dim=4,
        return_key=make_task_set(name).family.return_key,
        offline_draw=offline_draw(name),
    )


def numbers(name):
    """Every protocol's outcome, one after the other on one collector, as plain numbers with a digest."""
    collector, result = make_collector(name), {}
    for protocol in make_protocols():
        run = collector.run(protocol, seed=5)
        digest = hashlib.sha256()
        for key in ("returns", "task_context", "first_path", "last_path"):
            digest.update(run[key].contiguous().numpy().tobytes())
        result[protocol.name] = {
            "returns": run["returns"].tolist(),
            "last_context": run["task_context"][:, -1].tolist(),
            "digest": digest.hexdigest(),
        }
    return result


def processor():
    """What decides how sums are rounded."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    model = ", ".join(named.get(key, "?").strip() for key in ("vendor_id", "cpu family", "model"))
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {model}"


@pytest.mark.parametrize("name", HORIZONS)
def test_numbers_are_those_recorded(name):
    record, found = json.loads(RECORD.read_text(encoding="utf-8")), numbers(name)
    for protocol, expected in record["families"][name].items():
        if record["processor"] == processor():
            assert found[protocol]["digest"] == expected["digest"], protocol
        for key in ("returns", "last_context"):
            torch.testing.assert_close(
                torch.tensor(found[protocol][key]), torch.tensor(expected[key]), rtol=1e-3, atol=1e-3
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    families = {name: numbers(name) for name in HORIZONS}
    RECORD.write_text(json.dumps({"processor": processor(), "families": families}) + "\n", encoding="utf-8")
