"""The policy of meta-test episodes for a TorchRL collector, and checks of the environment's rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.collector_kinds import EpisodeEnv
from ctmrl_torchrl.collectors.acting import Act, bound, direct

#: creates the batched environment of the given task ids ``[n]``, one row per task
EnvMaker = Callable[[Tensor], EnvBase]


def make_episode_env(make_env: EnvMaker, task_ids: Tensor, horizon: int) -> EpisodeEnv:
    """Creates the environment of some rows on demand, e.g. in a worker process."""
    return EpisodeEnv(make_env(task_ids), horizon, owned=True)


class EpisodePolicy(TensorDictModuleBase):
    """The policy of one episode: the actor with a fixed context per row, or a list of given actions.

    :meth:`begin` configures the next episode; a collector then calls the policy once per step.

    Args:
        actor (TensorDictModule): reads ``context_key`` and observations.

    Keyword Args:
        context_key (NestedKey): key under which contexts are passed to the actor.
        action_key (NestedKey): key under which given actions are written.
        device (torch.device or None): device of the environment.

    Examples:
        >>> from tensordict import TensorDict
        >>> from ctmrl_torchrl.modules import make_actor
        >>> actor = make_actor(observation_dim=2, action_dim=2, context_dim=4)
        >>> policy = EpisodePolicy(actor, context_key="task_context", action_key="action", device=None)
        >>> policy.begin(torch.zeros(3, 4), stochastic=True)
        >>> policy(TensorDict({"observation": torch.zeros(3, 2)}, [3]))["action"].shape
        torch.Size([3, 2])
    """

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]

    def __init__(
        self,
        actor: TensorDictModuleBase,
        *,
        context_key: NestedKey,
        action_key: NestedKey,
        device: torch.device | None,
    ) -> None:
        super().__init__()
        self.actor = actor
        self.context_key = context_key
        self.action_key = action_key
        self.device = device
        self.in_keys = [key for key in actor.in_keys if key != context_key]
        self.out_keys = [*actor.out_keys, context_key]
        self._prepared = ExitStack()
        self._act: Act = actor.__call__
        self._context: Tensor | None = None
        self._actions: list[Tensor] = []
        self._exploration = ExplorationType.DETERMINISTIC

    def begin(
        self,
        task_context: Tensor | None = None,
        *,
        actions: Tensor | None = None,
        stochastic: bool = False,
    ) -> None:
        """Prepare an episode with the rows' contexts ``[n, d]`` or with the actions ``[n, H, a]``.

        With both, the policy takes over after the actions ``[n, steps, a]``.
        """
        self._context = None if task_context is None else task_context.to(self.device)
        # Popped from the end, one per step.
        self._actions = [] if actions is None else list(actions.to(self.device).unbind(1))[::-1]
        self._exploration = ExplorationType.RANDOM if stochastic else ExplorationType.DETERMINISTIC

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the actions of one step."""
        if self._context is None:
            return tensordict.set(self.action_key, self._actions.pop())
        with set_exploration_type(self._exploration):
            acted = self._act(tensordict.set(self.context_key, self._context))
        # The policy is called first anyway, so that all steps of an episode have the same entries.
        return acted.set(self.action_key, self._actions.pop()) if self._actions else acted

    def prepare(self) -> None:
        """Use the fast actor until :meth:`release`, with the actor's current parameters."""
        self.release()
        act = direct(self._prepared.enter_context(bound(self.actor)))
        # Assigning a module would register it and count its parameters twice.
        self._act = act.__call__ if isinstance(act, nn.Module) else act

    def release(self) -> None:
        """Return to the regular actor."""
        self._act = self.actor.__call__
        self._prepared.close()

    def load_actor(self, state: dict[str, Tensor]) -> None:
        """Load the parameters of another copy of the actor and set evaluation mode."""
        self.release()
        self.actor.load_state_dict(state)
        self.eval()

    def manual_seed(self, seed: int) -> None:
        """Seed the generator of a stochastic actor, which is the global one of its process."""
        torch.manual_seed(seed)


def check_batch_size(env: EnvBase, task_ids: Tensor) -> None:
    """Reject an environment that does not have one row per task id.

    Raises:
        ValueError: with both shapes.
    """
    if tuple(env.batch_size) != tuple(task_ids.shape) or task_ids.ndim != 1:
        raise ValueError(
            f"The environment has {env.batch_size.numel()} rows but task_ids has {task_ids.numel()} entries: "
            f"batch size {list(env.batch_size)}, task_ids of shape {list(task_ids.shape)}; expected one row "
            "per task id, [n]. Build it with make_env(..., task_ids=task_ids); an environment without rows gets "
            "one with torchrl.envs.SerialEnv(1, lambda: env)."
        )


def check_done(env: EnvBase) -> None:
    """Reject an environment without ``done`` at the root, which tells when the episode of a row ends.

    Raises:
        ValueError: with the environment's own flags.
    """
    if "done" in env.done_keys:
        return
    nested = [key for key in env.done_keys if isinstance(key, tuple) and key[-1] in ("done", "terminated")]
    names = [key[-1] for key in nested]
    raise ValueError(
        f"The environment marks the end of an episode with {', '.join(map(repr, env.done_keys))}; expected "
        "'done', one per row. Rename the flags with torchrl.envs.TransformedEnv(env, "
        f"torchrl.envs.RenameTransform(in_keys={nested}, out_keys={names}))."
    )


def check_rows(state: TensorDictBase, task_ids: Tensor) -> None:
    """Reject rows whose tasks differ from ``task_ids`` ``[n]`` or have another order.

    An environment that does not write ``task_id`` cannot be checked.

    Raises:
        ValueError: with the first row that differs.
    """
    found = state.get("task_id", None)
    if found is None:
        return
    found = found.reshape(task_ids.shape).to(task_ids.device)
    wrong = (found != task_ids).nonzero().flatten()
    if wrong.numel():
        row = wrong[0].item()
        raise ValueError(
            f"{wrong.numel()} of {len(task_ids)} rows of the environment do not match the tasks in "
            f"task_ids; the first is row {row}: task {found[row].item()} in the environment, "
            f"{task_ids[row].item()} in task_ids. Build it with make_env(..., task_ids=task_ids), or call "
            "env.set_task(task_ids)."
        )
