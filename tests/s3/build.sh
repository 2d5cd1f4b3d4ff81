#!/usr/bin/env bash
# build.sh     builds versitygw, a server of the S3 protocol over a folder, once and prints the program's path.
#
# go.mod and go.sum pin it. Cold: about two minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
need go flock
build() {
  echo "building versitygw once into $1" >&2
  mkdir -p "$1/bin"
  go_build "$here" "$1/bin/" github.com/versity/versitygw/cmd/versitygw
}
dir=$(once versitygw "$(key_of "$here"/go.{mod,sum} <(declare -f build))" build)
echo "$dir/bin/versitygw"
