"""The command `appliance`: the group of its verbs, nothing else."""

import importlib
import sys

import click

from appliance import __version__
from appliance.commands.common import report_error
from appliance.errors import EXIT_INTERRUPTED, CasemateError

# verb -> module; a verb's module is imported when it is used or when help is asked for
VERBS = (
    "plan",
    "deploy",
    "status",
    "doctor",
    "pods",
    "volumes",
    "logs",
    "exec",
    "bench",
    "backup",
    "restore",
    "migrate",
    "lock",
    "bundle",
    "upgrade",
    "rollback",
    "lab",
    "reset",
    "completion",
)


class Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        return importlib.import_module(f"appliance.commands.{name}").command


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="appliance")
def appliance() -> None:
    """Turn Linux machines into secure-container appliances: every pod in its own microVM.

    \b
    Start here:
      appliance lab up             make a host to try things on
      appliance plan               see what would change, write nothing
      appliance deploy             bring the inventory's hosts to what it declares
      appliance status             what runs, in which version, is it well

    \b
    Exit codes: 0 done, 1 failed, 2 usage or invalid inventory, 3 plan found changes
    (--detailed-exitcode), 4 a host is unreachable, 5 an upgrade was rolled back, 130 interrupted.
    """


def main() -> None:
    """Run the command `appliance`."""
    finish(appliance)


def finish(command: click.Command) -> None:
    """Run `command` and exit; every error that we foresee ends as one readable block and the right exit code."""
    try:
        code = command.main(prog_name=command.name, standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except CasemateError as error:
        report_error(error)
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
