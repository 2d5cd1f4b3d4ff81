# steps.sh     what is done to the cluster while clients write and read: a function a step, which returns 0 once what must be so is so.
#
# To be sourced after ask.sh. Each step leaves a settled cluster of three behind, or fails. What it prints is shown only then.

# --- coming up
namespaces() {
  local name
  for name in quorate-system demo; do
    lab exec kubectl create namespace "$name" && lab exec kubectl label namespace "$name" pod-security.kubernetes.io/enforce=restricted || return 1
  done
}
# A real API server judges what the charts render, with its defaults, its schemas and its rules.
charts_accepted() {
  local charts=$here/../../charts
  helm template x "$charts/quorate-operator" -n quorate-system | lab exec kubectl apply --dry-run=server -f - &&
    helm template x "$charts/quorate-operator" -n quorate-system --set 'watchNamespaces={demo}' --set networkPolicy.enabled=true,dashboard.enabled=true,replicas=2 |
    lab exec kubectl apply --dry-run=server -f -
}
cluster_up() {
  helm install "$CLUSTER" "$here/../../charts/quorate-cluster" -n demo --set storage.size=1Gi,replicas=3 && k wait --for=condition=Ready "quoratecluster/$CLUSTER" --timeout=180s &&
    take_keys && within 30 settled 3
}
resources_are_guarded() {
  refused 'use 1, 3, 5 or 7' change '{"replicas":2}' && refused 'cannot shrink' change '{"storage":{"size":"1Mi"}}' &&
    k get "quoratecluster/$CLUSTER" | grep -q True && k scale "quoratecluster/$CLUSTER" --replicas=3
}
# refused TEXT COMMAND...: the command fails and says TEXT.
refused() {
  local text=$1 output
  shift
  if output=$("$@" 2>&1); then echo "not refused: $output"; return 1; fi
  grep -qF -- "$text" <<<"$output" || { echo "$output"; return 1; }
}

# --- a kube-apiserver on it
guest_up() {
  local keys=$work/guest
  mkdir -p "$keys" && openssl ecparam -name prime256v1 -genkey -noout -out "$keys/accounts.key" 2>/dev/null &&
    openssl ec -in "$keys/accounts.key" -pubout -out "$keys/accounts.pub" 2>/dev/null && echo 'guest-token,admin,admin,system:masters' > "$keys/tokens.csv" || return 1
  k create secret generic guest-keys --from-file="$keys" && sed "s/NAME/$CLUSTER/g" "$here/objects/guest.yaml" | k apply -f - &&
    k rollout status deployment/guest --timeout=120s || { k logs deployment/guest --tail=20; return 1; }
}
g() {
  local address
  address=$(k get pods -l app=guest -o 'jsonpath={.items[0].status.podIP}') || return 1
  lab exec kubectl --kubeconfig /dev/null --server "https://$address:6443" --token guest-token --insecure-skip-tls-verify "$@"
}
guest_used() {
  local i
  g create namespace work && within 10 g create configmap plain -n work --from-literal=n=1 && g patch configmap plain -n work --type=merge -p '{"data":{"n":"2"}}' &&
    is 2 g get configmap plain -n work -o 'jsonpath={.data.n}' && g create deployment web -n work --image=web --replicas=3 &&
    g scale deployment web -n work --replicas=5 && is 5 g get deployment web -n work -o 'jsonpath={.spec.replicas}' || return 1
  for i in $(seq 200); do printf -- '---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: many-%s, namespace: work}\n' "$i"; done > "$work/many.yaml"
  g create -f "$work/many.yaml" >/dev/null && is 200 guest_count many && g delete namespace work --wait=false &&
    g get --raw '/api/v1/configmaps?limit=10' | jq -e '.metadata.continue != ""'
}
guest_count() { g get configmap -n work --chunk-size=50 -o name | grep -c "/$1-"; }
guest_serves() { g get --raw /readyz && g create namespace "check-$(milliseconds)"; }

