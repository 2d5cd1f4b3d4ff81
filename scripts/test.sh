#!/usr/bin/env bash
# test.sh ci|full     the project's tests, in stages; every stage runs even when an earlier one failed.
#
# ci: unit tests and a fixed slice of each long suite, what CI runs. full: every suite whole.
# A stage that needs what this machine lacks (root for namespaces, Go for foreign suites) says so and counts as skipped.
# Logs of the stages are kept in target/test-logs. The last line is "stages: N passed, N failed, N skipped".
set -uo pipefail
cd "$(dirname "$0")/.."
tier=${1:-ci}
case $tier in ci|full) ;; *) echo "usage: test.sh ci|full" >&2; exit 2 ;; esac
scripts/setup.sh jq || exit 1
ROCKSDB_LIB_DIR=$(scripts/rocksdb.sh) || exit 1
export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
target=${CARGO_TARGET_DIR:-target}
logs=$target/test-logs
rm -rf "$logs"; mkdir -p "$logs"
logs=$(realpath "$logs")
passed=0 failed=0 skipped=0 failures=()

# stage NAME COMMAND...: runs it, shows the end of what it printed, and its whole output when it failed.
stage() {
  local name=$1 began=$SECONDS; shift
  echo "=== $name"
  if "$@" >"$logs/$name.log" 2>&1; then
    passed=$((passed + 1))
    grep -E '^(test result:|[0-9]+ passed|[0-9]+ faults)' "$logs/$name.log" | tail -n 40
    echo "--- $name passed in $((SECONDS - began)) s"
  else
    failed=$((failed + 1)); failures+=("$name")
    tail -n 150 "$logs/$name.log"
    echo "--- $name FAILED after $((SECONDS - began)) s"
  fi
}
skip() { echo "=== $1: skipped: $2"; skipped=$((skipped + 1)); }

# Programs and tests in one go: cargo then settles on one set of features, and nothing is compiled twice.
stage build cargo build --release --workspace --bins --tests
server=$(realpath "$target/release/quorate")
ctl=$(realpath "$target/release/quoratectl")
export QUORATE_BIN=$server
# Backups go to a real S3 server too, where there is a Go to build one.
if command -v go >/dev/null; then stage s3 tests/s3/build.sh && S3_SERVER=$(tests/s3/build.sh 2>/dev/null) && export S3_SERVER; fi
stage unit cargo test --release --workspace --lib --bins --tests --exclude differential --exclude crash-tests
[ -n "${S3_SERVER:-}" ] || skip backup-s3 "needs Go, to build an S3 server"
# Whole clusters from seeds, in virtual time: about two minutes on two cores.
sim_seeds=1..2000
[ "$tier" = full ] && sim_seeds=1..20000
stage sim "$target/release/sim" --seeds "$sim_seeds"
[ -d tests/crash ] && stage crash cargo test --release -p crash-tests -- --test-threads=2

if [ "$(id -u)" != 0 ] || ! unshare --net true 2>/dev/null; then
  skip robustness "needs root with CAP_SYS_ADMIN, for network namespaces"
elif ! command -v nft >/dev/null || ! command -v mkfs.ext4 >/dev/null; then
  skip robustness "needs nft and mkfs.ext4 (Debian packages nftables and e2fsprogs)"
else
  minutes=3
  [ "$tier" = full ] && minutes=30
  if [ "$tier" = full ]; then
    # The server of before the newest feature level, from the history; the clone may be too shallow for it.
    if older=$(scripts/older.sh 2>"$logs/older.log"); then
      stage upgrade "$target/release/robustness" --server "$server" --older "$older" --out "$logs/upgrade"
    else
      skip upgrade "no older build: $(tail -n 1 "$logs/older.log")"
    fi
  fi
  stage robustness "$target/release/robustness" --server "$server" --minutes "$minutes" --seed "${ROBUSTNESS_SEED:-1}" --out "$logs/robustness"
fi

