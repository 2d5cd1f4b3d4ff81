#!/usr/bin/env bash
# rocksdb.sh     builds RocksDB once as a static library outside the clone and prints the folder that holds it.
#
# RocksDB's C++ takes many minutes; every profile, target folder and clone of this project shares one build of it, keyed by
# the crate's version, its features and the compiler. QUORATE_CACHE moves the cache (default: the user's cache folder).
# A plain `cargo build` works too: it compiles RocksDB from source into its own target folder.
set -euo pipefail
ROCKSDB_CRATE=0.25.0
FEATURES='"lz4", "zstd", "bindgen-runtime"'
cache=${QUORATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quorate}
key=$(printf '%s %s %s %s' "$ROCKSDB_CRATE" "$FEATURES" "$(c++ --version | head -n 1)" "$(uname -m)" | sha256sum | cut -c1-16)
dir=$cache/rocksdb-$ROCKSDB_CRATE-$key
mkdir -p "$cache"
exec 9>"$cache/rocksdb.lock"; flock 9
if [ ! -f "$dir/complete" ]; then
  echo "building RocksDB (crate $ROCKSDB_CRATE) once into $dir: about 15 minutes on two cores" >&2
  work=$(mktemp -d "$cache/rocksdb-build.XXXXXX"); trap 'rm -rf "$work"' EXIT
  mkdir -p "$work/src" "$dir"; echo 'fn main() {}' > "$work/src/main.rs"
  cat > "$work/Cargo.toml" <<TOML
[package]
name = "rocksdb-once"
version = "0.0.0"
edition = "2024"
[dependencies]
rocksdb = { version = "=$ROCKSDB_CRATE", default-features = false, features = [$FEATURES] }
[workspace]
TOML
  (cd "$work" && env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_TARGET_DIR="$work/target" cargo build --release >&2)
  cp "$work"/target/release/build/librocksdb-sys-*/out/librocksdb.a "$dir/"
  touch "$dir/complete"
fi
echo "$dir"
