#!/bin/bash
# A first look at a pond: make it, mount it, work in it with ordinary tools, commit, look back, and
# read the same data with a program that knows nothing of pondfs. `make demo` runs this.
#
# The pond is the default one: $POND, else /var/lib/pond for root, else ~/.local/share/pond. If it
# exists it is kept as it is: the demo works in a new directory of it. KEEP=1 leaves it mounted.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH

if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' dim=$'\e[2m' off=$'\e[0m'; else bold='' green='' dim='' off=''; fi

say() { printf '\n%s# %s%s\n' "$green" "$*" "$off"; }

# show COMMAND…: print it as one would type it, then run it; nothing here takes minutes.
show() {
    local word line=''
    for word; do
        case $word in
        *[!A-Za-z0-9_./=:,+@%-]* | '') line+=" '$word'" ;;
        *) line+=" $word" ;;
        esac
    done
    printf '%s$%s%s\n' "$bold" "$line" "$off"
    timeout 300 "$@"
}

# field NAME: one field of the pond's status.
field() {
    pond status --json | python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}

mounted_here='' made_here=''
leave() {
    code=$?
    if [ -n "$mounted_here" ]; then
        pond umount "$mnt" || true
    fi
    if [ -n "$made_here" ]; then
        rmdir "$made_here" 2>/dev/null || true
    fi
    exit $code
}
trap leave EXIT
trap 'exit 130' INT TERM

if pond status >/dev/null 2>&1; then
    say "There is a pond already; it stays as it is, and the demo gets a new directory in it."
    show pond status
else
    say "Make a pond, in the default place."
    show pond init
fi

mnt=$(field mountpoint)
if [ "$mnt" = None ]; then
    mnt=$(mktemp -d "${TMPDIR:-/tmp}/pond.XXXXXX")
    made_here=$mnt
    say "Mount it. From here on it is a directory like any other."
    show mount.pond "$mnt"
    mounted_here=yes
fi
store=$(field store)

number=1
while [ -e "$mnt/demo-$number" ]; do number=$((number + 1)); done
dir=$mnt/demo-$number

say "Work in it: copy a tree, edit a file, make some links."
show mkdir "$dir"
show cp -a pondfs docs README.md "$dir/"
show sed -i '1s/.*/# My own pond/' "$dir/README.md"
show ln -s README.md "$dir/start-here"
show ln "$dir/README.md" "$dir/README.too"
show diff -r --no-dereference docs "$dir/docs"
show ls -l "$dir"

say "Make all of it one version, with a message. (Every 5 seconds that happens by itself.)"
show pond commit -m "demo tree $number"
show pond log -n 3

say "Change your mind, and look back: every version of the whole tree is in .pond/."
version=$(field version)
show sed -i '1s/.*/# All gone/' "$dir/README.md"
show head -n 1 "$dir/README.md"
show head -n 1 "$mnt/.pond/versions/$version/demo-$number/README.md"
show pond diff "$version"
show cp -a "$mnt/.pond/versions/$version/demo-$number/README.md" "$dir/README.md"

say "Ask in SQL, about the tree, its history, or what is in files:"
show pond query "SELECT file_type, count(*) AS nodes, sum(size) AS bytes FROM nodes GROUP BY 1 ORDER BY 1" --format table

say "The pond is a Delta table. Polars reads it, without pondfs:"
show python docs/tutorial/second_reader.py "$store" "demo-$number/README.md"

if [ "${KEEP:-}" = "" ] && [ -n "$mounted_here" ]; then
    say "Unmount. When this returns, everything is on the disk."
    show pond umount "$mnt"
    mounted_here=
    mnt=DIRECTORY
    say "To go on by hand (source .venv/bin/activate, or call .venv/bin/…):"
    go_on=("mkdir $mnt" "mount.pond $mnt")
else
    mounted_here=
    say "The pond stays mounted. To go on by hand:"
    go_on=("cd $dir")
fi
for line in "${go_on[@]}" "pond status" "pond log" "pond commit -m 'what I did'" "pond umount $mnt"; do
    printf '  %s\n' "$line"
done
printf '%sThe pond is %s; mount.pond --help and README.md say more.%s\n' "$dim" "$store" "$off"
