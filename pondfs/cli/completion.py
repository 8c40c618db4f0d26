"""``pond completion``: what a shell needs to complete commands, options, paths and versions.

The shell runs ``pond`` with $_POND_COMPLETE set, and click answers. What it does not know is here:
paths of a mounted pond, and tags. That takes no heavy import, so an unmounted pond has no paths.
"""

import contextlib
import os
import stat
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

from pondfs.cli.reach import find_place, path_in_pond
from pondfs.cli.trees import open_mounted
from pondfs.errors import PondError
from pondfs.mountinfo import Mount, find_ponds_of

_WHENS = ("latest", "yesterday", "1h-ago", "1d-ago", "7d-ago")
"""Words for versions that people may not think of."""

# What parameters are about, by their metavars.
_STORES = ("STORE", "MOUNTPOINT")
_PATHS = ("PATH", "SRC", "DEST", "TARGET")
_VERSIONS = ("W", "[W]", "A..B", "A[..B]", "VERSION")

# As click's, but paths are escaped by the shell, and nothing is put behind a directory.
_BASH = r"""
%(complete_func)s() {
    local IFS=$'\n' response completion type value
    response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    while IFS=',' read -r type value; do
        case $type in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            path) COMPREPLY+=("$value"); compopt -o filenames
                [[ $value == */ ]] && compopt -o nospace ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done <<< "$response"
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = r"""#compdef %(prog_name)s
%(complete_func)s() {
    local -a words_only described paths response
    local type key descr
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    for type key descr in ${response}; do
        case $type in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            path) paths+=("$key") ;;
            plain) if [[ $descr == _ ]]; then words_only+=("$key")
                else described+=("$key:$descr"); fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#words_only )) && compadd -U -V unsorted -a words_only
    (( $#paths )) && compadd -U -S '' -a paths
    return 0
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = r"""
function %(complete_func)s
    for completion in (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) \
            COMP_CWORD=(commandline -t) %(prog_name)s 2>/dev/null)
        set -l parts (string split -m 1 "," $completion)
        switch $parts[1]
            case dir
                __fish_complete_directories $parts[2]
            case file
                __fish_complete_path $parts[2]
            case path plain
                echo $parts[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _Bash(BashComplete):
    source_template = _BASH


class _Zsh(ZshComplete):
    source_template = _ZSH


class _Fish(FishComplete):
    source_template = _FISH


_SHELLS = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def command(shell: str) -> None:
    """Print a script for SHELL that completes commands, options, paths of a mounted pond and tags.

    \b
    Example:
      echo 'eval "$(pond completion bash)"' >> ~/.bashrc
      echo 'eval "$(pond completion zsh)"' >> ~/.zshrc      after compinit
      pond completion fish > ~/.config/fish/completions/pond.fish
    """
    root = click.get_current_context().find_root()
    click.echo(_SHELLS[shell](root.command, {}, "pond", "_POND_COMPLETE").source())


def equip(command: click.Command) -> None:
    """Let a shell complete the parameters of *command*: what is what is known by its metavar."""
    for param in command.params:
        shown = param.metavar or (param.name or "").upper()
        if shown in _STORES:
            param.type = click.Path(file_okay=False)
        elif any(word in shown for word in _PATHS):
            param.type = _PathType()
        elif shown in _VERSIONS:
            param.type = _WhenType()


class _PathType(click.ParamType):  # type: ignore[type-arg] # older ones take none
    name = "path"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return what in the tree begins with *incomplete*."""
        if ctx.info_name == "cp" and (param.name == "dest" or incomplete.startswith("host:")):
            return [CompletionItem(incomplete, type="file")]
        with contextlib.suppress(PondError, OSError), ctx.scope(cleanup=False):
            return [CompletionItem(path, type="path") for path in _paths(ctx, incomplete)]
        return []


class _WhenType(click.ParamType):  # type: ignore[type-arg] # older ones take none
    name = "when"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the tags, and some words, that begin with *incomplete*."""
        before, dots, word = incomplete.rpartition("..")
        tags: list[str] = []
        with contextlib.suppress(PondError, OSError), ctx.scope(cleanup=False):
            if (mount := _mount()) is not None:
                tags = sorted(os.listdir(mount.mountpoint / ".pond" / "tags"))
        return [
            CompletionItem(before + dots + when)
            for when in (*tags, *_WHENS)
            if when.startswith(word)
        ]


def _mount() -> Mount | None:
    """Return a mount of the pond that is meant; None when there is none."""
    place = find_place()
    return place.mount or next(iter(find_ponds_of(place.store)), None)


def _paths(ctx: click.Context, incomplete: str) -> Iterable[str]:
    mount = _mount()
    if mount is None:
        return
    side = "pond:" if incomplete.startswith("pond:") else ""  # as `pond cp` has it
    directory, slash, start = incomplete.removeprefix(side).rpartition("/")
    at: Any = ctx.params.get("at")
    names = path_in_pond(find_place(), (directory + slash) or ".", as_seen=at is None)
    tree = open_mounted(mount, at)
    try:
        for name, info in tree.entries(b"/".join(names)):
            text = os.fsdecode(name)
            # Hidden names when asked for; what no line can hold never.
            if text.startswith(start) and (start or text[0] != ".") and text.isprintable():
                yield side + directory + slash + text + "/" * stat.S_ISDIR(info.mode)
    finally:
        tree.close()
