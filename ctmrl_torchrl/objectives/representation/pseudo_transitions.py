"""GENTLE's contexts: mostly transitions that task models make up, with the present policy's actions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.draws import uniform
from ctmrl_torchrl.modules.outcome_ensembles import TaskModels


def real_and_made_up(length: int, share: float) -> tuple[int, int]:
    """How many transitions of a context are real and how many made up: the share is rounded down.

    Source: GENTLE (AAAI 2024); released 0.95 of 256.

    Examples:
        >>> real_and_made_up(256, 0.95)
        (13, 243)
    """
    made_up = int(length * share)
    return length - made_up, made_up


def exchange_partners(tasks: int, others: int, generator: torch.Generator | None = None) -> Tensor:
    """For every task, which ``others`` tasks it takes states and actions from; ``[tasks, others]``.

    No task is its own partner or has one twice, and every task is a partner equally often: so stores have
    the same size. (The release lets every task draw whom it gives to, and sizes differ a little.)

    Args:
        tasks, others (int): ``others`` is at most ``tasks - 1``.
        generator (torch.Generator, optional): draws the partners; on the CPU.

    Raises:
        ValueError: if there are not that many other tasks.

    Examples:
        >>> partners = exchange_partners(5, 3)
        >>> partners.shape, partners.flatten().bincount().tolist()
        (torch.Size([5, 3]), [3, 3, 3, 3, 3])
    """
    if not 0 <= others < tasks:
        raise ValueError(
            f"exchange_partners: {others} other tasks for each of {tasks}; at most {tasks - 1} are there."
        )
    order = torch.randperm(tasks, generator=generator)
    shifts = 1 + torch.randperm(tasks - 1, generator=generator)[:others]
    place = torch.empty_like(order)
    place[order] = torch.arange(tasks)
    return order[(place.unsqueeze(-1) + shifts) % tasks]


@torch.no_grad()
def pseudo_transitions(
    models: TaskModels,
    observation: Tensor,
    task_context: Tensor,
    act: Callable[[TensorDictBase], Tensor],
    *,
    others: int = 3,
    chunk: int = 512,
    reward: NestedKey = ("next", "reward"),
    generator: torch.Generator | None = None,
) -> TensorDictBase:
    """The store of made-up transitions, of all tasks in one computation.

    The policy acts in states of task i with task i's context. Task i's model says what comes of it, which
    goes to the store of i; and the models of ``others`` other tasks say it, for their own stores. A store
    thus has its task's outcomes, after states and actions of several tasks.

    Args:
        models (TaskModels): one ensemble per task.
        observation (Tensor): ``[N, rows, n_s]``, states of every training task; released 2560 rows.
        task_context (Tensor): ``[N, d]``, of those transitions.
        act (callable): from a TensorDict ``[N, rows]`` with ``observation`` and ``task_context`` to actions
            ``[N, rows, a]``; GENTLE's is the target actor without noise.
        others (int): K; released 3, or 1 where there are two tasks.
        chunk (int): rows of every task that the models see at once.
        reward (NestedKey): where rewards go.
        generator (torch.Generator, optional): draws the partners.

    Returns:
        ``[N, (1 + others) * rows]`` with ``observation``, ``action``, the reward and, if the models predict
        it, ``("next", "observation")``.

    Source: GENTLE (AAAI 2024), as released.

    Examples:
        >>> models = TaskModels(4, 2, observation_dim=3, action_dim=1, hidden=[8])
        >>> store = pseudo_transitions(
        ...     models, torch.randn(4, 10, 3), torch.zeros(4, 5), lambda td: td["observation"][..., :1]
        ... )
        >>> store.batch_size, sorted(map(str, store.keys()))
        (torch.Size([4, 40]), ['action', 'next', 'observation'])
    """
    tasks, rows = observation.shape[:2]
    repeated = task_context.unsqueeze(1).expand(tasks, rows, task_context.shape[-1])
    action = act(TensorDict({"observation": observation, "task_context": repeated}, [tasks, rows]))
    itself = torch.arange(tasks).unsqueeze(-1)
    source = torch.cat([itself, exchange_partners(tasks, others, generator)], -1).to(observation.device)
    observation, action = (values[source].flatten(1, 2) for values in (observation, action))
    # In pieces: all members' hidden units of all rows at once would be gigabytes.
    pieces = zip(observation.split(chunk, 1), action.split(chunk, 1), strict=True)
    values, followings = zip(*(models(*piece) for piece in pieces), strict=True)
    value = torch.cat(values, 1)
    following = torch.cat(followings, 1) if models.next_observation else None
    store = TensorDict({"observation": observation, "action": action, reward: value}, observation.shape[:2])
    return store if following is None else store.set(("next", "observation"), following)


def mixed_context(
    real: TensorDictBase,
    store: TensorDictBase,
    rows: Tensor,
    count: int,
    generator: torch.Generator | None = None,
) -> TensorDictBase:
    """Real transitions followed by ``count`` made-up ones of the same tasks, drawn uniformly.

    Args:
        real (TensorDictBase): ``[T, L]``.
        store (TensorDictBase): ``[N, M]``, of :func:`pseudo_transitions`.
        rows (Tensor): ``[T]``, which row of the store is each task's.
        count (int): made-up transitions per task.
        generator (torch.Generator, optional): draws them.

    Returns:
        ``[T, L + count]`` with the entries that both have.

    Source: GENTLE (AAAI 2024), as released.

    Examples:
        >>> real = TensorDict({"observation": torch.zeros(2, 13, 3)}, [2, 13])
        >>> store = TensorDict({"observation": torch.ones(5, 40, 3)}, [5, 40])
        >>> mixed_context(real, store, torch.tensor([4, 0]), 243)["observation"].mean((1, 2))
        tensor([0.9492, 0.9492])
    """
    share = uniform((len(rows), count), generator, store.device or rows.device)
    place = (share * store.shape[1]).long()
    drawn = store[rows.unsqueeze(-1), place]
    keys = [key for key in real.keys(True, True) if store.get(key, None) is not None]
    return torch.cat([real.select(*keys), drawn.select(*keys)], 1)
