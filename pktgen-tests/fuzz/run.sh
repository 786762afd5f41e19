#!/bin/sh
# Builds the fuzz targets with coverage instrumentation on the stable toolchain and runs
# each for some seconds: run.sh SECONDS. A crash leaves its input under target/fuzz/ and fails.
set -eu
seconds=${1:-60}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
triple=$(rustc -vV | sed -n 's/^host: //p')
work="$root/target/fuzz"
mkdir -p "$work"

export CARGO_TARGET_DIR="$work/build"
export RUSTFLAGS="-Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares \
-Ccodegen-units=1 --cfg fuzzing"
# --target keeps the instrumentation away from build scripts.
cargo build --quiet --release --manifest-path "$here/Cargo.toml" --target "$triple"

# All at once: they are one thread each.
running=
trap 'for entry in $running; do kill "${entry#*:}" 2>/dev/null; done; exit 1' INT TERM
for target in parse director; do
    mkdir -p "$work/corpus-$target"
    echo "fuzzing $target for $seconds s"
    "$CARGO_TARGET_DIR/$triple/release/$target" -max_total_time="$seconds" -max_len=512 \
        -print_final_stats=1 -verbosity=0 -artifact_prefix="$work/$target-" "$work/corpus-$target" 2>"$work/$target.log" &
    running="$running $target:$!"
done
failed=0
for entry in $running; do
    target=${entry%:*}
    if wait "${entry#*:}"; then
        echo "$target:"
        grep -E 'number_of_executed_units|new_units_added' "$work/$target.log"
    else
        tail -n 30 "$work/$target.log" >&2
        failed=1
    fi
done
exit $failed