# --- what is asked of the operator
grows() { change '{"replicas":5}' && within 240 settled 5 && writes_go_on; }
shrinks() { change '{"replicas":3}' && within 180 settled 3 && within 30 volumes_are 3 && writes_go_on; }
volumes_are() { is "$1" volume_count; }
volume_count() { volumes | wc -l; }

# Every pod is a new one afterwards; the one that led when the change came is the youngest.
rolls() {
  local leader before name
  leader=$(leader) && before=$(pods -o name | sort) || return 1
  for name in $(seq 0 2); do uid_of pod "$CLUSTER-$name"; done > "$work/uids"
  change '{"resources":{"requests":{"cpu":"50m","memory":"64Mi"}},"config":{"quotaBackendBytes":4294967296}}' && within 240 all_new && within 120 settled 3 || return 1
  is "$before" bash -c "printf '%s\n' '$(pods -o name | sort)'"
  [ "$(pods -o json | jq -r '[.items[] | {name: .metadata.name, at: .metadata.creationTimestamp}] | sort_by(.at) | last.name')" = "$leader" ] ||
    { echo "$leader led and was not the last"; pods -o custom-columns=NAME:.metadata.name,CREATED:.metadata.creationTimestamp; return 1; }
  is 4294967296 quota && writes_go_on
}
all_new() { ! grep -qF -f "$work/uids" <(pods -o 'jsonpath={range .items[*]}{.metadata.uid}{"\n"}{end}'); }
quota() { pods -o json | jq -r '[.items[].spec.containers[0] | ((.command // []) + (.args // []))[] | select(startswith("--quota-backend-bytes="))] | unique[] | split("=")[1]'; }

one_and_three() { change '{"replicas":1}' && within 180 settled 1 && within 30 volumes_are 1 && writes_go_on && change '{"replicas":3}' && within 240 settled 3 && writes_go_on; }

# The same program under another tag: every member moves to it.
image_changed() { change '{"image":{"tag":"next"}}' && within 240 is localhost/quorate:next images_used && within 120 settled 3 && writes_go_on; }
images_used() { pods -o json | jq -r '[.items[].spec.containers[0].image] | unique | join(" ")'; }
# An image that nobody has: the rollout stops at the first member, the others serve, and taking the change back mends it.
bad_image_halts() {
  local result
  change '{"image":{"tag":"nowhere"},"update":{"deadlineSeconds":20}}' && within 120 is True condition Stalled && still 10 is 2 ready_pods && writes_go_on
  result=$?
  resource '.status.conditions[] | select(.type == "Stalled") | "\(.reason): \(.message)"'
  change '{"image":{"tag":"next"},"update":{"deadlineSeconds":600}}' && within 240 settled 3 && [ $result = 0 ] && writes_go_on
}

# A name more: the members serve it in a new certificate, and no pod is started anew for it.
certificate_renewed() {
  local before
  before=$(pods -o 'jsonpath={.items[*].metadata.uid}') && change '{"tls":{"extraSANs":["kv.example.com"]}}' && within 240 served_names kv.example.com && within 60 settled 3 &&
    is "$before" pods -o 'jsonpath={.items[*].metadata.uid}' && writes_go_on
}
served_names() {
  local slot
  for slot in 0 1 2; do
    lab node 1 exec bash -c 'openssl s_client -connect "$1:2379" -CAfile "$2/ca.crt" -cert "$2/tls.crt" -key "$2/tls.key" </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName' \
      names "$CLUSTER-$slot.$CLUSTER-peer.demo.svc.cluster.local" "$KEYS" | grep -F "DNS:$1" || return 1
  done
}

# --- what befalls it
leader_killed() {
  local leader uid
  leader=$(leader) && uid=$(uid_of pod "$leader") && k delete pod "$leader" --grace-period=0 --force && within 60 replaced pod "$leader" "$uid" && within 120 settled 3 && writes_go_on
}
replaced() { local uid; uid=$(uid_of "$1" "$2") && [ -n "$uid" ] && [ "$uid" != "$3" ]; }

