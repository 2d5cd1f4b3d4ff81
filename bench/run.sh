#!/usr/bin/env bash
# run.sh [compare's options]     measures etcd and Quorate side by side and writes the table into docs/performance.md
#
# ETCD: a folder with an etcd program (default: built once by tests/foreign/etcd.sh). BIN: where our programs are.
# DATA: a folder on the disk to measure; it is emptied. PAGE= (empty) leaves docs/performance.md alone.
# Examples: bench/run.sh --quick; bench/run.sh --only 'one member: put' --pairs 9
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-${CARGO_TARGET_DIR:-target}/dist}
etcd=${ETCD:-$(tests/foreign/etcd.sh)}
data=${DATA:-bench.data}
page=${PAGE-docs/performance.md}
[ -x "$bin/quorate-bench" ] || { echo "no $bin/quorate-bench: run make ship first" >&2; exit 1; }
# A build that replaces the programs during a run must not change what is measured.
programs=$data/programs
mkdir -p "$programs"
cp "$bin/quorate" "$bin/quorate-bench" "$programs/"
results=$data/results.jsonl
[ "${KEEP:-}" ] || rm -f "$results"
"$programs/quorate-bench" compare --etcd "$etcd/etcd" --quorate "$programs/quorate" --data "$data" --results "$results" "$@"
if command -v strace >/dev/null; then
  "$programs/quorate-bench" order "$programs/quorate" --data "$data" > "$data/order.txt" || { cat "$data/order.txt" >&2; exit 1; }
  head -n 1 "$data/order.txt"
fi
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD -- server proto 2>/dev/null || commit+=" with changes"
"$programs/quorate-bench" table --results "$results" --commit "$commit" ${page:+--into "$page"}
