#!/bin/sh
# Runs the tests in namespaces: each test as a process of its own, so many side by side (usually two, or JOBS), and those
# that need the host's hugepages or its CPU for themselves alone, before the others. Prints what fails in full, and the
# slowest ten at the end.
#   run-labs.sh [WORDS]     only tests whose names have one of these words
set -eu

cd "$(dirname "$0")/.."
SLUICE_BIN=${SLUICE_BIN:-$(pwd)/target/release}
export SLUICE_BIN
jobs=${JOBS:-2}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cargo test -p pktgen-tests --no-run --message-format=json 2>"$folder/build" |
    sed -n 's/.*"kind":\["test"\].*"executable":"\([^"]*\)".*/\1/p' >"$folder/binaries" || true
if [ ! -s "$folder/binaries" ]; then
    cat "$folder/build" >&2
    exit 1
fi

# "BINARY TEST" a line.
while read -r binary; do
    "$binary" --list 2>/dev/null | sed -n "s|^\(.*\): test\$|$binary \1|p"
done <"$folder/binaries" >"$folder/all"
for word in "$@"; do
    grep -- "$word" "$folder/all" >>"$folder/chosen" || true
done
[ $# -eq 0 ] || mv "$folder/chosen" "$folder/all"

cat >"$folder/one" <<'EOF'
#!/bin/sh
# FOLDER BINARY TEST
name="$(basename "$2" | sed 's/-[0-9a-f]*$//')::$3"
log="$1/log-$(echo "$name" | tr ':/' '__')"
begin=$(date +%s)
if "$2" --exact "$3" --test-threads=1 --nocapture >"$log" 2>&1; then word=ok; else word=FAILED; fi
took=$(($(date +%s) - begin))
echo "$took $word $name" >>"$1/done"
printf '%-6s %4d s  %s\n' "$word" "$took" "$name"
if [ "$word" = FAILED ]; then
    cat "$log"
    echo "$name" >>"$1/failed"
fi
EOF
chmod +x "$folder/one"

# Tests that set the host's hugepages, run a virtual machine, or compare with what the machine can do.
alone='hugepage\|/nics-\|/pace-\|/conformance-\|/tour-'
touch "$folder/done"
grep -- "$alone" "$folder/all" | xargs -r -L 1 "$folder/one" "$folder"
grep -v -- "$alone" "$folder/all" | xargs -r -P "$jobs" -L 1 "$folder/one" "$folder"

echo "slowest:"
sort -rn "$folder/done" | head -10 | while read -r took word name; do printf '  %4d s  %s\n' "$took" "$name"; done
echo "$(wc -l <"$folder/done") tests, $(grep -c FAILED "$folder/done" || true) failed"
[ ! -e "$folder/failed" ]