# The volume goes with all that the member knew; its successor is another member under the same name.
volume_lost() {
  local slot=1 id uid
  [ "$(leader)" != "$CLUSTER-1" ] || slot=2
  id=$(member_id "$CLUSTER-$slot") && uid=$(uid_of pvc "data-$CLUSTER-$slot") && k delete pvc "data-$CLUSTER-$slot" --wait=false && k delete pod "$CLUSTER-$slot" &&
    within 60 replaced pvc "data-$CLUSTER-$slot" "$uid" && within 240 settled 3 && [ "$(member_id "$CLUSTER-$slot")" != "$id" ] && writes_go_on
}

# What is on the volume cannot be read any more: the server refuses it, and the member is replaced as if it had lost it.
volume_damaged() {
  local slot=2 id
  [ "$(leader)" != "$CLUSTER-2" ] || slot=0
  id=$(member_id "$CLUSTER-$slot") && echo damaged > "$LAB_RUN/volumes/pvc-$(uid_of pvc "data-$CLUSTER-$slot")/data/member/identity" &&
    k delete pod "$CLUSTER-$slot" --grace-period=0 --force && within 240 another_member "$CLUSTER-$slot" "$id" && within 240 settled 3 && writes_go_on
}
another_member() { local id; id=$(member_id "$1") && [ -n "$id" ] && [ "$id" != "$2" ]; }

