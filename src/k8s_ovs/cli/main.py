"""Entry point of `k8s-ovs`.

Without a sub-command it runs agent and controller in one process, as the seed starts it; `agent` and `controller` run
one half each. Errors that the user can mend are one sentence on stderr; exit codes: 0 fine, 1 failed, 2 wrong usage or
configuration.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from k8s_ovs import __version__
from k8s_ovs.cli import options
from k8s_ovs.cli.lazy import LazyGroup
from k8s_ovs.errors import ConfigError, K8sOvsError

COMMANDS = {
    "agent": "daemons:agent",
    "controller": "daemons:controller",
    "init-config": "config:init_config",
    "install-cni": "install_cni:install_cni",
    "tenant": "tenant:tenant",
    "subnet": "subnet:subnet",
    "drops": "drops:drops",
    "uninstall": "uninstall:uninstall",
    "lab": "lab:lab",
}
"""Sub-commands, and where below `k8s_ovs.cli` they are."""


@click.group(
    cls=LazyGroup,
    commands_in=COMMANDS,
    invoke_without_command=True,
    context_settings=options.CONTEXT,
)
@click.version_option(__version__, prog_name="k8s-ovs")
@options.etcd_options
@options.kube_options
@options.daemon_options
@options.agent_options
@options.log_options
@click.pass_context
def cli(context: click.Context, /, **flags: object) -> None:
    """A pod network on Open vSwitch in which a Namespace is a tenant.

    Without a command: agent and controller in one process.
    """
    if context.invoked_subcommand is None:
        run_both = import_module("k8s_ovs.cli.daemons").run_both
        run_both(dict(flags))
        return
    for option in context.command.params:
        if context.get_parameter_source(option.name or "") is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{option.opts[0]} stands before the command {context.invoked_subcommand}, which would not see it: "
                "put flags behind the command",
                context,
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (sys.argv unless given) and exit; the console script's entry."""
    try:
        # No command returns anything: a number is the code of `Context.exit`, which click hands back here.
        code = cli(arguments, prog_name="k8s-ovs", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except ConfigError as err:
        click.echo(f"k8s-ovs: {err}", err=True)
        sys.exit(2)
    except K8sOvsError as err:
        click.echo(f"k8s-ovs: {err}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
