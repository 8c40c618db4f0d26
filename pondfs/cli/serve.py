"""``pond serve``: mount what an instance's file says, in the foreground; for a service manager."""

import os

import click

from pondfs.instance import find_instance, load_instance


@click.command("serve")
@click.argument("name", metavar="NAME|FILE")
@click.option("--check", "only_check", is_flag=True, help="Read the file, say what it means, end.")
@click.option("--log-format", metavar="FORMAT", help="text, json or journal; default: auto.")
def command(name: str, only_check: bool, log_format: str | None) -> int:
    """Mount a pond as /etc/pondfs/NAME.toml says and serve it, in the foreground.

    This is what the unit pond@NAME.service runs. It tells systemd when a stat through the mount
    works (Type=notify), feeds its watchdog, and asks for time while the last commit is made. A
    mount that a dead daemon left is detached first. SIGHUP has the file read again: commit,
    max_pending, cache and log change at once; for the rest the log says that it takes a restart.

    For other users than root the file is ~/.config/pondfs/NAME.toml.

    \b
    store = "/var/lib/pond"
    mountpoint = "/mnt/pond"
    options = ["allow_other", "commit=5"]     # as after mount.pond -o
    [resources]
    nice = -5                                 # also oom_score_adjust, open_files
    [maintain]                                # for pond maintain
    keep_daily = 30

    \b
    Example:
      pond serve field
      pond serve ./field.toml --check
      systemctl enable --now pond@field
    """
    instance = load_instance(find_instance(name, os.environ), log_format)
    if only_check:
        mount = instance.mount
        click.echo(f"{instance.path}: mounts {mount.store} on {mount.mountpoint}")
        return 0
    from pondfs.service import serve

    return serve(instance)
