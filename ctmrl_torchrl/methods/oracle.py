"""The oracle: a policy that is told the task's parameters in place of a context.

- encoder: :class:`~ctmrl_torchrl.modules.TaskParameters`, looked up by ``task_id``; nothing to learn
- representation loss: none
- protocol: ``told``, one episode with nothing collected

What separates its return from the optimum is the policy's share of the missing return; the rest is the
context's. The method has no configuration of its own: it composes ``encoder.name=task_parameters`` with
``representation.name=nothing``.
"""
