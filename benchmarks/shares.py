"""Where an update's time goes: the parts of the real update, each with a stopwatch around it."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from cases import Case
from measure import four_digits

from ctmrl_torchrl.objectives import CQVAELoss, ReleasedCTMRLLoss
from ctmrl_torchrl.objectives.representation import cqvae, released


@contextmanager
def stopwatch(clock: dict[str, float], part: str, owner: Any, name: str) -> Iterator[None]:
    """While open, adds the seconds spent in ``owner.name`` to ``clock[part]``."""
    original = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            clock[part] += time.perf_counter() - start

    with mock.patch.object(owner, name, watched):
        yield


#: terms of the representation losses: of whom they are a part, and under which name
TERMS = {
    CQVAELoss: [
        ("code classification (L_C)", cqvae, "code_classification"),
        ("hard contrast (L_contra)", cqvae, "hard_contrastive"),
    ],
    ReleasedCTMRLLoss: [
        ("metric loss", released, "metric_loss"),
        ("bound on behaviour (CLUB)", ReleasedCTMRLLoss, "_club"),
        ("bilinear contrast", released, "bilinear_contrastive"),
        ("contrast of codes", released, "code_contrast"),
        ("outcomes under the codes (cycle)", ReleasedCTMRLLoss, "reconstructed"),
    ],
}


def _parts(case: Case) -> list[tuple[str, Any, str]]:
    loss, trainer = case.loss, case.trainer
    return [
        ("sampling", trainer, "next_batch"),
        ("encoding", loss, "context_encoder"),
        ("prediction errors", loss.representation, "_prediction_errors"),
        *TERMS[type(loss.representation)],
        ("policy loss", loss, "policy"),
        ("backward", torch.Tensor, "backward"),
        ("optimizer", trainer.optimizer, "step"),
        ("targets", trainer.target_update, "step"),
    ]


def shares(case: Case, *, rounds: int) -> dict[str, float]:
    """Median share of every part in the time of sampling and an update as written; what is left is ``"rest"``."""

    case.trainer.differentiate = case.trainer._gradients  # a recording has no parts

    def step() -> None:
        case.trainer.update(case.trainer.next_batch())

    step()
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        clock: dict[str, float] = defaultdict(float)
        with ExitStack() as stack:
            for part, owner, name in _parts(case):
                # A loss is called as a module; modules are watched at their forward pass.
                module = getattr(owner, name) if name in ("policy", "context_encoder") else None
                watched = (module, "forward") if module is not None else (owner, name)
                stack.enter_context(stopwatch(clock, part, *watched))
            start = time.perf_counter()
            step()
            whole = time.perf_counter() - start
        for part, _, _ in _parts(case):
            taken[part].append(clock[part] / whole)
        taken["rest"].append(1.0 - sum(clock.values()) / whole)
    return {part: four_digits(statistics.median(values)) for part, values in taken.items()}
