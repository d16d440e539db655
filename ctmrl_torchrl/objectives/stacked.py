"""Evaluates several agents as one computation, with stacked parameters and one random stream per agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ctmrl_torchrl.objectives.meta import MetaLoss

_PHASES = ("representation_frozen", "policy_frozen", "representation.phase", "training")
_INSTEAD = "use torch.rand, torch.randn or torch.randint instead, or train each seed in a run of its own."
_GET_DATA = cast(Any, torch.Tensor.data).__get__


class SeededDraws(TorchFunctionMode):
    """Gives every agent a separate random generator inside a vmap over agents.

    Each agent gets the same random numbers as in a single run after ``torch.manual_seed`` with its seed.

    Args:
        generators: one per agent.

    Attributes:
        row (Tensor): index of the agent, batched; set inside the vmap.

    A tensor that is the same for all agents cannot be filled in place: ``x.normal_()`` returns the numbers and
    fills ``x`` with NaN, so use the returned tensor.

    Raises:
        RuntimeError: if a random function is used that this mode does not handle, or one with a ``generator``.
            Functions that are not listed here draw from the global generator, which :class:`StackedLoss` notices.
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
        """Handle random functions; all other functions run unchanged."""
        kwargs = kwargs or {}
        handled = func in self._PLAIN or func in self._LIKE or func is torch.Tensor.normal_
        if func in self._REFUSED or (handled and kwargs.get("generator") is not None):
            given = " with a generator" if handled else ""
            raise RuntimeError(
                f"SeededDraws: a stacked loss uses torch.{func.__name__}{given}, whose random numbers all agents "
                f"would share; {_INSTEAD}"
            )
        if func in self._PLAIN:
            return self._draw(lambda generator: func(*args, **{**kwargs, "generator": generator}))
        if func in self._LIKE:
            like = {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            return self._draw(lambda g: self._LIKE[func](args[0].shape, generator=g, **like))
        if func is torch.Tensor.normal_:
            empty = {"dtype": args[0].dtype, "device": args[0].device}
            shape, moments = args[0].shape, args[1:]
            kwargs.pop("generator", None)
            drawn = self._draw(lambda g: torch.empty(shape, **empty).normal_(*moments, generator=g, **kwargs))
            if cast(Any, torch._C)._functorch.is_batchedtensor(args[0]):
                return args[0].copy_(drawn)
            args[0].fill_(torch.nan)
            return drawn
        if func == _GET_DATA:
            # Some of TorchRL's losses detach with ``.data``, which vmap does not support.
            return args[0].detach()
        return func(*args, **kwargs)


class StackedLoss(nn.Module):
    """Evaluates the losses of several identically built agents together with vmap.

    Every parameter and buffer of the agents becomes a row of one tensor ``[agents, ...]``, which this module
    holds; the agents keep views of their rows. In-place changes (an optimizer on the stacked parameters, a target
    update or K-means of one agent) are therefore visible on both sides, and each agent can be evaluated, saved
    and logged like a single agent.

    Args:
        agents (sequence of MetaLoss): built identically, with separate initial parameters. All must
            have the same flags (``representation_frozen``, ...).
        seeds (sequence of int): seeds of the random numbers in each agent's forward pass.

    Keys: the agents' keys, with every entry ``[agents, ...]``.

    Out: the agents' losses, ``[agents]`` each. The gradient of their sum has each agent's gradient in its row.

    Raises:
        RuntimeError: if moved to another device or dtype; move the agents before stacking them. If an agent draws
            random numbers from the global generator (dropout, ``uniform_``), which all agents would share.
        ValueError: if there is no agent, the numbers of agents and seeds differ, the agents' architectures
            differ, or they are in different phases.

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
        _require_same_settings(agents)
        self.state = stack_states(agents)
        # Not registered as submodules, because their parameters are rows of the state.
        self._agents = list(agents)
        self._lent = [
            (module, name, parameter, parameter.requires_grad)
            for module in self._agents[0].modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        leaves: list[Any] = list(self.state.values(True, True))
        # Modules that share a parameter name it twice.
        self.leaves = nn.ParameterList(dict.fromkeys(leaf for leaf in leaves if leaf.requires_grad))
        device = leaves[0].device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._draws = SeededDraws(self.generators)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StackedLoss:
        """Reject ``to``, ``double`` and ``cuda``, which would disconnect the agents' views."""
        raise RuntimeError(
            "StackedLoss: its agents hold views of its parameters, which a new dtype or device would "
            "disconnect; move the agents first, then stack them."
        )

    def leaf_of(self, parameter: nn.Parameter) -> nn.Parameter:
        """The stacked parameter whose first row is ``parameter`` of the first agent.

        Raises:
            KeyError: if it is not a parameter of the first agent.
        """
        for leaf in self.leaves:
            if leaf.data_ptr() == parameter.data_ptr() and leaf.shape[1:] == parameter.shape:
                return leaf
        raise KeyError("StackedLoss: this is not a parameter of the first agent.")

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
        own: Any = state.to_module(self._agents[0])
        try:
            with self._draws, own:
                return self._agents[0](tensordict)
        except BaseException:  # which the context manager of TensorDict leaves without swapping back
            own.to_module(self._agents[0], return_swap=False)
            raise

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute all agents' losses on their meta-batches."""
        self._require_one_phase()
        rows = torch.arange(len(self._agents), device=self.generators[0].device)
        before = _random_state(rows.device)
        try:
            # All random numbers come from SeededDraws.
            losses = torch.vmap(self._one, randomness="same")(self.state, tensordict, rows)
        finally:
            self._restore()
        if not torch.equal(before, _random_state(rows.device)):
            raise RuntimeError(
                "StackedLoss: an encoder or loss draws random numbers from the global generator, as dropout, "
                f"uniform_ and exponential_ do; all agents would share them; {_INSTEAD}"
            )
        return losses

    def _restore(self) -> None:
        """Give the first agent its own parameters back, to which optimizers of its parts refer.

        The vmap has left constant ones in their place, or unusable ones after an error.
        """
        for module, name, parameter, learns in self._lent:
            module._parameters[name] = cast(nn.Parameter, parameter.requires_grad_(learns))


def stack_states(modules: Sequence[nn.Module]) -> TensorDict:
    """Stack parameters and buffers of identically built modules; the modules keep views of their rows.

    A parameter that a module has under several names is one row under all of them.

    Raises:
        ValueError: if the modules differ in their parameters.

    Examples:
        >>> linears = [nn.Linear(2, 1) for _ in range(3)]
        >>> stacked = stack_states(linears)
        >>> stacked["weight"].shape, linears[1].weight.data_ptr() == stacked["weight"][1].data_ptr()
        (torch.Size([3, 1, 2]), True)
    """
    states: list[Any] = [TensorDict.from_module(module) for module in modules]
    names = [set(state.keys(True, True)) for state in states]
    shapes = [
        {key: state[key].shape for key in names[0] & own} for state, own in zip(states, names, strict=True)
    ]
    if any(own != names[0] for own in names) or any(shape != shapes[0] for shape in shapes):
        raise ValueError("stack_states: the modules have different parameters; build them identically.")
    stacked: Any = torch.stack([state.data for state in states]).contiguous()
    leaves: dict[int, Tensor] = {}
    for key in names[0]:
        own = states[0][key]
        if id(own) not in leaves:
            leaf = stacked[key].clone()
            for state, row in zip(states, leaf, strict=True):
                state[key].data = row
            leaves[id(own)] = nn.Parameter(leaf) if own.requires_grad else leaf
        stacked.set(key, leaves[id(own)])
    return stacked


def _require_same_settings(agents: Sequence[nn.Module]) -> None:
    """Refuse agents with other settings than the first one, whose modules compute all losses."""
    settings = [_settings(agent) for agent in agents]
    for number, other in enumerate(settings[1:], start=1):
        for name in sorted(settings[0].keys() & other.keys()):
            if settings[0][name] != other[name]:
                raise ValueError(
                    f"StackedLoss: {name} is {settings[0][name]!r} in agent 0 and {other[name]!r} in agent "
                    f"{number}; build all agents with the same settings, or train this one by itself."
                )


def _settings(agent: nn.Module) -> dict[str, Any]:
    """The public numbers, flags and names among the attributes of all modules, and which parameters learn."""
    found: dict[str, Any] = {
        f"requires_grad of {name}": parameter.requires_grad for name, parameter in agent.named_parameters()
    }
    for path, module in agent.named_modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and isinstance(value, (bool, int, float, str)):
                found[f"{path}.{name}" if path else name] = value
    return found


def _random_state(device: torch.device) -> Tensor:
    """State of the global generator of the device."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
