#!/usr/bin/env bash
# older.sh [COMMIT]     builds the server as it was at a commit, once, and prints the path of the program.
#
# For tests that run an older build beside this one. The default is the last commit before feature levels rose above 1. Programs are
# kept in the cache by commit and profile (QUORATE_CACHE moves it, PROFILE=dev builds without optimisation). Exits with 3, and a
# sentence, where the history does not reach back to the commit, as in a shallow clone.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=${1:-fb9988ec56e2e4fa848c34a2d4aab67e7cf87c0e}
profile=${PROFILE:-release}
if ! full=$(git rev-parse --quiet --verify "$commit^{commit}" 2>/dev/null); then
  echo "commit $commit is not in this clone's history: fetch it (git fetch --unshallow) to test with an older build" >&2
  exit 3
fi
cache=${QUORATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quorate}
program=$cache/older/$full-$profile/quorate
mkdir -p "$cache/older"
exec 9>"$cache/older/$full-$profile.lock"; flock 9
if [ ! -x "$program" ]; then
  echo "building the server of commit ${full:0:12} once" >&2
  work=$(mktemp -d "$cache/older/build.XXXXXX"); trap 'rm -rf "$work"' EXIT
  git archive "$full" | tar -x -C "$work"
  rocks=$(scripts/rocksdb.sh)
  (cd "$work" && ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR=$rocks CARGO_TARGET_DIR=$work/target \
    cargo build --profile "$profile" -p quorate-server --bin quorate >&2)
  made=$work/target/$profile/quorate
  [ "$profile" != dev ] || made=$work/target/debug/quorate
  mkdir -p "$(dirname "$program")"
  install -m 755 "$made" "$program.new" && mv "$program.new" "$program"
fi
echo "$program"
