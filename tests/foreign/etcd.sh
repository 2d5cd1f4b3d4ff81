#!/usr/bin/env bash
# etcd.sh                builds etcd, etcdctl and etcdutl 3.7.3 once and prints the folder that holds them
# etcd.sh --benchmark    the same for etcd's load generator `benchmark` 3.7.1 (the newest its module is published at)
#
# The versions and everything below them are pinned by etcd/go.mod and benchmark/go.mod with their go.sum.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
need go flock

build_etcd() {
  echo "building etcd, etcdctl and etcdutl once into $1: one to three minutes" >&2
  mkdir -p "$1/bin" "$1/stage"
  go_build "$here/etcd" "$1/stage/" go.etcd.io/etcd/etcdctl/v3 go.etcd.io/etcd/etcdutl/v3
  # The server's package path ends in server/v3, so its program needs its name spelled out.
  go_build "$here/etcd" "$1/stage/etcd" go.etcd.io/etcd/server/v3
  mv "$1"/stage/* "$1/bin/"
  rmdir "$1/stage"
}

build_benchmark() {
  echo "building etcd's benchmark once into $1: under a minute" >&2
  mkdir -p "$1/bin"
  go_build "$here/benchmark" "$1/bin/" go.etcd.io/etcd/v3/tools/benchmark
}

case ${1:-} in
'') dir=$(once etcd "$(key_of "$here"/etcd/go.{mod,sum} <(declare -f build_etcd))" build_etcd) ;;
--benchmark) dir=$(once etcd-benchmark "$(key_of "$here"/benchmark/go.{mod,sum} <(declare -f build_benchmark))" build_benchmark) ;;
*) die "usage: etcd.sh [--benchmark]" ;;
esac
echo "$dir/bin"
