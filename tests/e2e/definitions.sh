#!/usr/bin/env bash
# definitions.sh     the definitions and their rules, judged by a real kube-apiserver whose store is Quorate: no nodes, no pods
#
# objects/refused.txt holds what must be refused, a line each: the text that the refusal must say, the kind, a spec, and, for changes,
# the spec that it is changed to. objects/accepted.txt holds what must not be. Specs are YAML in one line. The store comes by
# lab.sh's variables (LAB_SERVER). Prints a line per check; the status is 0 only if none failed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lab/check.sh"
export LAB_CONTROLLERS=0 LAB_RUN=${LAB_RUN:-$(mktemp -d /var/tmp/quorate-definitions.XXXXXX)}
lab() { "$here/../lab/lab.sh" "$@"; }
k() { lab exec kubectl -n default "$@"; }
trap 'lab down; rm -rf --one-file-system "$LAB_RUN"' EXIT

# object NAME KIND SPEC
object() { printf 'apiVersion: quorate.io/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n' "$2" "$1" "$3"; }
# refused TEXT NAME KIND SPEC [CHANGED]
refused() {
  local text=$1 output
  if [ -n "${5:-}" ]; then object "$2" "$3" "$4" | k apply --server-side -f - || return 1; fi
  if output=$(object "$2" "$3" "${5:-$4}" | k apply --server-side --force-conflicts -f - 2>&1); then echo "not refused: $output"; return 1; fi
  grep -qF -- "$text" <<<"$output" || { echo "$output"; return 1; }
}
accepted() { object "$1" "$2" "$3" | k apply --server-side -f - && { [ -z "${4:-}" ] || object "$1" "$2" "$4" | k apply --server-side --force-conflicts -f -; }; }
defined() { k apply --server-side -f "$here/../../crds" && k wait --for=condition=Established crd --all --timeout=30s; }
# lines FILE: its lines but comments, fields parted by one " | ".
lines() { grep -vE '^(#|$)' "$here/objects/$1" | sed 's/ *| */\x1f/g'; }

check "up: an API server on Quorate" lab up
check "the definitions are taken" defined
[ "$failed" = 0 ] || exit 1
number=0
while IFS=$'\x1f' read -r text kind spec changed <&3; do
  number=$((number + 1)) name=bad-$number
  case $text in @*) name=${text%% *} name=${name#@} text=${text#* } ;; esac
  check "refused: $text" refused "$text" "$name" "$kind" "$spec" "$changed"
done 3< <(lines refused.txt)
while IFS=$'\x1f' read -r kind spec changed <&3; do
  number=$((number + 1))
  check "accepted: $kind $spec${changed:+, then $changed}" accepted "good-$number" "$kind" "$spec" "$changed"
done 3< <(lines accepted.txt)
verdict
