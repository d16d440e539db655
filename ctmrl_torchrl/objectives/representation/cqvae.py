"""The CQ-VAE objective of CTMRL: predictions from both contexts, code classification, hard contrast."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.codebook import Codebook
from ctmrl_torchrl.modules.keys import join_key
from ctmrl_torchrl.objectives.checks import require_weights
from ctmrl_torchrl.objectives.encoding import ContextEncoding
from ctmrl_torchrl.objectives.representation.codebook_loss import DIAGNOSTICS, CodebookLoss
from ctmrl_torchrl.objectives.representation.relabel import mix_other_tasks
from ctmrl_torchrl.objectives.representation.terms import code_classification, hard_contrastive
from ctmrl_torchrl.typed import dispatch, total

TERMS = ("loss_prediction", "loss_cross_prediction", "loss_code", "loss_contrastive")


class CQVAELoss(CodebookLoss):
    """L = w1 L_pre_spe + w2 L_pre_cro + w3 L_C + w4 L_contra (CTMRL, Eq. 3-10).

    Gradients:

    =========================  =========================================================
    term                       reaches
    =========================  =========================================================
    ``loss_prediction``        contexts (hence the encoder), predictors
    ``loss_cross_prediction``  codes, predictors; never the encoder
    ``loss_code``              contexts, codes
    ``loss_contrastive``       contexts of both draws
    =========================  =========================================================

    A weight of 0 disables a term and skips its computation. While :attr:`warm_up` is true, only L_pre_spe is
    active and the codebook is not used.

    Args:
        codebook (Codebook): matches contexts with codes.
        reward_predictor, next_observation_predictor (TensorDictModule): read (some of) ``observation``,
            ``action`` and ``task_context`` and write their prediction under their last out-key.

    Keyword Args:
        prediction_weight, cross_prediction_weight, code_weight, contrastive_weight (float): w1 to w4; 1 each.
        temperature (float): tau of Eq. (3) and (10). Defaults to 0.1.
        extra_negatives (int): M of Eq. (10). Defaults to 4.
        reward_scale, next_observation_scale (Tensor, optional): scales of the targets, in whose units
            errors are measured. A scale near zero is replaced by one, as in the predictors.
        relabelled_fraction (float): fraction of contexts that include transitions of another task, relabeled
            by the predictors after the warm-up (:meth:`mixed`). Defaults to 0.
        as_written (bool): use the equations as published: norms in raw units summed over the transitions in
            Eq. (4)-(9), the sum over tasks in Eq. (3), the mean over all N codes in Eq. (10). Defaults to
            False: mean squares in units of the scales, means over tasks, means over non-empty codes.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"`` over tasks.

    Keys (see ``set_keys``):
        - ``context`` and ``context_positive``: the draws that :meth:`contexts` encodes
        - ``task_context`` ``[T, d]`` and ``task_context_positive`` ``[T, d]``: two independent draws, with
          gradient; the second is among ``in_keys`` only while the contrastive term is on
        - ``task_id`` ``[T]`` (optional): prevents a task that was sampled twice from being its own negative
        - ``prediction``: the sub-tensordict ``[T, L]`` whose transitions are predicted; default
          ``"context"``, the paper's choice; ``"transitions"`` predicts the policy batch instead
        - inside it ``observation`` ``[T, L, features]``, ``action`` ``[T, L, actions]``,
          ``reward`` ``[T, L, 1]``, ``next_observation`` as the observation, and (optional) ``mask``
          ``[T, L]``, true for valid transitions

        Optional entries are not in ``in_keys``; keep them when you select keys from a batch.

    Out:
        ``loss_prediction``, ``loss_cross_prediction``, ``loss_code``, ``loss_contrastive`` and the detached
        ``perplexity``, ``dead_codes``, ``reward_error`` (as in ``loss_prediction``: mean squared in units of the
        reward's variance, or a norm if ``as_written``; 0 if ``prediction_weight`` is 0, because nothing is
        predicted then). The input is not modified.

    Codebook and predictors remain ordinary modules (``functional`` is false), because none of them has a target
    network or an ensemble, and other components share them.

    Raises:
        KeyError: if a required entry is missing.
        ValueError: if an entry or a prediction has the wrong shape; if the latent size differs from the
            codebook's; if the batch holds a single task while the contrastive term is on.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from ctmrl_torchrl.modules import make_next_observation_predictor, make_reward_predictor
        >>> sizes = dict(observation_dim=3, action_dim=2, context_dim=4)
        >>> loss = CQVAELoss(
        ...     Codebook(8, 4), make_reward_predictor(**sizes), make_next_observation_predictor(**sizes)
        ... )
        >>> following = {"reward": torch.randn(5, 7, 1), "observation": torch.randn(5, 7, 3)}
        >>> state = {"observation": torch.randn(5, 7, 3), "action": torch.rand(5, 7, 2)}
        >>> contexts = {"task_context": torch.randn(5, 4), "task_context_positive": torch.randn(5, 4)}
        >>> batch = TensorDict({"context": state | {"next": following}} | contexts, [5])
        >>> sorted(name for name in loss(batch).keys() if name.startswith("loss_"))
        ['loss_code', 'loss_contrastive', 'loss_cross_prediction', 'loss_prediction']
    """

    curve_titles = {
        "loss_prediction": "Prediction loss",
        "loss_cross_prediction": "Prediction loss with codes",
        "loss_code": "Code loss (distance to contexts)",
        "loss_contrastive": "Contrastive loss (tasks apart)",
    }
    main_curve = "loss_prediction"

    def __init__(
        self,
        codebook: Codebook,
        reward_predictor: TensorDictModuleBase,
        next_observation_predictor: TensorDictModuleBase,
        *,
        prediction_weight: float = 1.0,
        cross_prediction_weight: float = 1.0,
        code_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        temperature: float = 0.1,
        extra_negatives: int = 4,
        relabelled_fraction: float = 0.0,
        as_written: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(codebook, reward_predictor, next_observation_predictor, **options)
        if temperature <= 0:
            raise ValueError(f"CQVAELoss: temperature={temperature} must be positive.")
        if not 0.0 <= relabelled_fraction <= 1.0:
            raise ValueError(f"CQVAELoss: relabelled_fraction={relabelled_fraction} must lie in [0, 1].")
        require_weights(
            type(self).__name__,
            prediction_weight=prediction_weight,
            cross_prediction_weight=cross_prediction_weight,
            code_weight=code_weight,
            contrastive_weight=contrastive_weight,
        )
        self.prediction_weight = prediction_weight
        self.cross_prediction_weight = cross_prediction_weight
        self.code_weight = code_weight
        self.contrastive_weight = contrastive_weight
        self.temperature = temperature
        self.extra_negatives = extra_negatives
        self.relabelled_fraction = relabelled_fraction
        self.as_written = as_written
        self.out_keys = [*TERMS, *DIAGNOSTICS]

    @property
    def _uses_positive(self) -> bool:
        """Whether the second draw is needed in this phase, for the contrastive term or for relabeling."""
        return (self.contrastive_weight != 0 or self.relabelled_fraction != 0) and not self.warm_up

    @property
    def context_keys(self) -> dict[str, list[NestedKey]]:
        """The draws to encode in this phase, with the keys needed for relabeling."""
        keys = self.tensor_keys
        if not self._uses_positive:
            return {"context": []}
        relabelled = [keys.observation, keys.action] if self.relabelled_fraction else []
        return {"context": relabelled, "context_positive": []}

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that the next forward pass reads."""
        keys, contrasts = self.tensor_keys, self.contrastive_weight != 0 and not self.warm_up
        contexts = [keys.task_context] + ([keys.task_context_positive] if contrasts else [])
        leaves = (keys.observation, keys.action, *self.predictors.targets(keys))
        return [*contexts, *(join_key(keys.prediction, leaf) for leaf in leaves)]

    def contexts(self, encoding: ContextEncoding) -> dict[str, Tensor]:
        """Encode the first draw, mixed with relabeled transitions of other tasks, and the second draw."""
        context = encoding.draw("context")
        if not self._uses_positive:
            return encoding(context).entries()
        positive = encoding(encoding.draw("context_positive")).task_context
        context = self.mixed(context, positive.detach())
        return {"task_context_positive": positive} | encoding(context).entries()

    def mixed(self, context: TensorDictBase, task_context: Tensor) -> TensorDictBase:
        """The transitions ``[T, L]`` to encode, given contexts ``[T, d]`` of the same tasks from another draw."""
        if not self.relabelled_fraction:
            return context
        return mix_other_tasks(context, task_context, self._answer, self.relabelled_fraction)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute the four terms."""
        keys = self.tensor_keys
        task_context = self._contexts(tensordict, contrasted=self.contrastive_weight != 0)
        batch = self._read(tensordict, keys.prediction)
        reward_error = zeros = task_context.new_zeros(task_context.shape[0])
        terms: dict[str, Tensor] = dict.fromkeys(TERMS, zeros)
        if self.prediction_weight:
            errors = self._prediction_errors(batch, task_context, as_written=self.as_written)
            reward_error = errors[0]
            terms["loss_prediction"] = self.prediction_weight * total(errors)
        if not self.warm_up:
            code_index, cross_task_context = self._matched(task_context)
            if self.cross_prediction_weight:
                cross = total(self._prediction_errors(batch, cross_task_context, as_written=self.as_written))
                terms["loss_cross_prediction"] = self.cross_prediction_weight * cross
            if self.code_weight:
                tasks = task_context.shape[0] if self.as_written else 1
                terms["loss_code"] = (
                    self.code_weight
                    * tasks
                    * code_classification(task_context, self.codebook.codes, code_index, self.temperature)
                )
            if self.contrastive_weight:
                terms["loss_contrastive"] = self.contrastive_weight * hard_contrastive(
                    task_context,
                    self._read(tensordict, keys.task_context_positive),
                    code_index,
                    temperature=self.temperature,
                    extra_negatives=self.extra_negatives,
                    task_id=tensordict.get(keys.task_id, None),
                    num_codes=self.codebook.num_codes if self.as_written else None,
                )
        return self._reported(terms, reward_error)
