"""The oracle: a policy with the task's parameters as its context.

- encoder: :class:`~ctmrl_torchrl.modules.TaskParameters`, looked up by ``task_id``, without trainable parameters
- representation loss: none
- protocol: ``told``, one measured episode without collection

The gap between its return and the optimum is due to the policy; the rest of a method's gap is due to its
context. The method has no separate configuration: it combines ``encoder.name=task_parameters`` with
``representation.name=nothing``.
"""
