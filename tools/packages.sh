#!/bin/bash
# Install the Debian packages pondfs needs, and only those that are missing.
#
#   tools/packages.sh run|test
#
# `run` is what building the .venv and mounting need; `test` adds the programs the test-suite drives.
# Every requirement is a check ("is this command, header, module there?"), not a package name, so a
# Python from pyenv or a tool from elsewhere counts, and nothing at all happens when all is there.
# Missing ones come through apt when we are root or sudo asks no password; otherwise the exact
# command is printed and the exit code is 1.
set -euo pipefail

die() {
    printf 'pondfs: %s\n' "$*" >&2
    exit 1
}

missing=()

# need PACKAGE COMMAND...: PACKAGE is missing unless COMMAND succeeds.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

# need_command PACKAGE NAME: also found where only root's PATH looks.
need_command() {
    need "$1" sh -c 'PATH=$PATH:/usr/sbin:/sbin command -v "$0"' "$2"
}

python=${PYTHON:-python3}

what=${1:-run}
case $what in run | test) ;; *) die "usage: $0 run|test" ;; esac

need_command git git
need_command gcc gcc                       # pyfuse3 is compiled on installation, a test's bad disk, too
need_command pkg-config pkg-config
need libc6-dev test -e /usr/include/stdio.h
need libfuse3-dev pkg-config --exists fuse3
need_command fuse3 fusermount3             # how an ordinary user mounts

if command -v "$python" >/dev/null; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die \
        "$("$python" -V) is too old; pondfs needs 3.11 or newer: make PYTHON=/path/to/python3.11 …"
    need python3-venv "$python" -c 'import ensurepip, venv'
    need python3-dev "$python" -c \
        'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
else
    [ "$python" = python3 ] || die "$python is not there; choose another: make PYTHON=…"
    missing+=(python3 python3-venv python3-dev)
fi

if [ "$what" = test ]; then
    need_command acl getfacl
    need_command attr getfattr
    need_command e2fsprogs mkfs.ext4
    need_command emacs-nox emacs
    need_command fish fish
    need_command nano nano
    # Debian keeps its programs out of PATH; pgbench is among them.
    need postgresql sh -c 'ls /usr/lib/postgresql/*/bin/pgbench'
    need_command rsync rsync
    need_command sqlite3 sqlite3
    need_command strace strace
    need_command systemd systemd-analyze
    # vim-tiny calls itself vim.tiny; any vim will do
    need vim-tiny sh -c 'command -v vim || command -v vim.tiny'
    need_command zsh zsh
fi

[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || die "please install what Debian calls: ${missing[*]}"
if [ "$(id -u)" = 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    die "packages are missing; please run, then try again:" \
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
fi

printf '==> apt: %s\n' "${missing[*]}"
log=$(mktemp)
no_cluster=/etc/postgresql-common/createcluster.d/pondfs-packages.conf
cleanup() {
    rm -f "$log"
    [[ " ${missing[*]} " != *' postgresql '* ]] || "${as_root[@]}" rm -f "$no_cluster"
}
trap cleanup EXIT
if [[ " ${missing[*]} " == *' postgresql '* ]]; then
    # The tests run servers of their own: installing the programs must not leave one running.
    "${as_root[@]}" mkdir -p "${no_cluster%/*}"
    echo 'create_main_cluster = false' | "${as_root[@]}" tee "$no_cluster" >/dev/null
fi
apt() {
    # A first boot or unattended-upgrades may hold dpkg's lock: wait for it.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -o DPkg::Lock::Timeout=120 "$@" >>"$log" 2>&1 || {
        cat "$log" >&2
        die "apt-get $1 failed (its output is above); try: ${as_root[*]} apt-get $*"
    }
}
apt update
apt install -y --no-install-recommends "${missing[@]}"
