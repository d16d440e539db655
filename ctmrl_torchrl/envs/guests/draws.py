"""Task parameters of a custom family: ranges and functions, sampled with one seed."""

from __future__ import annotations

import inspect
import math
import zlib
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctmrl_torchrl.envs.users_code import line_of

#: ``(low, high)``, or a function that samples values
ParameterDraw = tuple[float, float] | Callable[..., Any]

#: names of arguments that receive the number of tasks; all others receive the generator, except that the second
#: of two others receives the number of tasks
COUNT_NAMES = ("n", "num", "count", "size", "num_tasks")


def check_draws(parameters: Mapping[str, ParameterDraw]) -> dict[str, ParameterDraw]:
    """Check the definitions of all parameters and convert ranges to pairs of floats.

    Raises:
        ValueError: if there are none, a name cannot be a keyword argument, or a definition is neither a range
            nor a function of a generator.
    """
    if not isinstance(parameters, Mapping) or not parameters:
        raise ValueError(
            'parameters must map at least one name to a range or a function, e.g. {"mass": (0.5, 1.5)}; got '
            f"{parameters!r}."
        )
    return {name: _checked_draw(name, draw) for name, draw in parameters.items()}


def _checked_draw(name: str, draw: ParameterDraw) -> ParameterDraw:
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            f"The parameter name {name!r} cannot be a keyword argument of make; use letters, digits and '_'."
        )
    if callable(draw):
        _argument_names(name, draw)
        return draw
    pair = tuple(draw) if isinstance(draw, (tuple, list)) else ()
    if len(pair) != 2 or not all(_is_finite(bound) for bound in pair) or not pair[0] < pair[1]:
        raise ValueError(
            f"Parameter {name!r} must be a range (low, high) with low < high, or a function that samples "
            f"values; got {draw!r}. Set values that all tasks share inside make."
        )
    return float(pair[0]), float(pair[1])


def draw_parameters(num_tasks: int, *, draws: Mapping[str, ParameterDraw], seed: int) -> Tensor:
    """Sample the parameters of tasks; the same arguments give the same values.

    Every parameter has its own random generator, so adding one does not change the others. Values of a range
    do not depend on the number of tasks: ten tasks get the same values as the first ten of twenty.

    Args:
        num_tasks: number of tasks.
        draws: parameter name to range or function, see :func:`~ctmrl_torchrl.envs.from_gymnasium`.
        seed: seed of all generators.

    Returns:
        float64 ``[num_tasks, parameters]``.

    Raises:
        ValueError: if a function fails, or does not return the expected number of finite values.

    Example:
        >>> draws = {"mass": (0.5, 1.5), "side": lambda generator: generator.choice([-1, 1])}
        >>> draw_parameters(3, draws=draws, seed=0).shape
        torch.Size([3, 2])
    """
    columns = [
        _draw_column(name, draw, num_tasks, np.random.default_rng([seed, zlib.crc32(name.encode())]))
        for name, draw in draws.items()
    ]
    return torch.from_numpy(np.stack(columns, axis=-1))


def _draw_column(
    name: str, draw: ParameterDraw, num_tasks: int, generator: np.random.Generator
) -> np.ndarray:
    if not callable(draw):
        return generator.uniform(*draw, size=num_tasks)
    arguments = _argument_names(name, draw)
    counts = [argument in COUNT_NAMES for argument in arguments]
    if len(counts) == 2 and not any(counts):
        counts[1] = True
    given = [num_tasks if count else generator for count in counts]
    all_at_once = any(counts)
    expected = f"{num_tasks} numbers" if all_at_once else "one number"
    try:
        drawn = draw(*given) if all_at_once else [draw(*given) for _ in range(num_tasks)]
        values = np.asarray(drawn, dtype=np.float64)
    except Exception as error:
        raise ValueError(
            f"The function that samples parameter {name!r} failed, or did not return {expected}: "
            f"{type(error).__name__}: {error}{line_of(error)}"
        ) from error
    if values.shape != (num_tasks,):
        raise ValueError(
            f"The function that samples parameter {name!r} must return {expected}, got the shape "
            f"{list(values.shape if all_at_once else values.shape[1:])}. For a vector, define one parameter per "
            "component."
        )
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)][0]
        raise ValueError(
            f"The function that samples parameter {name!r} must return finite numbers, got {bad}."
        )
    return values


def _argument_names(name: str, draw: Callable[..., Any]) -> list[str]:
    """Required arguments of a sampling function; ``generator`` for a built-in without a signature."""
    try:
        signature = inspect.signature(draw)
    except (TypeError, ValueError):
        return ["generator"]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [
        each.name
        for each in signature.parameters.values()
        if each.kind in positional and each.default is inspect.Parameter.empty
    ]
    if not names or len(names) > 2 or sum(each in COUNT_NAMES for each in names) > 1:
        raise ValueError(
            f"The function that samples parameter {name!r} must take a NumPy Generator, f(generator), or a "
            f"Generator and the number of tasks, f(generator, n), but it takes ({', '.join(names)}). Values "
            "sampled from that generator are reproducible."
        )
    return names


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
