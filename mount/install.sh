#!/bin/bash
# Install pondfs for everybody, or take it back: `make install`, `make uninstall`.
#
#   PYTHON=python3 PREFIX=/usr/local SBINDIR=/sbin mount/install.sh install|uninstall
#
# PREFIX/lib/pondfs   a private venv with pondfs and its dependencies
# PREFIX/bin          symlinks to its commands
# PREFIX/lib/systemd  the units; systemd looks below /usr/local and /usr
# SBINDIR             the helpers of mount(8) and umount(8); they look nowhere but in /sbin
set -euo pipefail

PYTHON=${PYTHON:-python3}
PREFIX=${PREFIX:-/usr/local}
SBINDIR=${SBINDIR:-/sbin}
here=$(cd "$(dirname "$0")" && pwd)
venv=$PREFIX/lib/pondfs
commands=(pond mount.pond umount.pond)
units=(system/pond@.service system/pond-maintain@.service system/pond-maintain@.timer user/pond@.service)
helpers=(mount umount)

die() {
    printf 'pondfs: %s\n' "$*" >&2
    exit 1
}

ours() { # is $1 one of our helpers, or nothing at all?
    [ ! -e "$1" ] || grep -q pondfs "$1"
}

install_all() {
    mkdir -p "$PREFIX/bin" "$PREFIX/lib" "$SBINDIR" 2>/dev/null && [ -w "$SBINDIR" ] ||
        die "$PREFIX and $SBINDIR are not yours to write: sudo make install, or PREFIX= SBINDIR="
    [ "$(realpath "$PREFIX/bin")" != "$(realpath "$SBINDIR")" ] ||
        die "SBINDIR can't be PREFIX/bin: the helpers there would call themselves"
    echo "==> $venv"
    [ -x "$venv/bin/pip" ] || "$PYTHON" -m venv "$venv"
    "$venv/bin/pip" install -q "$here/.."
    for command in "${commands[@]}"; do
        ln -sfn "$venv/bin/$command" "$PREFIX/bin/$command"
    done
    echo "==> $SBINDIR"
    for helper in "${helpers[@]}"; do
        ours "$SBINDIR/$helper.pond" || die "$SBINDIR/$helper.pond is somebody else's"
        sed "s|@BINDIR@|$PREFIX/bin|" "$here/$helper.pond" >"$SBINDIR/$helper.pond.new"
        chmod 755 "$SBINDIR/$helper.pond.new"
        mv "$SBINDIR/$helper.pond.new" "$SBINDIR/$helper.pond"
        ln -sfn "$helper.pond" "$SBINDIR/$helper.fuse.pond"
    done
    echo "==> $PREFIX/lib/systemd"
    for unit in "${units[@]}"; do
        mkdir -p "$PREFIX/lib/systemd/${unit%/*}"
        sed "s|@BINDIR@|$PREFIX/bin|" "$here/../systemd/${unit#system/}" \
            >"$PREFIX/lib/systemd/$unit.new"
        chmod 644 "$PREFIX/lib/systemd/$unit.new"
        mv "$PREFIX/lib/systemd/$unit.new" "$PREFIX/lib/systemd/$unit"
    done
    echo "installed: $("$PREFIX/bin/pond" --version)"
}

uninstall_all() {
    for helper in "${helpers[@]}"; do
        for name in "$helper.fuse.pond" "$helper.pond"; do
            ours "$SBINDIR/$name" && rm -f "$SBINDIR/$name"
        done
    done
    for unit in "${units[@]}"; do
        rm -f "$PREFIX/lib/systemd/$unit"
    done
    for command in "${commands[@]}"; do
        [ "$(readlink "$PREFIX/bin/$command")" != "$venv/bin/$command" ] ||
            rm -f "$PREFIX/bin/$command"
    done
    rm -rf "$venv"
    echo "uninstalled; ponds are as they were"
}

case ${1:-} in
install) install_all ;;
uninstall) uninstall_all ;;
*) die "usage: $0 install|uninstall" ;;
esac
