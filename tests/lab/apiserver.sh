#!/usr/bin/env bash
# apiserver.sh     a store and a kube-apiserver, nothing else, and kubectl put to work on them.
#
# The store comes by lab.sh's variables: LAB_SERVER (with LAB_MEMBERS, LAB_TLS), LAB_STORE, or LAB_ENDPOINTS for one that runs
# already in this network (https ones with LAB_CA, LAB_CERT, LAB_KEY). Prints a line per check and "N passed, N failed"; the
# status is 0 only if none failed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/check.sh"
export LAB_CONTROLLERS=0 LAB_RUN=${LAB_RUN:-$(mktemp -d /var/tmp/quorate-apiserver.XXXXXX)}
lab() { "$here/lab.sh" "$@"; }
k() { lab exec kubectl "$@"; }
work=$(mktemp -d)
trap 'lab down; rm -rf "$work"' EXIT

field() { k get "$1" "$2" -o "jsonpath={$3}"; }
is() { local want=$1; shift; [ "$("$@")" = "$want" ] || { echo "got: $("$@" 2>&1)"; return 1; }; }
# refused TEXT COMMAND...: the command must fail and say TEXT.
refused() {
  local text=$1 output
  shift
  if output=$("$@" 2>&1); then echo "not refused: $output"; return 1; fi
  grep -qF -- "$text" <<<"$output" || { echo "$output"; return 1; }
}
gone() { refused 'not found' k get "$1" "$2"; }

# An update that names an older resourceVersion must be refused as a conflict: the API server's compare-and-swap.
stale_update_refused() {
  k get configmap plain -o json > "$work/old.json" && k patch configmap plain --type=merge -p '{"data":{"n":"3"}}' || return 1
  refused 'the object has been modified' k replace -f "$work/old.json"
}

many_created() {
  local i
  for i in $(seq -w 120); do
    printf -- '---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: many-%s, namespace: pages, labels: {half: "%s"}}\ndata: {i: "%s"}\n' "$i" $((10#$i % 2)) "$i"
  done > "$work/many.yaml"
  k create namespace pages && k create -f "$work/many.yaml" >/dev/null
}

# Pages of 50 by the API's own continue token; each page must say how many remain, and the union must be whole.
paged_whole() {
  local token='' page names=0 remaining pages=0
  while :; do
    page=$(k get --raw "/api/v1/namespaces/pages/configmaps?limit=50&continue=$token") || return 1
    names=$((names + $(jq '[.items[] | select(.metadata.name | startswith("many-"))] | length' <<<"$page")))
    token=$(jq -r '.metadata.continue // ""' <<<"$page")
    remaining=$(jq -r '.metadata.remainingItemCount // "none"' <<<"$page")
    pages=$((pages + 1))
    [ -n "$token" ] || break
    [ "$remaining" != none ] || { echo "page $pages does not say how many remain"; return 1; }
  done
  echo "$names objects in $pages pages"
  [ "$names" = 120 ] && [ "$pages" -ge 3 ]
}

# The second page of a list keeps answering as of the first one's revision.
pages_are_one_snapshot() {
  local first token second
  first=$(k get --raw '/api/v1/namespaces/pages/configmaps?limit=60') && token=$(jq -r .metadata.continue <<<"$first") || return 1
  k delete configmap -n pages many-119 && k create configmap -n pages many-1195 || return 1
  second=$(k get --raw "/api/v1/namespaces/pages/configmaps?limit=500&continue=$token") || return 1
  jq -e '[.items[].metadata.name] | (index("many-119") != null) and (index("many-1195") == null)' <<<"$second"
}

# A watch from a list's resourceVersion sees every later event once and in order.
watch_tells_all() {
  local version pid
  version=$(k get --raw '/api/v1/namespaces/default/configmaps?limit=1' | jq -r .metadata.resourceVersion)
  lab exec timeout 15 kubectl get --raw "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=$version&timeoutSeconds=8&fieldSelector=metadata.name%3Dwatched" > "$work/events" &
  pid=$!
  k create configmap watched --from-literal=n=1 && k patch configmap watched --type=merge -p '{"data":{"n":"2"}}' && k delete configmap watched || return 1
  wait $pid || true
  cat "$work/events"
  [ "$(jq -r .type "$work/events" | tr '\n' ' ')" = 'ADDED MODIFIED DELETED ' ]
}

# The same from a revision in the past: the store must replay its history.
watch_from_the_past() {
  local version
  version=$(jq -rs '.[0].object.metadata.resourceVersion' "$work/events")
  lab exec timeout 15 kubectl get --raw "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=$version&timeoutSeconds=3&fieldSelector=metadata.name%3Dwatched" > "$work/replay" || true
  cat "$work/replay"
  [ "$(jq -r .type "$work/replay" | tr '\n' ' ')" = 'MODIFIED DELETED ' ]
}

custom_resource() {
  cat > "$work/crd.yaml" <<'Y'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: kettles.test.quorate}
spec:
  group: test.quorate
  scope: Namespaced
  names: {plural: kettles, singular: kettle, kind: Kettle}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {litres: {type: integer, minimum: 1}}}, status: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}
