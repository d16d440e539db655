"""The subcommands of ``ctmrl``; each has a ``main(arguments) -> exit status``. ``runs`` starts runs."""
