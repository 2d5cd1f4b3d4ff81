#!/usr/bin/env bash
# objects.sh [FLAG...]     10,000 objects of 2 KiB in 20 namespaces on a three-member store: nothing may get lost.
#
# While they are written, listed in pages and watched, the API server is killed and started again, then a store member is killed and started
# again, then another is stopped and started. LAB_SERVER names the store's binary, LAB_TLS as in lab.sh; FLAGs go to
# programs/objects (-objects, -namespaces, -size, -page, -writers). Prints counts; the status is 0 only if every acknowledged
# write was seen in the watch and in the lists, and all members hold the same count in the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
export LAB_CONTROLLERS=0 LAB_MEMBERS=3 LAB_RUN=${LAB_RUN:-$(mktemp -d /var/tmp/quorate-objects.XXXXXX)}
# Without the cache every list and watch reaches the store, whose history outlives a restart of the API server.
export LAB_API_FLAGS="--watch-cache-sizes=configmaps#0 ${LAB_API_FLAGS:-}"
unset LAB_STORE LAB_ENDPOINTS
program=$("$here/build.sh" --objects)
ctl=$("$here/../foreign/etcd.sh")/etcdctl
lab() { "$here/lab.sh" "$@"; }
trap 'lab down' EXIT
lab up
lab exec "$program" \
  -disturb "'$here/lab.sh' program kube-apiserver kill && '$here/lab.sh' program kube-apiserver start" \
  -disturb "'$here/lab.sh' program store-3 kill && sleep 2 && '$here/lab.sh' program store-3 start" \
  -disturb "'$here/lab.sh' program store-1 stop && '$here/lab.sh' program store-1 start" "$@"

# count_on I: what member I itself holds of the trial's objects.
count_on() {
  local scheme=http keys=()
  if [ "${LAB_TLS:-0}" = 1 ]; then
    scheme=https
    keys=(--cacert "$LAB_RUN/keys/ca.crt" --cert "$LAB_RUN/keys/to-store.crt" --key "$LAB_RUN/keys/to-store.key")
  fi
  lab exec "$ctl" --endpoints "$scheme://127.0.0.$1:2379" "${keys[@]}" get --prefix /registry/configmaps/objects- \
    --count-only --consistency=s -w fields | sed -nE 's/^"Count" : //p'
}
# A member that was down may need a moment to catch up; the objects program has ended, so the counts come to rest.
deadline=$((SECONDS + 60))
while :; do
  counts=$(for i in 1 2 3; do count_on "$i" || echo unreachable; done | tr '\n' ' ')
  read -r a b c <<<"$counts"
  [ "$a" != "$b" ] || [ "$b" != "$c" ] || break
  [ $SECONDS -lt $deadline ] || die "the members still differ after 60 s: $counts"
  sleep 0.5
done
echo "each of the three members holds $a objects"
lab down
rm -rf --one-file-system "$LAB_RUN"
