"""CTMRL to the letter: the equations as written, against plain loops."""

from __future__ import annotations

import pytest
import torch
from registered import meta_batch, problem
from torch.nn import functional

from ctmrl_torchrl.methods import CQVAEConfig
from ctmrl_torchrl.methods.ctmrl import FollowingCodes
from ctmrl_torchrl.modules import EncoderConfig, match_codes, moving_update
from ctmrl_torchrl.objectives.policy import BRACSACConfig
from ctmrl_torchrl.training.build import make_loss
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.validate import validate_config

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def make(**fields):
    settings = CQVAEConfig(codes=3, predictor_hidden=[8], as_written=True, extra_negatives=4, **fields)
    encoder, policy = EncoderConfig(context_dim=4, hidden=[8]), BRACSACConfig(hidden=[8])
    return make_loss(encoder, settings, policy, problem(), seed=0)


def test_the_terms_are_what_the_paper_writes():
    loss, batch = make(), meta_batch()
    loss.representation_frozen = False
    codes = loss.representation.codebook.codes.detach().clone()
    out = loss(batch)
    contexts = loss.encode(batch, "context")
    positives = loss.encode(batch, "context_positive")
    index = match_codes(contexts, codes)[1]
    predictors, context = loss.representation.predictors, batch["context"]

    def prediction(given):  # Eq. (4)-(6), or (7)-(9)
        total = []
        for task in range(5):
            expected = predictors.predict(context[task : task + 1], given[task : task + 1],
                                          loss.representation.tensor_keys)  # fmt: skip
            total.append(
                sum(
                    (expected[key][0, t] - context[key][task, t]).norm() for key in expected for t in range(7)
                )
            )
        return torch.stack(total).mean()

    torch.testing.assert_close(out["loss_prediction"], prediction(contexts))
    torch.testing.assert_close(out["loss_cross_prediction"], prediction(codes[index]))
    similarity = functional.cosine_similarity(contexts[:, None], codes[None], dim=-1) / 0.1
    code_loss = -sum(similarity[i].log_softmax(-1)[index[i]] for i in range(5))  # Eq. (3)
    torch.testing.assert_close(out["loss_code"], code_loss)
    contrast = 0.0
    for code in range(3):  # Eq. (10)
        members = (index == code).nonzero().flatten().tolist()
        for k in members:
            others = members if len(members) > 1 else range(5)
            cosines = torch.stack(
                [functional.cosine_similarity(contexts[k], positives[m], dim=0) / 0.1 for m in others]
            )
            own = functional.cosine_similarity(contexts[k], positives[k], dim=0) / 0.1
            contrast = contrast - (own - cosines.logsumexp(0)) / len(members) / 3
    torch.testing.assert_close(out["loss_contrastive"], contrast)


def test_codes_follow_after_the_gradient_step():
    loss, batch = make(), meta_batch()
    loss.train()
    codebook = loss.representation.codebook
    before = codebook.codes.detach().clone()
    loss(batch)
    assert torch.equal(codebook.codes, before)
    part, contexts = FollowingCodes(loss), loss.encode(batch, "context").detach()
    part.inner_steps(batch, {"task_context": contexts})
    part.after_update(0)
    expected = moving_update(before, contexts, match_codes(contexts, before)[1], 0.1)
    torch.testing.assert_close(codebook.codes.detach(), expected)
    loss.representation_frozen = True
    part.inner_steps(batch, {"task_context": contexts})
    part.after_update(1)
    torch.testing.assert_close(codebook.codes.detach(), expected)


@pytest.mark.parametrize(
    ("env", "codes"),
    [("point_robot", 8), ("sparse_point_robot", 4), ("half_cheetah_vel", 16), ("ant_goal", 2)],
)
def test_the_letter_is_kept_on_every_environment(env, codes):
    config = compose_config(["method=ctmrl_paper", f"env={env}", "evaluation.protocols=[np]"])
    validate_config(config)
    assert config.representation.codes == codes and config.representation.as_written
    assert config.context.trajectories == [1, 1] and config.context.different
    assert config.schedule.representation_end == 1.0 and config.schedule.policy_start == 0.0
    weights = ("prediction_weight", "cross_prediction_weight", "code_weight", "contrastive_weight")
    assert all(getattr(config.representation, name) == 1.0 for name in weights)
