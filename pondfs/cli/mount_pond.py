"""``mount.pond``, also as ``/sbin/mount.pond``, which mount(8) calls for ``-t pond``.

mount(8) calls ``/sbin/mount.pond STORE MOUNTPOINT [-sfnv] [-N ns] [-o options] [-t type]``, and its
``-f`` means "fake: do everything but mount" where people mean "foreground". The two are told apart
by who calls: under a parent process named ``mount`` it is fake, else foreground. A flag passed on
by the /sbin shim would not do, as root has /sbin in the PATH and may type ``mount.pond -f`` too.
"""

import os
import sys

import click

from pondfs import __version__
from pondfs.cli import NoPandas
from pondfs.cli.run import as_mount_says, run
from pondfs.errors import UsageError
from pondfs.options import parse_options


@click.command("mount.pond", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mount.pond")
@click.argument("places", nargs=-1, metavar="[STORE] MOUNTPOINT")
@click.option("-o", "options", multiple=True, metavar="OPT[,OPT…]", help="Options; see below.")
@click.option(
    "-f", "short_f", is_flag=True, help="Stay in the foreground (from mount(8): mount nothing)."
)
@click.option("--foreground", is_flag=True, help="Stay in the foreground, whoever asks.")
@click.option("--log-format", metavar="FORMAT", help="As -o log_format=: text, json or journal.")
@click.option("-s", "sloppy", is_flag=True, help="Ignore unknown options.")
@click.option("-v", "--verbose", is_flag=True, help="Say what is done.")
@click.option("-n", "--no-mtab", is_flag=True, help="For mount(8); there is no mtab to write.")
@click.option("-t", "--types", metavar="TYPE", help="For mount(8); always fuse.pond.")
@click.option("-N", "--namespace", metavar="NS", help="For mount(8); refused.")
def command(
    places: tuple[str, ...],
    options: tuple[str, ...],
    short_f: bool,
    foreground: bool,
    log_format: str | None,
    sloppy: bool,
    verbose: bool,
    no_mtab: bool,
    types: str | None,
    namespace: str | None,
) -> int:
    """Mount the pond at STORE on the directory MOUNTPOINT.

    A STORE that does not exist is made. Without STORE it is $POND, else the default place:
    /var/lib/pond for root, ~/.local/share/pond for others. Returns once the mount answers, and
    leaves a daemon serving it.

    \b
    Options:
      ro                  read-only; works beside a writer
      allow_other         let other users in
      uid= gid= umask=    show this owner, group, 0777 less these bits
      commit=SECONDS      commit what is pending after so long (5)
      max_pending=SIZE    and when it exceeds SIZE (no limit)
      fsync=journal|delta what an fsync makes: a record in the journal, for the next commit, or
                          a commit of its own, which other readers see at once (journal)
      compact=on|off      put small data files together in the background (on)
      xattr               extended attributes (slows small writes)
      acl                 POSIX ACLs; implies xattr
      attr_timeout= entry_timeout= negative_timeout=SECONDS
                          how long the kernel may believe what it knows (3600)
      version=N at=WHEN   with ro: show the tree as it was then
      follow              with ro: keep up with what another process commits
      ponddir=hidden|visible|off
                          old versions in .pond/: reachable, listed too, or not there (hidden)
      cache=SIZE          how much of what was decompressed stays in memory (128M)
      nocreate            refuse a STORE that does not exist
      metrics=HOST:PORT   answer Prometheus there, on this machine only
      log=LEVEL           debug, info, warning or error (info)
      log_format=FORMAT   text, json or journal (text; journald's where stderr leads there)
      noexec nosuid nodev noatime sync dirsync …
                          as for any filesystem, see mount(8)

    \b
    Example:
      mount.pond /mnt/pond
      mount.pond /srv/pond /mnt/pond -o commit=30,allow_other
      mount -t pond /srv/pond /mnt/pond -o ro      (once installed in /sbin)
    """
    if namespace is not None:
        raise UsageError("-N is not supported: enter the mount namespace first, with nsenter(1)")
    fake = short_f and called_by_mount()
    chosen = parse_options(
        places,
        [*options, *([f"log_format={log_format}"] if log_format else [])],
        environ=os.environ,
        foreground=foreground or (short_f and not fake),
        verbose=verbose,
        sloppy=sloppy,
    )
    if fake:
        if verbose:
            click.echo(f"would mount {chosen.store} on {chosen.mountpoint}")
        return 0
    # Here, so that --help and refusals of bad options need none of trio, pyfuse3 and deltalake.
    from pondfs.mount import mount

    return mount(chosen)


def called_by_mount(proc: str = "/proc") -> bool:
    """Say whether mount(8), or another program of that name, is our parent process."""
    try:
        with open(f"{proc}/{os.getppid()}/comm") as file:
            return file.read().strip() == "mount"
    except OSError:
        return False


def main() -> int:
    """Run ``mount.pond``; return its exit code, as mount(8) has them."""
    # See `pondfs.cli.main`; a daemon would keep those threads for life.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.meta_path.insert(0, NoPandas())
    return as_mount_says(run(command, "mount.pond"))