if ! command -v go >/dev/null; then
  skip foreign "needs Go, to build other people's suites"
elif [ "$(id -u)" != 0 ] || ! unshare --net true 2>/dev/null; then
  skip foreign "needs root with CAP_SYS_ADMIN, for network namespaces"
else
  tests/setup.sh || exit 1
  bins=$logs/bin
  stage etcd tests/foreign/etcd.sh
  etcd=$(tests/foreign/etcd.sh 2>/dev/null)
  export ETCD_DIR=$etcd
  # 2,000 operations a seed on a fresh pair of servers, or of clusters whose leader changes at each restart.
  alone=1..45 three=301..305
  [ "$tier" = full ] && alone=1..300 three=301..500
  stage differential env ETCD_BIN="$etcd/etcd" "$target/release/differential" --seeds "$alone" --ops 2000 --out "$logs/differential"
  stage differential-3 env ETCD_BIN="$etcd/etcd" "$target/release/differential" --members 3 --seeds "$three" --ops 2000 --out "$logs/differential"
  stage ctl scripts/ctl-compare.sh "$ctl" "$etcd/etcdctl" "$etcd/etcd"
  stage bin-dir tests/foreign/bin-dir.sh "$server" "$bins"
  if [ "$tier" = full ]; then
    for suite in common e2e; do
      # What waits for features that are not there yet is not asked.
      awk 'NR == FNR { later[$1]; next } !($1 in later)' tests/foreign/lists/later.txt "tests/foreign/lists/full-$suite.txt" >"$logs/$suite.list"
      stage "$suite" tests/foreign/etcd-suites.sh "$suite" --bin-dir "$bins" --list "$logs/$suite.list"
    done
    stage apiserver-storage env ETCD_BIN="$server" tests/foreign/apiserver-storage.sh
    stage objects env LAB_MEMBERS=3 LAB_TLS=1 LAB_SERVER="$server" tests/lab/objects.sh
    stage smoke env LAB_SERVER="$server" tests/lab/smoke.sh
  else
    stage common tests/foreign/etcd-suites.sh common --bin-dir "$bins" --list tests/foreign/lists/ci-common.txt
    stage e2e tests/foreign/etcd-suites.sh e2e --bin-dir "$bins" --list tests/foreign/lists/ci-e2e.txt
    stage apiserver-storage env ETCD_BIN="$server" tests/foreign/apiserver-storage.sh -run 'TestCreate|TestGet|TestListWithoutPaging|TestGuaranteedUpdate|TestWatch|TestCompact'
  fi
  stage kubernetes env LAB_SERVER="$server" tests/lab/apiserver.sh
  stage definitions env LAB_SERVER="$server" tests/e2e/definitions.sh
  stage kubernetes-tls-3 env LAB_MEMBERS=3 LAB_TLS=1 LAB_SERVER="$server" tests/lab/apiserver.sh
fi
if ! command -v go >/dev/null || [ "$(id -u)" != 0 ] || ! unshare --net true 2>/dev/null; then
  skip operator "needs Go, and root with CAP_SYS_ADMIN: it brings up a Kubernetes"
elif ! command -v containerd >/dev/null || ! command -v runc >/dev/null; then
  skip operator "needs containerd and runc (tests/setup.sh installs them)"
else
  stage charts tests/e2e/charts.sh
  stage alerts tests/e2e/rules/check.sh
  # The operator in a Kubernetes whose own API server runs on Quorate: short is one cluster, full every step.
  slice=short
  [ "$tier" = full ] && slice=full
  stage operator env BIN="$target/release" tests/e2e/run.sh "$slice"
fi
# Last, for it builds the server anew, with mistakes that the simulation must find.
[ "$tier" = full ] && stage sim-plants cargo run --release -p sim --features plant -- --plant all --seeds 1..2000
[ ${#failures[@]} = 0 ] || echo "failed: ${failures[*]}; their logs are in $logs"
echo "stages: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
