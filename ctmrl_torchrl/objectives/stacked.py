"""Several agents as one computation: one loss over stacked parameters, random numbers of each agent's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ctmrl_torchrl.objectives.meta import MetaLoss

_PHASES = ("representation_frozen", "policy_frozen", "representation.phase", "training")
_GET_DATA = torch.Tensor.data.__get__


class SeededDraws(TorchFunctionMode):
    """Inside a vmap over agents, lets every agent draw from a generator of its own.

    An agent then meets the numbers that it would meet alone after ``torch.manual_seed`` of its seed.

    Args:
        generators: one per agent.

    Attributes:
        row (Tensor): which agent is computing: the batched index, set inside the vmap.

    Raises:
        RuntimeError: where a random function is used for which this is not arranged.
    """

    _LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}
    _PLAIN = (torch.rand, torch.randn, torch.randint)
    _REFUSED = (torch.normal, torch.bernoulli, torch.multinomial, torch.randperm, torch.randint_like)

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.generators = list(generators)
        self.row: Tensor | None = None

    def _draw(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(generator) for generator in self.generators])[self.row]

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Answer random functions; everything else goes on as it is."""
        kwargs = kwargs or {}
        if func in self._PLAIN:
            return self._draw(lambda generator: func(*args, **{**kwargs, "generator": generator}))
        if func in self._LIKE:
            like = {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            return self._draw(lambda g: self._LIKE[func](args[0].shape, generator=g, **like))
        if func is torch.Tensor.normal_:
            empty = {"dtype": args[0].dtype, "device": args[0].device}
            shape, moments = args[0].shape, args[1:]
            return self._draw(lambda g: torch.empty(shape, **empty).normal_(*moments, generator=g, **kwargs))
        if func in self._REFUSED:
            raise RuntimeError(
                f"SeededDraws: a stacked loss uses torch.{func.__name__}, whose draws would be shared by all "
                "agents; draw with torch.rand, torch.randn or torch.randint instead."
            )
        if func == _GET_DATA:
            # Some of TorchRL's losses cut the graph by ``.data``, which vmap refuses.
            return args[0].detach()
        return func(*args, **kwargs)


class StackedLoss(nn.Module):
    """The losses of several agents of one kind, evaluated together by vmap.

    Every parameter and buffer of the agents becomes a row of one tensor ``[agents, ...]``, which this module
    holds; the agents keep views of their rows. What changes a row in place (an optimiser on the stacked
    parameters, a target update or K-means of one agent) is thus seen from both sides, and each agent can be
    evaluated, saved and logged as if it were alone.

    Args:
        agents (sequence of MetaLoss): built alike, with their own initial parameters; the first one's
            switches (``representation_frozen``, ...) count, and all must agree.
        seeds (sequence of int): of the random numbers that each agent's forward pass draws.

    Keys: those of the agents, every entry ``[agents, ...]``.

    Out: the agents' losses, ``[agents]`` each. Their sum has every agent's own gradient in its row.

    Raises:
        RuntimeError: when moved to another device or dtype; move the agents before they are stacked.
        ValueError: if there is no agent, numbers of agents and seeds differ, agents are not built alike, or
            they are in different phases.

    Examples:
        >>> from tensordict import TensorDict
        >>> from ctmrl_torchrl import modules
        >>> from ctmrl_torchrl.objectives import BRACSACLoss, CTMRLLoss
        >>> sizes = dict(observation_dim=2, context_dim=4)
        >>> def agent():
        ...     return CTMRLLoss(
        ...         modules.make_context_encoder(feature_dims={("context", "observation"): 2}, context_dim=4),
        ...         modules.Codebook(3, 4),
        ...         modules.make_reward_predictor(action_dim=2, **sizes),
        ...         modules.make_next_observation_predictor(action_dim=2, **sizes),
        ...         BRACSACLoss(
        ...             modules.make_actor(action_dim=2, **sizes),
        ...             modules.make_qvalue(action_dim=2, **sizes),
        ...             modules.make_value(**sizes),
        ...         ),
        ...     )
        >>> def transitions(*shape):
        ...     never = torch.zeros(*shape, 1, dtype=torch.bool)
        ...     root = {"observation": torch.randn(*shape, 2), "action": torch.rand(*shape, 2)}
        ...     following = {"observation": torch.randn(*shape, 2), "reward": torch.randn(*shape, 1)}
        ...     return TensorDict(root | {"next": following | {"done": never, "terminated": never}}, shape)
        >>> lengths = {"context": 7, "context_positive": 7, "transitions": 6}
        >>> batch = TensorDict({name: transitions(2, 5, n) for name, n in lengths.items()}, [2, 5])
        >>> stacked = StackedLoss([agent(), agent()], seeds=[0, 1])
        >>> stacked(batch)["loss_prediction"].shape
        torch.Size([2])
    """

    def __init__(self, agents: Sequence[MetaLoss], seeds: Sequence[int]) -> None:
        super().__init__()
        if not agents or len(agents) != len(seeds):
            raise ValueError(
                f"StackedLoss: got {len(agents)} agents and {len(seeds)} seeds; give one seed per agent, and "
                "at least one."
            )
        self.state = stack_states(agents)
        # Not registered as submodules: their parameters are rows of the state.
        self._agents = list(agents)
        self._lent = [
            (module, name, parameter, parameter.requires_grad)
            for module in self._agents[0].modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        leaves = list(self.state.values(True, True))
        self.leaves = nn.ParameterList(leaf for leaf in leaves if leaf.requires_grad)
        device = leaves[0].device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._draws = SeededDraws(self.generators)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StackedLoss:
        """Refuse ``to``, ``double``, ``cuda``: the agents' views would stay behind."""
        raise RuntimeError(
            "StackedLoss: its agents hold views of its parameters, which a new dtype or device would cut "
            "off; move the agents first, then stack them."
        )

    def leaf_of(self, parameter: nn.Parameter) -> nn.Parameter:
        """The stacked parameter in which ``parameter`` of the first agent is the first row.

        Raises:
            KeyError: if it is not a parameter of the first agent.
        """
        for leaf in self.leaves:
            if leaf.data_ptr() == parameter.data_ptr() and leaf.shape[1:] == parameter.shape:
                return leaf
        raise KeyError("StackedLoss: this is no parameter of the first agent.")

    def _require_one_phase(self) -> None:
        for name in _PHASES:
            found = [_attribute(agent, name) for agent in self._agents]
            if any(value != found[0] for value in found):
                raise ValueError(
                    f"StackedLoss: {name} differs between the agents ({found}); give all of them the same "
                    "schedule."
                )

    def _one(self, state: TensorDictBase, tensordict: TensorDictBase, row: Tensor) -> TensorDictBase:
        self._draws.row = row
        with self._draws, state.to_module(self._agents[0]):
            return self._agents[0](tensordict)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """All agents' losses of their meta-batches."""
        self._require_one_phase()
        rows = torch.arange(len(self._agents), device=self.generators[0].device)
        # Draws that SeededDraws makes itself are the only ones there are.
        losses = torch.vmap(self._one, randomness="same")(self.state, tensordict, rows)
        # The first agent's modules were lent out and come back with other, constant parameters; optimizers
        # of its own parts hold the ones from before.
        for module, name, parameter, learns in self._lent:
            module._parameters[name] = parameter.requires_grad_(learns)
        return losses


def stack_states(modules: Sequence[nn.Module]) -> TensorDict:
    """Parameters and buffers of modules built alike as rows of stacked ones; the modules keep views.

    Raises:
        ValueError: if the modules are not built alike.

    Examples:
        >>> linears = [nn.Linear(2, 1) for _ in range(3)]
        >>> stacked = stack_states(linears)
        >>> stacked["weight"].shape, linears[1].weight.data_ptr() == stacked["weight"][1].data_ptr()
        (torch.Size([3, 1, 2]), True)
    """
    states = [TensorDict.from_module(module) for module in modules]
    names = [set(state.keys(True, True)) for state in states]
    shapes = [
        {key: state[key].shape for key in names[0] & own} for state, own in zip(states, names, strict=True)
    ]
    if any(own != names[0] for own in names) or any(shape != shapes[0] for shape in shapes):
        raise ValueError("stack_states: the modules have different parameters; build them alike.")
    stacked = torch.stack([state.data for state in states]).contiguous()
    for key in names[0]:
        leaf = stacked[key].clone()
        for state, row in zip(states, leaf, strict=True):
            state[key].data = row
        stacked.set(key, nn.Parameter(leaf) if states[0][key].requires_grad else leaf)
    return stacked


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
