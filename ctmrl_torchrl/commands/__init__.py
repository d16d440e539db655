"""What the subcommands of ``ctmrl`` do; each has a ``main(arguments) -> exit status``."""
