#!/usr/bin/env bash
# ctl-compare.sh OURS THEIRS ETCD     tests/ctl/compare.sh against a real etcd that lives in a network namespace for as long.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
ours=$1 theirs=$2 etcd=$3 work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unshare --net --pid --fork --kill-child sh -c '
  ip link set lo up
  "$1" --data-dir "$2/etcd" --log-level error >"$2/log" 2>&1 &
  for _ in $(seq 100); do "$3" endpoint health >/dev/null 2>&1 && break; sleep 0.1; done
  "$4" "$5" "$3" http://127.0.0.1:2379' sh "$etcd" "$work" "$theirs" "$here/../tests/ctl/compare.sh" "$ours"
