# connections.sh     every connection to a pod that a step left open, and whether the rendered NetworkPolicies allow it.
#
# To be sourced after ask.sh. After each step the open connections of all pods are noted, with the labels of both ends as they are at
# that moment. At the end each is judged by the policies that the operator renders for clusters and the chart for the operator.

# Listening ports and open connections of every pod on a node, by the pod's own network: `listen ADDRESS:PORT`, `open LOCAL PEER`.
sockets_of_node() {
  lab node "$1" exec bash -c '
    for sandbox in $(ctr -n k8s.io containers ls -q "labels.\"io.cri-containerd.kind\"==sandbox"); do
      pid=$(ctr -n k8s.io tasks ls | awk -v want="$sandbox" "\$1 == want {print \$2}")
      [ -n "$pid" ] && [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ] || continue
      echo pod
      nsenter -t "$pid" --net -- ss -Htln | awk "{print \"listen\", \$4}"
      nsenter -t "$pid" --net -- ss -Htn state established | awk "{print \"open\", \$3, \$4}"
    done'
}
# Of a connection both ends are seen; the one whose port listens is the one that was connected to: ADDRESS PORT PEER.
incoming() {
  awk '
    function port(a) { sub(/.*:/, "", a); return a }
    function host(a) { sub(/:[0-9]+$/, "", a); gsub(/[][]/, "", a); sub(/^::ffff:/, "", a); return a }
    $1 == "pod" { delete listens }
    $1 == "listen" { listens[port($2)] = 1 }
    $1 == "open" && (port($2) in listens) && host($2) != host($3) && host($2) !~ /^127\./ { print host($2), port($2), host($3) }'
}
# Adds what is open now to the file of connections, a JSON object a line. Connections from outside of pods, such as a kubelet's probes,
# are no policy's affair.
note_connections() {
  local i
  lab exec kubectl get pods -A -o json | jq -c '[.items[] | select(.status.podIP != null and (.spec.hostNetwork // false | not)) |
    {key: .status.podIP, value: {namespace: .metadata.namespace, labels: (.metadata.labels // {}), ports: [.spec.containers[].ports[]? | {name, port: .containerPort}]}}] | from_entries' > "$work/pods-now" || return 1
  for i in $(seq "$LAB_NODES"); do sockets_of_node "$i" 2>/dev/null; done | incoming | sort -u |
    jq -cR --slurpfile pods "$work/pods-now" 'split(" ") | {to: $pods[0][.[0]], port: (.[1] | tonumber), from: $pods[0][.[2]]} | select(.to != null and .from != null)' >> "$work/connections"
}
# The policies: of a cluster, as the operator renders it, with the cluster's name taken for any; and of the operator, by its chart.
policies() {
  local rendered
  change '{"networkPolicy":{"enabled":true}}' >&2 && within 30 k get networkpolicy "$CLUSTER" >&2 && rendered=$(k get networkpolicy "$CLUSTER" -o json) || return 1
  change '{"networkPolicy":{"enabled":false}}' >&2
  jq -c . <<<"$rendered"
  helm template quorate-operator "$here/../../charts/quorate-operator" -n quorate-system --set networkPolicy.enabled=true --show-only templates/networkpolicy.yaml | lab exec kubectl create --dry-run=client -o json -f - | jq -c .
}
# Every connection that was seen to a pod of a policy is one that a rule of it allows; and there were some to each of the ports.
connections_allowed() {
  note_connections && policies > "$work/policies" && [ "$(wc -l < "$work/policies")" = 2 ] || return 1
  jq -nc --slurpfile policies "$work/policies" --slurpfile seen "$work/connections" --arg cluster "$CLUSTER" '
    def within($labels): to_entries | all(. as $wish | $labels[$wish.key] == $wish.value);
    def allows($c): .namespace as $namespace |
      any(.spec.ingress[]; ((.ports // null) == null or any(.ports[]; .port as $port | $port == $c.port or any($c.to.ports[]; .name == $port and .port == $c.port))) and
        ((.from // null) == null or any(.from[]; .podSelector.matchLabels // {} | within($c.from.labels)) and $c.from.namespace == $c.to.namespace));
    [$policies[] as $policy | $seen[] | . as $c | select($policy.metadata.namespace == .to.namespace and ($policy.spec.podSelector.matchLabels | within($c.to.labels))) |
      {port, from: (.from.labels["app.kubernetes.io/name"] // .from.labels.app // "other"), ok: ($policy | .namespace = .metadata.namespace | allows($c))}] |
    group_by([.port, .from, .ok]) | map(.[0] + {times: length})' > "$work/judged-connections"
  cat "$work/judged-connections"
  jq -e 'all(.[]; .ok) and ([.[].port] | contains([2379, 2380]))' "$work/judged-connections"
}
