#!/bin/sh
# Model-checks rtrb, the rings between workers: its own source with loom's atomics in place of the real ones.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../../.." && pwd)
work="$project/target/model-rings"

manifest=$(cargo metadata --format-version 1 --locked --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" --manifest-path "$project/Cargo.toml" |
    tr ',' '\n' | sed -n 's/.*"manifest_path":"\(.*\/rtrb-[^/]*\/Cargo.toml\)".*/\1/p' | head -n 1)
[ -n "$manifest" ] || { echo "run.sh: rtrb is not among the dependencies" >&2; exit 1; }
mkdir -p "$work/rtrb" "$work/tests"
rm -rf "$work/rtrb/src"
cp -r "$(dirname "$manifest")/src" "$work/rtrb/src"
sed -i 's/core::sync::atomic/loom::sync::atomic/' "$work"/rtrb/src/*.rs
grep -q 'loom::sync::atomic::{AtomicUsize' "$work/rtrb/src/lib.rs" || {
    echo "run.sh: rtrb's atomics are not where they were; adapt the replacement" >&2
    exit 1
}
cat > "$work/rtrb/Cargo.toml" <<TOML
[package]
name = "rtrb"
version = "0.0.0"
edition = "2021"
[features]
default = ["std"]
std = []
[dependencies]
loom = "0.7"
TOML
cat > "$work/Cargo.toml" <<TOML
[package]
name = "model-rings"
version = "0.0.0"
edition = "2024"
[dependencies]
loom = "0.7"
rtrb = { path = "rtrb" }
[workspace]
members = ["rtrb"]
TOML
cp "$here/rings.rs" "$work/tests/rings.rs"
cp "$project/Cargo.lock" "$work/Cargo.lock"
cd "$work"
cargo test --release --quiet --test rings
