#!/usr/bin/env bash
# bin-dir.sh SERVER FOLDER [CTL [UTL]]
#
# Makes FOLDER hold links `etcd`, `etcdctl` and `etcdutl`, as etcd's suites want them: SERVER under the first name, and CTL and UTL
# (default: the real ones) under the others. A real client against our server tests the server alone; a real server under our
# client tests the client alone. A program that serves several names may be given more than once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
[ $# -ge 2 ] && [ $# -le 4 ] || die "usage: bin-dir.sh SERVER FOLDER [CTL [UTL]]"
server=$1 folder=$2
real=$("$here/etcd.sh")
mkdir -p "$folder"
link() {
  [ -x "$1" ] || die "$1 is not a program"
  ln -sfn "$(realpath "$1")" "$folder/$2"
}
link "$server" etcd
link "${3:-$real/etcdctl}" etcdctl
link "${4:-$real/etcdutl}" etcdutl
