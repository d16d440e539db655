"""The objective of CTMRL's released code, which differs from the paper: CSRO's terms, a cycle and contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.codebook import Codebook, match_codes
from ctmrl_torchrl.modules.keys import join_key
from ctmrl_torchrl.objectives.checks import require_shape, require_weights
from ctmrl_torchrl.objectives.encoding import ContextEncoding
from ctmrl_torchrl.objectives.representation.checks import by_name, require_contexts
from ctmrl_torchrl.objectives.representation.club import club_bound, posterior_error
from ctmrl_torchrl.objectives.representation.codebook_loss import DIAGNOSTICS, CodebookLoss
from ctmrl_torchrl.objectives.representation.metric import metric_loss
from ctmrl_torchrl.objectives.representation.released_terms import (
    bilinear_contrastive,
    code_contrast,
    squared_distance,
)
from ctmrl_torchrl.typed import dispatch, total

TERMS = (
    "loss_metric",
    "loss_club",
    "loss_guess",
    "loss_prediction",
    "loss_cycle",
    "loss_commitment",
    "loss_code_contrast",
    "loss_contrastive",
)


class ReleasedCTMRLLoss(CodebookLoss):
    """The objective of CTMRL's released code, where it is well defined; see :class:`CQVAELoss` for the paper's.

    - ``loss_metric``: FOCAL's distance metric loss; reaches the contexts.
    - ``loss_club``, ``loss_guess``: CSRO's bound on the behavior information in per-transition contexts
      (reaches the encoder), and the adversary's fit (reaches ``behaviour_posterior``).
    - ``loss_prediction``: errors of the predictors, given the detached contexts; reaches the predictors.
    - after the warm-up ``loss_cycle``: the context's rewards (and next observations, if the encoder reads
      them) are predicted from the matched code and encoded again; squared distance between code and result.
      Reaches codes, predictors and encoder.
    - ``loss_commitment``: squared distance between contexts and their codes; reaches the contexts.
    - ``loss_code_contrast``: InfoNCE of each code with itself as the positive; reaches the codes.
    - ``loss_contrastive``: InfoNCE among the tasks of a code, summed over codes; reaches the contexts of both
      draws.

    The last two use the similarity ``x W y`` without a temperature. W is constant, because no optimizer of the
    released code includes it.

    Gradients:

    ======================  ============================================================
    term                    reaches
    ======================  ============================================================
    ``loss_metric``         contexts (hence the encoder)
    ``loss_club``           per-transition contexts
    ``loss_guess``          ``behaviour_posterior``
    ``loss_prediction``     predictors
    ``loss_cycle``          codes, predictors, encoder
    ``loss_commitment``     contexts
    ``loss_code_contrast``  codes
    ``loss_contrastive``    contexts of both draws
    ======================  ============================================================

    Differences from the released code, which is named first. The contrast covers all training tasks with
    separately sampled contexts; here it covers the tasks of the meta-batch. A task alone on its code costs
    nothing; here it gets sampled negatives. W is random; here it is the identity unless given. The cycle
    compares the code with every reconstructed transition; here with their mean. The commitment also reaches
    the codes; here it does not. Predictors learn from the policy batch; here from the context. Codes follow
    running counts that overwrite their gradient step; here they follow Eq. (2).

    Args:
        codebook (Codebook): matches contexts with codes.
        reward_predictor, next_observation_predictor (TensorDictModule): as for
            :class:`~ctmrl_torchrl.objectives.CQVAELoss`; the second may be None.
        behaviour_posterior (TensorDictModule): reads ``observation`` and ``action`` and writes mean and variance
            of a transition's context; see :func:`~ctmrl_torchrl.modules.make_behaviour_posterior`.

    Keyword Args:
        metric_weight, club_weight, posterior_weight, prediction_weight, cycle_weight, commitment_weight,
            code_contrast_weight, contrastive_weight (float): weights of the terms; 10, 25, 10, 1, 1, 0.25, 1,
            1. A weight of 0 disables a term and skips its computation (bound and posterior only together).
        bilinear (Tensor, optional): W, ``[d, d]``; the identity by default.
        extra_negatives (int): negatives of tasks alone on their code. Defaults to 4.
        reward_scale, next_observation_scale, reduction: as for
            :class:`~ctmrl_torchrl.objectives.CQVAELoss`.

    Keys (see ``set_keys``):
        - ``context``, ``context_positive``: the draws that :meth:`contexts` encodes
        - ``task_context``, ``task_context_positive`` ``[T, d]``, ``task_id`` ``[T]`` (optional): as for
          :class:`~ctmrl_torchrl.objectives.CQVAELoss`
        - ``transition_contexts`` ``[T, L, d]``: per-transition contexts, with gradient
        - ``task_context_reconstructed`` ``[T, d]``: contexts of the output of :meth:`reconstructed`
        - ``prediction``: the context ``[T, L]`` that was encoded, with ``observation``, ``action``,
          ``reward``, ``next_observation`` and (optional) ``mask`` inside

    Out: the terms above and the detached ``perplexity``, ``dead_codes``, ``reward_error``.

    Raises:
        KeyError: if a required entry is missing.
        ValueError: if an entry or W has the wrong shape.

    Source: released code of CTMRL (AAAI 2026), and of CSRO and FOCAL, from which it descends.

    Examples:
        >>> from ctmrl_torchrl.modules import make_behaviour_posterior, make_reward_predictor
        >>> sizes = dict(observation_dim=3, action_dim=2, context_dim=4)
        >>> loss = ReleasedCTMRLLoss(
        ...     Codebook(8, 4), make_reward_predictor(**sizes), None, make_behaviour_posterior(**sizes)
        ... )
        >>> state = {"observation": torch.randn(5, 7, 3), "action": torch.rand(5, 7, 2)}
        >>> names = "task_context", "task_context_positive", "task_context_reconstructed"
        >>> contexts = {name: torch.randn(5, 4) for name in names}
        >>> contexts["transition_contexts"] = torch.randn(5, 7, 4)
        >>> batch = {"context": state | {"next": {"reward": torch.randn(5, 7, 1)}}} | contexts
        >>> len([name for name in loss(TensorDict(batch, [5])).keys() if name.startswith("loss_")])
        8
    """

    bilinear: Tensor
    curve_titles = {
        "loss_metric": "Metric loss (tasks apart)",
        "loss_club": "Behavior information in contexts",
        "loss_guess": "Guess of contexts from behavior",
        "loss_cycle": "Cycle loss (codes, predictions)",
        "loss_commitment": "Commitment loss (contexts, codes)",
        "loss_code_contrast": "Contrastive loss of codes",
        "loss_contrastive": "Contrastive loss (tasks apart)",
    }
    main_curve = "loss_prediction"

    @dataclass
    class _AcceptedKeys(CodebookLoss._AcceptedKeys):
        task_context_reconstructed: NestedKey = "task_context_reconstructed"
        transition_contexts: NestedKey = "transition_contexts"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        codebook: Codebook,
        reward_predictor: TensorDictModuleBase,
        next_observation_predictor: TensorDictModuleBase | None,
        behaviour_posterior: TensorDictModuleBase,
        *,
        metric_weight: float = 10.0,
        club_weight: float = 25.0,
        posterior_weight: float = 10.0,
        prediction_weight: float = 1.0,
        cycle_weight: float = 1.0,
        commitment_weight: float = 0.25,
        code_contrast_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        bilinear: Tensor | None = None,
        extra_negatives: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(codebook, reward_predictor, next_observation_predictor, **options)
        self.behaviour_posterior = behaviour_posterior
        require_weights(
            type(self).__name__,
            metric_weight=metric_weight,
            club_weight=club_weight,
            posterior_weight=posterior_weight,
            prediction_weight=prediction_weight,
            cycle_weight=cycle_weight,
            commitment_weight=commitment_weight,
            code_contrast_weight=code_contrast_weight,
            contrastive_weight=contrastive_weight,
        )
        self.metric_weight = metric_weight
        self.club_weight = club_weight
        self.posterior_weight = posterior_weight
        self.prediction_weight = prediction_weight
        self.cycle_weight = cycle_weight
        self.commitment_weight = commitment_weight
        self.code_contrast_weight = code_contrast_weight
        self.contrastive_weight = contrastive_weight
        self.extra_negatives = extra_negatives
        size = codebook.codes.shape[-1]
        bilinear = torch.eye(size) if bilinear is None else bilinear.detach().clone()
        hint = "one row and column per dimension of the codes."
        require_shape(bilinear, (size, size), reader=type(self).__name__, what="bilinear", hint=hint)
        self.register_buffer("bilinear", bilinear)
        self.out_keys = [*TERMS, *DIAGNOSTICS]

    @property
    def _uses_positive(self) -> bool:
        return self.contrastive_weight != 0 and not self.warm_up

    @property
    def _uses_transition_contexts(self) -> bool:
        return self.club_weight != 0 or self.posterior_weight != 0

    @property
    def _cycles(self) -> bool:
        return self.cycle_weight != 0 and not self.warm_up

    @property
    def context_keys(self) -> dict[str, list[NestedKey]]:
        """The draws to encode in this phase, with the keys that the cycle reads."""
        keys = self.tensor_keys
        draws = {"context": [keys.observation, keys.action] if self._cycles else []}
        return draws | ({"context_positive": []} if self._uses_positive else {})

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that the next forward pass reads."""
        keys = self.tensor_keys
        needed = [
            (keys.task_context, True),
            (keys.task_context_positive, self._uses_positive),
            (keys.transition_contexts, self._uses_transition_contexts),
            (keys.task_context_reconstructed, self._cycles),
        ]
        leaves = [keys.observation, keys.action]
        if self.prediction_weight:
            leaves += self.predictors.targets(keys)
        return [key for key, used in needed if used] + [join_key(keys.prediction, leaf) for leaf in leaves]

    def contexts(self, encoding: ContextEncoding) -> dict[str, Tensor]:
        """Encode both draws, and the predicted transitions under the matched codes."""
        contexts, context = {}, encoding.draw("context")
        if self._uses_positive:
            contexts["task_context_positive"] = encoding(encoding.draw("context_positive")).task_context
        encoded = encoding(context)
        contexts |= encoded.entries()
        if self._uses_transition_contexts:
            contexts["transition_contexts"] = encoded.transition_contexts
        if self._cycles:
            again = self.reconstructed(context, encoded.task_context)
            contexts["task_context_reconstructed"] = encoding(again).task_context
        return contexts

    def reconstructed(self, context: TensorDictBase, task_context: Tensor) -> TensorDictBase:
        """The context with outcomes predicted under the matched codes."""
        index = match_codes(task_context.detach(), self.codebook.codes.detach())[1]
        return self._answer(context.copy(), self.codebook.codes[index])

    def _club(self, tensordict: TensorDictBase, batch: TensorDictBase) -> dict[str, Tensor]:
        """The bound that the encoder minimizes and the error that its adversary minimizes."""
        keys = self.tensor_keys
        contexts, mask = self._read(tensordict, keys.transition_contexts), batch.get(keys.mask, None)
        seen = {name: self._read(batch, getattr(keys, name)) for name in ("observation", "action")}
        lead = seen["action"].shape[:-1]
        guess = self.behaviour_posterior(TensorDict(by_name(self.behaviour_posterior, keys, seen), lead))
        loc, variance = (guess.get(key) for key in self.behaviour_posterior.out_keys[-2:])
        hint = "one context per transition, with the size of task contexts: encoder.pool=mean."
        self._shaped(contexts, (*lead, loc.shape[-1]), keys.transition_contexts, hint)
        club = club_bound(loc.detach(), variance.detach(), contexts, mask)
        error = posterior_error(loc, variance, contexts.detach(), mask)
        return {"loss_club": self.club_weight * club, "loss_guess": self.posterior_weight * error}

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute the terms."""
        keys = self.tensor_keys
        task_context = self._contexts(tensordict, contrasted=self.contrastive_weight != 0)
        batch, task_id = self._read(tensordict, keys.prediction), tensordict.get(keys.task_id, None)
        reward_error = zeros = task_context.new_zeros(task_context.shape[0])
        terms: dict[str, Tensor] = dict.fromkeys(TERMS, zeros)
        if self.metric_weight:
            terms["loss_metric"] = self.metric_weight * metric_loss(task_context, task_id)
        if self._uses_transition_contexts:
            terms |= self._club(tensordict, batch)
        if self.prediction_weight:
            errors = self._prediction_errors(batch, task_context.detach())
            reward_error = errors[0]
            terms["loss_prediction"] = self.prediction_weight * total(errors)
        if not self.warm_up:
            terms |= self._code_terms(tensordict, task_context, task_id)
        return self._reported(terms, reward_error)

    def _code_terms(
        self, tensordict: TensorDictBase, task_context: Tensor, task_id: Tensor | None
    ) -> dict[str, Tensor]:
        keys, terms = self.tensor_keys, {}
        code_index, code = self._matched(task_context)
        if self._cycles:
            key, size = keys.task_context_reconstructed, code.shape[-1]
            again = require_contexts(tensordict, key, latent_size=size, reader=type(self).__name__)
            terms["loss_cycle"] = self.cycle_weight * squared_distance(again, code)
        if self.commitment_weight:
            terms["loss_commitment"] = self.commitment_weight * squared_distance(task_context, code.detach())
        if self.code_contrast_weight:
            contrast = code_contrast(self.codebook.codes, self.bilinear)
            terms["loss_code_contrast"] = self.code_contrast_weight * contrast.expand(task_context.shape[0])
        if self.contrastive_weight:
            terms["loss_contrastive"] = self.contrastive_weight * bilinear_contrastive(
                task_context,
                self._read(tensordict, keys.task_context_positive),
                code_index,
                self.bilinear,
                extra_negatives=self.extra_negatives,
                task_id=task_id,
            )
        return terms
