#!/bin/sh
# Builds native/target/release/capsule-init and capsule-guest. From any directory; instant when nothing changed.
set -eu
cd "$(dirname "$0")"
# Where this machine keeps its crates must not be in the program: the same source gives the same bytes elsewhere.
remap="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
cargo build --release --locked --quiet --config "target.x86_64-unknown-linux-gnu.rustflags=['$remap']"
# Cargo puts the output of an explicit target elsewhere; everything else relies on this short path. Renamed into place,
# so that a copy under way never sees half a file and a running PID 1 keeps its old one.
mkdir -p target/release
for program in capsule-init capsule-guest; do
  cp "target/x86_64-unknown-linux-gnu/release/$program" "target/release/.$program.$$"
  mv "target/release/.$program.$$" "target/release/$program"
done
