"""The subcommands that train nothing: ``sharedmlp prepare | export | predict | show``."""

from sharedmlp.commands import export, predict, prepare, show

COMMANDS = {"prepare": prepare.run, "export": export.run, "predict": predict.run, "show": show.run}
