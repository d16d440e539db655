"""What contexts and returns tell about task parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["parameters_behind_returns", "probe_parameters"]


def probe_parameters(
    contexts: Tensor, parameters: Tensor, train: Sequence[int], test: Sequence[int]
) -> Tensor:
    """R² of each task parameter on unseen tasks, predicted from contexts by ridge regression on training tasks.

    1: contexts determine the parameter linearly, also for tasks that the regression has not seen. 0:
    they say no more than the mean over tasks; a negative value is worse than this mean. Contexts may know
    more than a linear probe shows, and the policy may not use what they know.

    The strength of the regularization is chosen by leave-one-out validation on the training tasks' contexts.

    Args:
        contexts: ``[tasks, repeats, d]``, independent contexts of every task.
        parameters: ``[tasks, p]``.
        train, test: positions of the tasks for regression, and for the score.

    Returns:
        ``[p]``; NaN for a parameter that does not differ between the test tasks.

    Raises:
        ValueError: for shapes that do not fit, contexts that are not finite, or fewer than three training or two
            test tasks.

    Examples:
        >>> place = torch.linspace(-1, 1, 12, dtype=torch.float64)
        >>> contexts = torch.stack([place, torch.ones(12)], -1)[:, None].expand(12, 2, 2)
        >>> known = torch.stack([3 * place, place.sin()], -1)
        >>> probe_parameters(contexts, known, train=range(0, 12, 2), test=range(1, 12, 2)).round(decimals=2)
        tensor([1., 1.], dtype=torch.float64)
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if contexts.ndim != 3 or parameters.ndim != 2 or len(contexts) != len(parameters):
        raise ValueError(
            f"contexts must be [tasks, repeats, d] and parameters [tasks, p] of the same tasks, got "
            f"{list(contexts.shape)} and {list(parameters.shape)}."
        )
    if not torch.isfinite(contexts).all():
        raise ValueError("contexts contain values that are not finite.")
    if len(train) < 3 or len(test) < 2:
        raise ValueError(
            f"A probe needs at least three training and two test tasks, got {len(train)} and {len(test)}."
        )
    x, y = contexts.double().cpu().numpy(), parameters.double().cpu().numpy()
    repeats = x.shape[1]

    def rows(tasks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        tasks = list(tasks)
        return x[tasks].reshape(len(tasks) * repeats, -1), y[tasks].repeat(repeats, axis=0)

    scale = y[list(train)].std(0)
    scale[scale == 0] = 1.0
    features, targets = rows(train)
    regression = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13)))
    regression.fit(features, targets / scale)
    features, targets = rows(test)
    constant = np.ptp(targets, axis=0) == 0
    predicted = regression.predict(features).reshape(len(features), -1)
    scores = np.asarray(r2_score(targets / scale, predicted, multioutput="raw_values"))
    return torch.from_numpy(np.where(constant, np.nan, scores))


def parameters_behind_returns(
    parameters: Tensor, returns: Tensor, names: Sequence[str], level: float = 0.05
) -> dict[str, float]:
    """Task parameters that go with the returns of the tasks: Spearman's rank correlations.

    They show why some tasks stay behind. Only correlations that are significant after Bonferroni's correction for
    the number of parameters are returned.

    Args:
        parameters: ``[tasks, p]``.
        returns: ``[tasks]``; tasks whose return is not finite are left out.
        names: names of the parameters.
        level: level of significance of all tests together.

    Returns:
        correlations by name, the strongest first; empty for fewer than five tasks.

    Examples:
        >>> slope = torch.linspace(-1, 1, 20)
        >>> tasks = torch.stack([slope, slope.flip(0).roll(10), slope.square()], -1)
        >>> parameters_behind_returns(tasks, -slope.exp(), ["mass", "length", "friction"])
        {'mass': -1.0}
    """
    from scipy.stats import spearmanr

    known = torch.isfinite(returns)
    values, scores = parameters[known].double().cpu().numpy(), returns[known].double().cpu().numpy()
    varied = [column for column in range(values.shape[1]) if np.ptp(values[:, column]) > 0]
    if len(scores) < 5 or np.ptp(scores) == 0 or not varied:
        return {}
    tests: dict[str, Any] = {names[column]: spearmanr(values[:, column], scores) for column in varied}
    significant = {
        name: float(test.statistic) for name, test in tests.items() if test.pvalue * len(varied) < level
    }
    return dict(sorted(significant.items(), key=lambda pair: -abs(pair[1])))
