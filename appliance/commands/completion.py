"""`appliance completion`: shell completion."""

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    Examples:
      appliance completion bash > /etc/bash_completion.d/appliance
      appliance completion zsh > ~/.zfunc/_appliance
    """
    group = context.find_root().command
    click.echo(get_completion_class(shell)(group, {}, "appliance", "_APPLIANCE_COMPLETE").source())
