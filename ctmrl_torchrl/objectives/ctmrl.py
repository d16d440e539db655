"""CTMRLLoss: the agent of the paper as one loss module."""

from __future__ import annotations

from typing import Any

from tensordict.nn import TensorDictModuleBase
from torchrl.objectives import LossModule

from ctmrl_torchrl.modules.codebook import Codebook
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.representation.cqvae import CQVAELoss


class CTMRLLoss(MetaLoss):
    """CTMRL (cross-task contexts): the CQ-VAE objective (Eq. 3-10) plus a context-conditioned policy loss.

    Args:
        context_encoder (TensorDictModule): ``("context", ...) -> task_context``.
        codebook (Codebook): N codes of the same latent size.
        reward_predictor, next_observation_predictor (TensorDictModule): the CQ-VAE's decoder.
        policy_loss (LossModule): on ``(observation, task_context)``.

    Keyword Args:
        representation_options: keyword arguments of :class:`~ctmrl_torchrl.objectives.CQVAELoss`. ``reduction``
            applies to its terms only; the policy loss has a separate one.

    Gradients: see the tables of :class:`~ctmrl_torchrl.objectives.CQVAELoss` and of the policy loss.

    Keys, outputs, attributes, targets and errors: see :class:`~ctmrl_torchrl.objectives.MetaLoss`. For keys
    inside the contexts, see :class:`~ctmrl_torchrl.objectives.CQVAELoss` (here ``loss.representation``, which
    has a separate ``set_keys``).

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from ctmrl_torchrl import modules
        >>> from ctmrl_torchrl.objectives import BRACSACLoss, CTMRLLoss
        >>> sizes = dict(observation_dim=2, context_dim=4)
        >>> features = {("context", "observation"): 2, ("context", "next", "reward"): 1}
        >>> loss = CTMRLLoss(
        ...     modules.make_context_encoder(feature_dims=features, context_dim=4),
        ...     modules.Codebook(3, 4),
        ...     modules.make_reward_predictor(action_dim=2, **sizes),
        ...     modules.make_next_observation_predictor(action_dim=2, **sizes),
        ...     BRACSACLoss(
        ...         modules.make_actor(action_dim=2, **sizes),
        ...         modules.make_qvalue(action_dim=2, **sizes),
        ...         modules.make_value(**sizes),
        ...         gamma=0.9,
        ...     ),
        ... )
        >>> def transitions(*shape):
        ...     never = torch.zeros(*shape, 1, dtype=torch.bool)
        ...     root = {"observation": torch.randn(*shape, 2), "action": torch.rand(*shape, 2)}
        ...     following = {"observation": torch.randn(*shape, 2), "reward": torch.randn(*shape, 1)}
        ...     return TensorDict(root | {"next": following | {"done": never, "terminated": never}}, shape)
        >>> meta_batch = TensorDict({"context": transitions(5, 7), "context_positive": transitions(5, 7),
        ...     "transitions": transitions(5, 6)}, [5])
        >>> for key in sorted(loss(meta_batch).keys()):
        ...     if key.startswith("loss_"):
        ...         print(key)
        loss_actor
        loss_code
        loss_contrastive
        loss_cross_prediction
        loss_prediction
        loss_qvalue
        loss_value
    """

    def __init__(
        self,
        context_encoder: TensorDictModuleBase,
        codebook: Codebook,
        reward_predictor: TensorDictModuleBase,
        next_observation_predictor: TensorDictModuleBase,
        policy_loss: LossModule,
        **representation_options: Any,
    ) -> None:
        representation = CQVAELoss(
            codebook, reward_predictor, next_observation_predictor, **representation_options
        )
        super().__init__(context_encoder, representation, policy_loss)