# A member's node is cut off (cut, heal) or loses its power (kill, start); the others go on, the status says what is wrong, and
# all is well once the node is back.
node_lost() {
  local away=$1 back=$2 pod node result
  pod=$(pods -o json | jq -r '[.items[] | select(.spec.nodeName != "node1")][0].metadata.name') && node=$(node_of "$pod") && echo "$pod on $node" || return 1
  lab node "${node#node}" "$away"
  within 60 ready_members_below 3 && writes_go_on 60 && is True condition Available
  result=$?
  lab node "${node#node}" "$back"
  [ $result = 0 ] && within 90 node_ready "$node" && within 240 settled 3 && writes_go_on
}
# A member's node loses its power and stays off: the member is replaced on another node, unattended. When the node comes back, the
# member of before finds that it was removed, and nothing of it is left.
node_off() {
  local pod node id result
  pod=$(pods -o json | jq -r '[.items[] | select(.spec.nodeName != "node1")][0].metadata.name') && node=$(node_of "$pod") && id=$(member_id "$pod") && echo "$pod on $node" || return 1
  change '{"repair":{"afterSeconds":20}}' && lab node "${node#node}" kill
  within 180 another_member "$pod" "$id" && within 240 settled 3 && [ "$(node_of "$pod")" != "$node" ] && writes_go_on 60
  result=$?
  lab node "${node#node}" start
  change '{"repair":{"afterSeconds":300}}'
  [ $result = 0 ] && within 90 node_ready "$node" && within 240 settled 3 && within 120 volumes_are 3 && writes_go_on
}
ready_members_below() { [ "$(resource '.status.readyReplicas // 0')" -lt "$1" ]; }
node_ready() { is True lab exec kubectl get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'; }

# The operator dies in the middle of an operation, once for each direction; what it began is finished.
operator_killed() {
  change '{"replicas":5}' && within 60 operation_runs && kill_operator && within 240 settled 5 &&
    change '{"replicas":3}' && within 60 operation_runs && kill_operator && within 240 settled 3 && within 60 volumes_are 3 && writes_go_on
}
operation_runs() { [ "$(resource '.status.operation.type // ""')" != "" ]; }
kill_operator() { lab exec kubectl -n quorate-system delete pod -l app.kubernetes.io/name=quorate-operator --grace-period=0 --force; }

# Two of three are down and cannot start. The status must say so, and nothing may be deleted: once nodes are back, so is everything.
quorum_lost() {
  local before uid result
  before=$(volumes) && uid=$(uid_of quoratecluster "$CLUSTER") && lab exec kubectl cordon node1 node2 node3 &&
    k delete pod "$CLUSTER-0" "$CLUSTER-1" --grace-period=0 --force || return 1
  within 90 is False condition QuorumHealthy && still 15 is "$before" volumes && within 5 is False condition Available
  result=$?
  resource '.status.conditions[] | select(.type == "QuorumHealthy") | .message'
  lab exec kubectl uncordon node1 node2 node3
  [ $result = 0 ] && within 240 settled 3 && is "$before" volumes && [ "$(uid_of quoratecluster "$CLUSTER")" = "$uid" ] && writes_go_on 60
}
# still SECONDS COMMAND...: true all the time.
still() {
  local deadline=$((SECONDS + $1))
  shift
  while [ $SECONDS -lt $deadline ]; do "$@" || return 1; sleep 1; done
}

sleeps_and_wakes() {
  local before
  before=$(volumes) && change '{"replicas":0}' && within 120 no_pods && is "$before" volumes && change '{"replicas":3}' && within 180 settled 3 && is "$before" volumes && writes_go_on 60
}
no_pods() { [ -z "$(pods -o name)" ]; }

# An upgrade of the operator restarts the operator and nothing else: not even a cluster that names no image, though the operator comes
# with another one.
operator_upgraded() {
  local before steady
  (CLUSTER=steady && own replicas=1) && before=$(pods -o 'jsonpath={.items[*].metadata.uid}') && steady=$(uid_of pod steady-0) &&
    helm upgrade quorate-operator "$here/../../charts/quorate-operator" -n quorate-system --reuse-values --set logLevel=debug,image.tag=next --wait --timeout 120s &&
    within 90 settled 3 && still 20 is "$before" pods -o 'jsonpath={.items[*].metadata.uid}' && is "$steady" uid_of pod steady-0 && (CLUSTER=steady && within 30 is True condition Ready && drop) && writes_go_on
}

# The place for backups on a volume; every step that needs it makes sure of it.
store_here() { k apply -f "$here/objects/store.yaml"; }
# What was acknowledged before the backup was asked for is in the cluster that begins with it; the first cluster goes on.
backed_up_and_restored() {
  store_here && cp "$HISTORY" "$work/history-before" && k apply -f "$here/objects/backup.yaml" && within 120 is Succeeded k get quoratebackup first -o 'jsonpath={.status.phase}' || { k get quoratebackup,jobs,pods -o wide; k get quoratebackup first -o json | jq -c .status; return 1; }
  local CLUSTER=again KEYS=$work/keys-again HISTORY=$work/history-before
  mkdir -p "$KEYS" && helm install "$CLUSTER" "$here/../../charts/quorate-cluster" -n demo --set storage.size=1Gi,storage.whenDeleted=Delete,replicas=3,bootstrap.restore.backupRef.name=first &&
    k wait --for=condition=Ready "quoratecluster/$CLUSTER" --timeout=240s && take_keys && judged 0 1 && helm uninstall "$CLUSTER" -n demo --wait --timeout 90s && within 90 no_pods
}
# A schedule makes one each minute, and lets go of the older one, object and all.
scheduled() {
  local first
  store_here && k apply -f "$here/objects/schedule.yaml" && within 150 scheduled_done && first=$(done_by_schedule) && within 150 another_scheduled "$first" && within 60 gone quoratebackup "$first" &&
    k delete quoratebackupschedule often
}
done_by_schedule() { k get quoratebackups -o json | jq -r '[.items[] | select(.metadata.name | startswith("often")) | select(.status.phase == "Succeeded") | .metadata.name] | sort | last // ""'; }
scheduled_done() { [ -n "$(done_by_schedule)" ]; }
another_scheduled() { local last; last=$(done_by_schedule) && [ -n "$last" ] && [ "$last" != "$1" ]; }
# Deltas flow to a real S3 server, encrypted; the full backup they begin with is proved, and again by the proofs' own schedule; another
# key is taken up by another pod; a cluster begins with the state of a revision, and what was acknowledged before that is in it.
flowed_and_restored() {
  local full asked revision
  k apply -f "$here/objects/flowing.yaml" && within 120 is True flowing_condition Flowing && within 120 full_of_flowing && within 180 is True flowing_condition Verified ||
    { k get quoratebackupschedule,quoratebackup,jobs,pods -o wide; k get quoratebackupschedule flowing -o json | jq -c .status; k get quoratebackups -o json | jq -c '.items[].status'; k logs deployment/flowing-deltas --tail=20; return 1; }
  another_key && within 150 proved_by_schedule || { k get pods -o wide; k get quoratebackups -o json | jq -c '.items[] | {metadata: .metadata.annotations, status}'; return 1; }
  k apply -f "$here/objects/wrong.yaml" && within 120 told_by_backup to-stranger 'it refuses with SignatureDoesNotMatch' && within 120 told_by_backup to-nowhere 'store: ' && k delete --wait=false -f "$here/objects/wrong.yaml" ||
    { k get quoratebackups -o json | jq -c '.items[].status'; return 1; }
  full=$(full_of_flowing) && cp "$HISTORY" "$work/history-before" && asked=$(date +%s) && within 60 covered_since "$asked" && revision=$(k get quoratebackupschedule flowing -o 'jsonpath={.status.deltas.revision}') || return 1
  local CLUSTER=again KEYS=$work/keys-again HISTORY=$work/history-before
  mkdir -p "$KEYS" && helm install "$CLUSTER" "$here/../../charts/quorate-cluster" -n demo --set "storage.size=1Gi,storage.whenDeleted=Delete,replicas=3,bootstrap.restore.backupRef.name=$full,bootstrap.restore.revision=$revision" &&
    k wait --for=condition=Ready "quoratecluster/$CLUSTER" --timeout=240s && take_keys && judged 0 1 && helm uninstall "$CLUSTER" -n demo --wait --timeout 90s && within 90 no_pods || return 1
  k delete quoratebackupschedule flowing && within 60 gone deployment flowing-deltas && k delete pod s3 --now
}
told_by_backup() { k get quoratebackup "$1" -o json | jq -r '.status.conditions[]? | select(.type == "Complete") | .message' | grep -E -- "$2"; }
# The key that sealed so far stays under another name; the agent that has read it is replaced. It may just be, for certificates that
# the next authority signed.
another_key() {
  local before key
  within 60 agent_pod && before=$(agent_pod) && key=$(k get secret sealing -o 'jsonpath={.data.key}' | base64 -d) &&
    k patch secret sealing --type=merge -p '{"stringData":{"former":"'"$key"'","key":"'"$(openssl rand -hex 32)"'"}}' && within 60 another_agent "$before" && within 60 is True flowing_condition Flowing
}
agent_pod() { k get pods -l quorate.io/schedule=flowing,app.kubernetes.io/component=deltas -o json | jq -er '[.items[] | select(.metadata.deletionTimestamp == null and .status.phase == "Running")][0].metadata.uid'; }
another_agent() { local now; now=$(agent_pod) && [ "$now" != "$1" ]; }
proved_by_schedule() {
  [ -n "$(k get quoratebackupschedule flowing -o 'jsonpath={.status.lastProofDueAt}')" ] && k get quoratebackups -l quorate.io/schedule=flowing -o json |
    jq -e '[.items[].status | select((.proof // "") != "" and any(.conditions[]; .type == "Verified" and .status == "True"))] | length > 0'
}
flowing_condition() { k get quoratebackupschedule flowing -o json | jq -r ".status.conditions[]? | select(.type == \"$1\") | .status"; }
full_of_flowing() { k get quoratebackups -l quorate.io/schedule=flowing -o json | jq -er '[.items[] | select(.status.phase == "Succeeded") | .metadata.name] | sort | last'; }
covered_since() { local until; until=$(k get quoratebackupschedule flowing -o 'jsonpath={.status.deltas.coveredUntil}') && [ -n "$until" ] && [ "$(date -d "$until" +%s)" -gt "$1" ]; }

# --- going away
# Without its operator the cluster serves on; installing it again changes nothing but that it is looked after.
operator_reinstalled() {
  local before
  before=$(pods -o 'jsonpath={.items[*].metadata.uid}') && helm uninstall quorate-operator -n quorate-system --wait --timeout 60s && writes_go_on &&
    lab exec kubectl get crd quorateclusters.quorate.io && k get "quoratecluster/$CLUSTER" && install_operator && within 90 settled 3 &&
    is "$before" pods -o 'jsonpath={.items[*].metadata.uid}' && writes_go_on
}
deleted_volumes_kept() {
  local before
  before=$(volumes) && helm uninstall "$CLUSTER" -n demo --wait --timeout 90s && within 90 gone quoratecluster "$CLUSTER" && within 90 no_pods && still 5 is "$before" volumes &&
    gone service "$CLUSTER-client"
}
# A status that is lost is worked out anew, and all pods start on their volumes again.
forgets_its_status() {
  local before
  before=$(members | jq -c '[.members[].ID] | sort') && k patch quoratecluster "$CLUSTER" --subresource=status --type=merge -p '{"status":{"origin":null,"clusterID":null,"members":null,"volumes":null}}' &&
    within 60 settled 3 && k delete pods -l "app.kubernetes.io/instance=$CLUSTER,app.kubernetes.io/managed-by=quorate-operator" && within 180 settled 3 && [ "$(members | jq -c '[.members[].ID] | sort')" = "$before" ]
}
# And a second time: the disks are still stamped with the first one.
taken_up_again() {
  helm install "$CLUSTER" "$here/../../charts/quorate-cluster" -n demo --set storage.size=1Gi,replicas=3,bootstrap.fromVolumes=true && serves_again
}
# The certificates are new ones; what was acknowledged is there, but for the one write that was taken away by hand.
serves_again() {
  k wait --for=condition=Ready "quoratecluster/$CLUSTER" --timeout=180s && take_keys && within 60 settled 3 && is '1 0' missing_and_wrong
}
missing_and_wrong() { { judged 0 1 --ended || :; } | awk '{print $4, $5}'; }
stalled_for() { resource '.status.conditions[]? | select(.type == "Stalled" and .status == "True") | .reason'; }
# A cluster of the same name does not touch them until it is told to; then it is the store of before.
kept_volumes_taken_up() {
  local before
  before=$(volumes) && helm install "$CLUSTER" "$here/../../charts/quorate-cluster" -n demo --set storage.size=1Gi,replicas=3 && within 60 is ForeignVolume stalled_for && no_pods &&
    helm upgrade "$CLUSTER" "$here/../../charts/quorate-cluster" -n demo --reuse-values --set bootstrap.fromVolumes=true && serves_again &&
    is "$before" volumes && forgets_its_status && helm uninstall "$CLUSTER" -n demo --wait --timeout 90s && within 90 no_pods && taken_up_again && is "$before" volumes &&
    helm uninstall "$CLUSTER" -n demo --wait --timeout 90s && within 90 no_pods && k delete quoratebackups --all --timeout=60s && k delete pvc --all --timeout=60s
}
deleted_volumes_removed() {
  local CLUSTER=brief
  helm install "$CLUSTER" "$here/../../charts/quorate-cluster" -n demo --set storage.size=1Gi,storage.whenDeleted=Delete,replicas=1 && k wait --for=condition=Ready "quoratecluster/$CLUSTER" --timeout=120s &&
    helm uninstall "$CLUSTER" -n demo --wait --timeout 90s && within 90 no_pods && within 60 is '' volumes
}
# A cluster whose operator is gone can still be deleted: nothing waits for somebody who is not there.
deleted_without_operator() {
  local CLUSTER=orphan
  helm install "$CLUSTER" "$here/../../charts/quorate-cluster" -n demo --set storage.size=1Gi,storage.whenDeleted=Delete,replicas=1 && k wait --for=condition=Ready "quoratecluster/$CLUSTER" --timeout=120s &&
    helm uninstall quorate-operator -n quorate-system --wait --timeout 60s && k delete quoratecluster "$CLUSTER" --timeout=60s && within 90 no_pods
}
# What the role lacks shows up as a refusal in the log.
operator_was_content() {
  grep -q working "$work"/operator*.log && ! grep -iE 'forbidden|panicked' "$work"/operator*.log
}

# Were a write lost, the judge would say so: one that is taken away by hand is missed.
judge_bites() {
  ctl 0 del /e2e/w/0/0000000001 && ! judged 0 1 --ended
}