Y
  printf 'apiVersion: test.quorate/v1\nkind: Kettle\nmetadata: {name: blue}\nspec: {litres: 2}\n' > "$work/kettle.yaml"
  k apply -f "$work/crd.yaml" && k wait --for=condition=Established crd/kettles.test.quorate --timeout=20s && within 10 k apply -f "$work/kettle.yaml" &&
    is 2 field kettle blue .spec.litres && k patch kettle blue --subresource=status --type=merge -p '{"status":{"hot":true}}' && is true field kettle blue .status.hot
}
bad_custom_resource_refused() {
  sed 's/litres: 2/litres: 0/; s/blue/red/' "$work/kettle.yaml" > "$work/red.yaml"
  refused 'should be greater than or equal to 1' k apply -f "$work/red.yaml"
}
finalizer_holds() {
  k create configmap held && k patch configmap held --type=merge -p '{"metadata":{"finalizers":["test.quorate/hold"]}}' && k delete configmap held --wait=false &&
    [ -n "$(field configmap held .metadata.deletionTimestamp)" ] && k patch configmap held --type=merge -p '{"metadata":{"finalizers":null}}' && within 5 gone configmap held
}
# Events are the objects that the API server stores under a lease.
event_stored() {
  printf 'apiVersion: v1\nkind: Event\nmetadata: {name: trial}\ninvolvedObject: {kind: ConfigMap, name: plain, namespace: default}\nreason: Tried\nmessage: by a test\ntype: Normal\n' | k create -f - &&
    is Tried field event trial .reason
}
big_object() {
  head -c 675000 /dev/urandom | base64 -w0 > "$work/big" && k create configmap big --from-file="$work/big" &&
    field configmap big .data.big > "$work/back" && cmp "$work/big" "$work/back"
}
# Etcd takes requests of 1.5 MiB; an object of many keys can be larger than one, which the API server's own checks let through.
too_big_for_store() {
  python3 -c "
import json
print(json.dumps({'apiVersion': 'test.quorate/v1', 'kind': 'Kettle', 'metadata': {'name': 'huge'}, 'spec': {'litres': 1},
                  'status': {'steam': 'x' * 1700000}}))" > "$work/huge.json"
  k create -f "$work/huge.json" && k get kettle huge -o json | jq '.status = {steam: ("x" * 1700000)}' > "$work/huge-status.json" &&
    refused 'request is too large' k replace --subresource=status -f "$work/huge-status.json"
}
served_ok() { is ok k get --raw "$1"; }

check "up: the API server is ready on the store" lab up
check "the store's own health check" served_ok /healthz/etcd
check "create and get" bash -c "'$here/lab.sh' exec kubectl create configmap plain --from-literal=n=1"
check "  what was stored" is 1 field configmap plain .data.n
check "creating it again is refused" refused 'already exists' k create configmap plain
check "patch" k patch configmap plain --type=merge -p '{"data":{"n":"2"}}'
check "  what was stored" is 2 field configmap plain .data.n
check "an update of an old version is refused" stale_update_refused
check "server-side apply" bash -c "printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: b}\n' | '$here/lab.sh' exec kubectl apply --server-side -f -"
check "120 objects in a namespace" many_created
check "listed in pages of 50, whole, with the count that remains" paged_whole
check "listed by label" is 60 bash -c "'$here/lab.sh' exec kubectl get configmap -n pages -l half=1 -o name | wc -l"
check "the pages of one list are one snapshot" pages_are_one_snapshot
check "a watch tells of create, change and deletion in order" watch_tells_all
check "a watch from the past replays them" watch_from_the_past
check "a custom resource, its status apart" custom_resource
check "one that breaks its schema is refused" bad_custom_resource_refused
check "a finalizer holds a deletion back" finalizer_holds
check "an event, stored under a lease" event_stored
check "an object of 900 kB" big_object
check "one above the store's request limit is refused" too_big_for_store
check "delete" k delete configmap plain
check "  it is gone" gone configmap plain
check "delete a collection" bash -c "'$here/lab.sh' exec kubectl delete configmap -n pages -l half=1 --wait=false >/dev/null && [ \$('$here/lab.sh' exec kubectl get configmap -n pages -l half=1 -o name | wc -l) = 0 ]"
if [ -z "${LAB_ENDPOINTS:-}${LAB_STORE:-}" ] && [ "${LAB_MEMBERS:-1}" = 1 ]; then
  check "the store is killed and started again" bash -c "'$here/lab.sh' program store-1 kill && '$here/lab.sh' program store-1 start"
  check "  what was written is there" within 30 is b field configmap applied .data.a
fi
check "the API server restarts" lab program kube-apiserver restart
check "  what was written is there" within 60 is b field configmap applied .data.a
# The logs of a run without failures are of no use; those of another are named.
if verdict; then lab down && rm -rf --one-file-system "$LAB_RUN"; else echo "logs: $LAB_RUN/log" && exit 1; fi
