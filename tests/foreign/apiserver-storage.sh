#!/usr/bin/env bash
# apiserver-storage.sh [--package NAME]... [--time-limit DURATION] [-run REGEXP] [-skip REGEXP]
#
# Runs the tests of kube-apiserver's storage layer (k8s.io/apiserver, version in apiserver/go.mod) against a server binary: a fresh
# single-member server for each test, in a network namespace of their own. NAME is etcd3 (the default: the store itself),
# factory (connections, health, TLS) or cacher (the watch cache over a real store); -run and -skip choose among the tests as in
# `go test`.
#   ETCD_BIN    the server, which must take etcd's flags (default: a real etcd)
#   SUITE_LOG   where the whole output goes (default: a file under /tmp, named at the end)
# Ends with the failures and "N passed, N failed, N skipped", sub-tests counted; the status is 0 only if none failed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
packages=() run=. skip='' limit=30m
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || die "$1 needs a value"
  case $1 in
  --package) packages+=("$2") ;;
  --time-limit) limit=$2 ;;
  -run) run=$2 ;;
  -skip) skip=$2 ;;
  *) die "unknown argument $1" ;;
  esac
  shift 2
done
[ ${#packages[@]} -gt 0 ] || packages=(etcd3)
folder_of() {
  case $1 in
  etcd3) echo pkg/storage/etcd3 ;;
  factory) echo pkg/storage/storagebackend/factory ;;
  cacher) echo pkg/storage/cacher ;;
  *) die "no package $1: etcd3, factory or cacher" ;;
  esac
}
for package in "${packages[@]}"; do folder_of "$package" >/dev/null; done
need go flock jq
need_namespaces

# The module's own tests need a writable copy of it: one file of the copy is ours, the rest as published.
build_tests() {
  local source package
  echo "building the storage tests of k8s.io/apiserver once into $1: two to six minutes" >&2
  source=$(cd "$here/apiserver" && go mod download -json k8s.io/apiserver | jq -r .Dir)
  cp -r "$source" "$1/apiserver"
  chmod -R u+w "$1/apiserver"
  cp "$here/apiserver/testserver/test_server.go" "$1/apiserver/pkg/storage/etcd3/testserver/test_server.go"
  for package in etcd3 factory cacher; do
    (cd "$1/apiserver" && CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off go test -c -o "$1/$package.test" "./$(folder_of "$package")")
  done
}
tests=$(once apiserver-storage "$(key_of "$here"/apiserver/go.{mod,sum} "$here"/apiserver/testserver/*.go <(declare -f build_tests))" build_tests)
ETCD_BIN=$(realpath "${ETCD_BIN:-$("$here/etcd.sh")/etcd}")
[ -x "$ETCD_BIN" ] || die "ETCD_BIN $ETCD_BIN is not a program"
export ETCD_BIN
log=${SUITE_LOG:-$(mktemp /tmp/apiserver-storage.XXXXXX.log)}
: > "$log"

status=0
for package in "${packages[@]}"; do
  # The PID namespace's first process is the test program: servers that it leaves behind end with it.
  (cd "$tests/apiserver/$(folder_of "$package")" && unshare --net --pid --fork --kill-child --mount-proc \
    sh -c 'ip link set lo up && exec "$@"' sh "$tests/$package.test" -test.v -test.run "$run" ${skip:+-test.skip "$skip"} -test.timeout "$limit") \
    >>"$log" 2>&1 || status=1
done

count() { grep -cE "^ *--- $1: " "$log" || true; }
if [ "$(count FAIL)" != 0 ]; then
  echo "failed:"
  sed -nE 's/^ *--- FAIL: ([^ ]+) .*/  \1/p' "$log"
fi
# A panic or a time limit ends the program without a verdict for the tests it cut off.
sed -nE 's/^(panic: .*|.*test timed out after.*)/\1/p' "$log" | head -n 3
echo "whole output: $log"
echo "$(count PASS) passed, $(count FAIL) failed, $(count SKIP) skipped"
[ "$(count PASS)" != 0 ] || die "no test ran"
exit $status
