# ask.sh     what the end-to-end steps ask and tell the lab: one function each, so that steps read as sentences.
#
# To be sourced after check.sh, with $work, $BIN, $E2E and the lab's variables set. CLUSTER names the cluster in the namespace demo.
# KEYS is the folder of its clients' files, HISTORY what they did.
CLUSTER=kv KEYS=$work/keys HISTORY=$work/history

lab() { "$here/../lab/lab.sh" "$@"; }
k() { lab exec kubectl -n demo "$@"; }
helm() { lab exec helm "$@"; }
milliseconds() { date +%s%3N; }

# --- the cluster by its resource
# resource FILTER: a jq expression over the QuorateCluster.
resource() { k get quoratecluster "$CLUSTER" -o json | jq -r "$1"; }
condition() { resource ".status.conditions[]? | select(.type == \"$1\") | .status"; }
# The operator has seen the newest spec, is done with it, and all is well.
settled() {
  local size=$1
  k get quoratecluster "$CLUSTER" -o json > "$work/settled.json" && jq -e --argjson size "$size" '
    .metadata.generation as $newest | .status |
    (.observedGeneration == $newest) and (.operation == null) and ((.readyReplicas // 0) == $size) and
    ([.conditions[]? | select(.type == "Ready")][0] | .status == "True" and (.observedGeneration // $newest) == $newest)' \
    "$work/settled.json" >/dev/null && is "$size" ready_pods && { [ "$size" = 0 ] || is "$size" voters; } || { summary "$work/settled.json"; return 1; }
}
# What a person would want to see of a cluster that is not as it should be.
summary() {
  jq -c '{generation: .metadata.generation, observedGeneration: .status.observedGeneration, phase: .status.phase,
    readyReplicas: .status.readyReplicas, operation: .status.operation, members: .status.members}, (.status.conditions[]? | "\(.type)=\(.status) \(.reason): \(.message)")' "$1"
}
change() { k patch quoratecluster "$CLUSTER" --type=merge -p "{\"spec\":$1}"; }

# --- its pods and volumes
pods() { k get pods -l "app.kubernetes.io/instance=$CLUSTER,app.kubernetes.io/managed-by=quorate-operator" "$@"; }
# By the pods themselves: the status may lag behind what a step has just done.
ready_pods() { pods -o json | jq '[.items[] | select(.metadata.deletionTimestamp == null) | select(any(.status.conditions[]?; .type == "Ready" and .status == "True"))] | length'; }
uid_of() { k get "$1" "$2" -o 'jsonpath={.metadata.uid}'; }
node_of() { k get pod "$1" -o 'jsonpath={.spec.nodeName}'; }
volumes() { k get pvc -o json | jq -r --arg start "data-$CLUSTER-" '.items[] | select(.metadata.name | startswith($start)) | "\(.metadata.name) \(.metadata.uid)"' | sort; }
is() { local want=$1 got; shift; got=$("$@") && [ "$got" = "$want" ] || { echo "got: $got, want: $want"; return 1; }; }
gone() { ! k get "$1" "$2" >/dev/null 2>&1; }

# --- its members, asked as a client
# Pods' names, not the Service: a client with all members in its list goes on when one of them hangs. The first three only: a name
# that does not exist costs a whole time limit, which would show up as a gap.
endpoints() {
  local i list=
  for i in 0 1 2; do list+=${list:+,}https://$CLUSTER-$i.$CLUSTER-peer.demo.svc.cluster.local:2379; done
  echo "$list"
}
# The three files of the Secret for clients, in a folder that the nodes see as well.
take_keys() {
  local key
  for key in ca.crt tls.crt tls.key; do
    k get secret "$CLUSTER-client-tls" -o "jsonpath={.data.${key/./\\.}}" | base64 -d > "$KEYS/$key.new" && [ -s "$KEYS/$key.new" ] &&
      mv "$KEYS/$key.new" "$KEYS/$key" || return 1
  done
}
keys() { echo --cacert "$KEYS/ca.crt" --cert "$KEYS/tls.crt" --key "$KEYS/tls.key"; }
# shellcheck disable=SC2046 -- keys prints words on purpose
ctl() { local slot=$1; shift; lab node 1 exec "$BIN/quoratectl" --endpoints "https://$CLUSTER-$slot.$CLUSTER-peer.demo.svc.cluster.local:2379" $(keys) "$@"; }
# The first member that answers speaks for all: the list is read linearizably.
members() { local slot; for slot in 0 1 2 3 4; do ctl "$slot" --command-timeout 3s member list -w json 2>/dev/null && return; done; return 1; }
voters() { members | jq '[.members[] | select((.isLearner // false) | not)] | length'; }
member_id() { members | jq -r --arg name "$1" '.members[] | select(.name == $name) | .ID'; }
# The leader's pod, by what the members say.
leader() {
  local slot
  for slot in 0 1 2 3 4; do
    ctl "$slot" --command-timeout 3s endpoint status -w json 2>/dev/null |
      jq -er --argjson members "$(members || echo '{"members":[]}')" '.[0].Status.leader as $id | $members.members[] | select(.ID == $id) | .name' && return
  done
  return 1
}

# --- the clients that never rest
# shellcheck disable=SC2046
start_load() {
  rm -f "$work/stop"
  lab node 1 exec "$E2E" load --endpoints "$(endpoints)" $(keys) --history "$HISTORY" --stop "$work/stop" >"$work/load.log" 2>&1 &
  load=$!
}
# The clients say when their last line is on file; whoever asks need not be their parent.
stop_load() { touch "$work/stop"; within 30 grep -qx ended "$work/load.log"; }
writes() { grep -c '"end":"ok"' "$HISTORY" 2>/dev/null || true; }
writes_go_on() { local before; before=$(writes); within "${1:-20}" more_writes "$((before + 20))"; }
more_writes() { [ "$(writes)" -gt "$1" ]; }
# judged FROM TO [--ended]: prints gap, acknowledged, unknown, lost, violations
# shellcheck disable=SC2046
judged() { lab node 1 exec "$E2E" judge --endpoints "$(endpoints)" $(keys) --history "$HISTORY" --from "$1" --to "$2" "${@:3}"; }

# --- the operator
operator_log() { lab exec kubectl -n quorate-system logs deployment/quorate-operator --tail="${1:-100000}" --all-containers; }
install_operator() {
  helm install quorate-operator "$here/../../charts/quorate-operator" -n quorate-system --wait --timeout 120s \
    --set image.repository=localhost/quorate,image.tag=e2e,image.pullPolicy=Never,logLevel=info
}
