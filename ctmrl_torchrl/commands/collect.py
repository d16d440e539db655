"""``ctmrl collect``: collect a dataset and report its contents."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ctmrl_torchrl.commands.fields import choices_of
from ctmrl_torchrl.places import config_folder

_USAGE = """usage: ctmrl collect [env=NAME] [tasks=NAME] [dataset=CHOICE | dataset.FIELD=VALUE ...]

Collect the offline dataset that `ctmrl train` with the same choices would use, and report its contents. An
interrupted collection resumes with the same command. Fields: dataset.root, dataset.recipe, dataset.seed,
dataset.collector.kind and dataset.collector.workers (processes or Ray actors that play the recorded episodes).

environments: {envs}
datasets:     {datasets}
"""


def main(arguments: Sequence[str], program: str = "ctmrl collect") -> int:
    """Collect or load the dataset, write ``report.json`` and ``returns.png`` next to it, and print a table.

    Args:
        arguments: overrides. program: name of the command, for records.

    Returns:
        the exit status.
    """
    if {"-h", "--help"} & set(arguments):
        folder = config_folder()
        text = _USAGE.format(
            envs=", ".join(choices_of(folder, "env")), datasets=", ".join(choices_of(folder, "dataset"))
        )
        sys.stdout.write(text)
        return 0
    import torch

    from ctmrl_torchrl.progress import plain_log
    from ctmrl_torchrl.training.build import set_up_process
    from ctmrl_torchrl.training.commands import recorded_command
    from ctmrl_torchrl.training.compose import compose_config
    from ctmrl_torchrl.training.data import dataset_folder, obtain_data
    from ctmrl_torchrl.training.data_report import check_report_place, format_data_table, write_data_report
    from ctmrl_torchrl.training.deterministic import check_deterministic
    from ctmrl_torchrl.training.run_folder import check_place
    from ctmrl_torchrl.training.validate import validate_config

    config = compose_config(arguments)
    validate_config(config)
    if config.deterministic:
        check_deterministic(torch.device("cpu"), config.threads)
    set_up_process(config.threads, config.keep_memory)
    if config.dataset.path is None:
        check_place("dataset.root", config.dataset.root)
    check_report_place(dataset_folder(config.dataset, config.env, config.tasks))
    with plain_log():
        dataset, _ = obtain_data(config.dataset, config.env, config.tasks, progress=config.output.progress)
    assert dataset.path is not None  # it was loaded from its folder
    report = write_data_report(dataset, dataset.path, recorded_command(program, arguments))
    sys.stdout.write(format_data_table(report) + "\n")
    return 0
