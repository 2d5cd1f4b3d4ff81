# rescues.sh     steps about what people ask for and what the operator does by schedule: recovery of a lost quorum, restore in place,
#                a full store, windows of maintenance, a growing volume, other sources of certificates, a change of authority.
#
# To be sourced after steps.sh. The step about the authority works on the cluster that clients write to. The others make clusters of
# their own beside it, since what they do takes acknowledged writes back on purpose; each leaves none behind.

# --- clusters of their own
# own NAME SETTINGS: makes a cluster and takes its keys; CLUSTER and KEYS are the caller's.
own() {
  KEYS=$work/keys-$CLUSTER
  mkdir -p "$KEYS" && helm install "$CLUSTER" "$here/../../charts/quorate-cluster" -n demo --set "storage.size=1Gi,storage.whenDeleted=Delete,$1" &&
    k wait --for=condition=Ready "quoratecluster/$CLUSTER" --timeout=180s
}
drop() { helm uninstall "$CLUSTER" -n demo --wait --timeout 90s && within 90 no_pods; }
id_of() { resource '.status.clusterID'; }
# fill FROM TO: a key for each number, by a transaction of a member that serves.
fill() {
  local i
  for i in $(seq "$1" "$2"); do printf 'put /own/%05d value-%s\n' "$i" "$i"; done > "$work/fill"
  { echo; cat "$work/fill"; echo; echo; } | stdin_ctl 0 txn --interactive >/dev/null
}
# shellcheck disable=SC2046
stdin_ctl() { local slot=$1; shift; lab node 1 exec "$BIN/quoratectl" --endpoints "https://$CLUSTER-$slot.$CLUSTER-peer.demo.svc.cluster.local:2379" $(keys) "$@"; }
keys_held() { ctl 0 get /own/ --prefix --count-only -w fields | sed -n 's/^"Count" : //p'; }
revision_at() { ctl "$1" endpoint status -w json | jq '.[0].Status.header.revision'; }
phase_of() { k get "$1" "$2" -o 'jsonpath={.status.phase}'; }
# shown KIND NAME: what its status says, for people; always false, to stand behind a check that failed.
shown() { k get "$1" "$2" -o json | jq -c .status; resource .status | jq -c '{phase, operation, errand, lastErrand, conditions}'; pods -o wide; return 1; }

# --- a lost quorum
# Two of three volumes are gone for good. A task for another cluster's id does nothing. The right one makes the third member the
# cluster, with all that it knew; old volumes that still exist are put aside, and three serve again.
quorum_recovered() {
  local CLUSTER=hurt KEYS before member
  own replicas=3 && take_keys && fill 1 100 && within 10 level && before=$(revision_at 2) && member=$(member_id hurt-2) || return 1
  k apply -f - <<<'{"apiVersion": "quorate.io/v1alpha1", "kind": "QuorateTask", "metadata": {"name": "astray"}, "spec": {"clusterRef": {"name": "hurt"}, "type": "RecoverQuorum", "confirm": "abc"}}' &&
    within 20 is Failed phase_of quoratetask astray && within 10 settled 3 || shown quoratetask astray || return 1
  k delete pvc data-hurt-0 data-hurt-1 --wait=false && k delete pod hurt-0 hurt-1 --grace-period=0 --force && within 120 is False condition QuorumHealthy &&
    still 10 is hurt-2 ready_or_not || { shown quoratecluster hurt; return 1; }
  sed "s/CONFIRM/$(id_of)/" <<<'{"apiVersion": "quorate.io/v1alpha1", "kind": "QuorateTask", "metadata": {"name": "recover"}, "spec": {"clusterRef": {"name": "hurt"}, "type": "RecoverQuorum", "confirm": "CONFIRM"}}' | k apply -f - &&
    within 240 is Succeeded phase_of quoratetask recover && within 240 settled 3 && is 100 keys_held || { shown quoratetask recover; return 1; }
  [ "$(revision_at 2)" -ge "$before" ] && k get quoratetask recover -o json | jq -e '.status.survivor == "hurt-2" and (.status.mayBeLost | length) > 0' && fill 101 120 && is 120 keys_held &&
    k delete quoratetask astray recover && drop && echo "member $member"
}
level() { local want; want=$(revision_at 0) && is "$want" revision_at 1 && is "$want" revision_at 2; }
ready_or_not() { k get pods -l app.kubernetes.io/instance="$CLUSTER" -o json | jq -r --arg name "$CLUSTER-2" '.items[] | select(.metadata.name == $name) | .metadata.name'; }

# --- a restore in place
# What was written after the backup is gone, what was there before is back; the Service, the certificates and the names are the same,
# revisions only go up, and what was there before the restore is in the safety backup. The old volumes are kept, and listed.
restored_in_place() {
  local CLUSTER=undo KEYS service secret before kept volume
  store_here && own replicas=3 && take_keys && fill 1 60 && backed_up undo-before && fill 61 100 && is 100 keys_held || return 1
  service=$(uid_of service undo-client) && secret=$(uid_of secret undo-client-tls) && before=$(revision_at 0) || return 1
  restore_of undo-before back && within 300 is Succeeded phase_of quoraterestore back && within 60 settled 3 && is 60 keys_held || { shown quoraterestore back; return 1; }
  is "$service" uid_of service undo-client && is "$secret" uid_of secret undo-client-tls && [ "$(revision_at 0)" -gt "$before" ] && is Succeeded phase_of quoratebackup back-safety || { shown quoraterestore back; return 1; }
  kept=$(k get quoraterestore back -o json | jq -r '[.status.keptVolumes[].volume] | join(" ")') && [ "$(wc -w <<<"$kept")" = 3 ] || return 1
  for volume in $kept; do is Released lab exec kubectl get pv "$volume" -o 'jsonpath={.status.phase}' || return 1; done
  k delete quoraterestore back && lab exec kubectl delete pv $kept --wait=false
  bad_sources_stop_nobody 60 && restore_fails_and_goes_back && drop && k delete quoratebackup undo-before back-safety
}
backed_up() {
  k apply -f - <<<'{"apiVersion": "quorate.io/v1alpha1", "kind": "QuorateBackup", "metadata": {"name": "'"$1"'"}, "spec": {"clusterRef": {"name": "'"$CLUSTER"'"}, "storeRef": {"name": "here"}}}' &&
    within 120 is Succeeded phase_of quoratebackup "$1"
}
restore_of() {
  k apply -f - <<<'{"apiVersion": "quorate.io/v1alpha1", "kind": "QuorateRestore", "metadata": {"name": "'"$2"'"}, "spec": {"clusterRef": {"name": "'"$CLUSTER"'"}, "confirm": "'"$(id_of)"'", "source": {"backupRef": {"name": "'"$1"'"}}}}'
}
# An object that is not there, a key that is wrong, a store that is no place: each is told in a sentence, and no member is stopped.
bad_sources_stop_nobody() {
  local before
  before=$(pods -o 'jsonpath={.items[*].metadata.uid}') && k apply -f "$here/objects/nowhere.yaml" &&
    refused_restore nothing '"storeRef": {"name": "here"}, "location": "no/such.snapshot"' 'there is no object' &&
    refused_restore elsewhere '"storeRef": {"name": "nowhere"}, "location": "a/b.snapshot"' 'volume claim no-such-claim' &&
    refused_restore unlocked '"storeRef": {"name": "locked"}, "location": "a/b.snapshot"' 'secret no-such-key' &&
    is "$before" pods -o 'jsonpath={.items[*].metadata.uid}' && is "$1" keys_held && k delete -f "$here/objects/nowhere.yaml"
}
# refused_restore NAME SOURCE TEXT: a restore of it ends without a beginning, or waits, and says TEXT.
refused_restore() {
  k apply -f - <<<'{"apiVersion": "quorate.io/v1alpha1", "kind": "QuorateRestore", "metadata": {"name": "'"$1"'"}, "spec": {"clusterRef": {"name": "'"$CLUSTER"'"}, "confirm": "'"$(id_of)"'", "source": {'"$2"'}, "safetyBackup": {"enabled": false}}}' &&
    within 120 says "$1" "$3" && k delete quoraterestore "$1" || shown quoraterestore "$1"
}
says() { k get quoraterestore "$1" -o 'jsonpath={.status.phase}: {.status.step}' | grep -E '^(Failed|Pending): ' | grep -F -- "$2"; }

# The object goes after it was looked at: the restore halts, and giving it up brings the data of before back, under the same member ids.
restore_fails_and_goes_back() {
  local ids
  fill 61 70 && ids=$(members | jq -c '[.members[].ID] | sort') && restore_of undo-before lost && within 120 known quoratebackup lost-safety && object_away undo-before &&
    within 240 is True condition Stalled && is 70 rows_after_going_back && is "$ids" member_ids && object_back undo-before && k delete quoratebackup lost-safety
}
known() { k get "$1" "$2" -o name; }
object_of() { echo "$LAB_RUN/volumes/pvc-$(uid_of pvc backups)/$(k get quoratebackup "$1" -o 'jsonpath={.status.location}')"; }
object_away() { local object; object=$(object_of "$1") && mv "$object" "$object.away"; }
object_back() { local object; object=$(object_of "$1") && mv "$object.away" "$object"; }
rows_after_going_back() { k delete quoraterestore lost >&2 && within 240 settled 3 >&2 && keys_held; }
member_ids() { members | jq -c '[.members[].ID] | sort'; }

# --- the operator dies in the middle of either
# killed_at_each_stage KIND NAME: while the errand of this resource runs, the operator is killed once in each stage that is seen. Its
# successor takes up what it finds once the hold on the lease has run out.
killed_at_each_stage() {
  local kind=$1 name=$2 stages=' ' stage deadline=$((SECONDS + 600))
  while [ $SECONDS -lt $deadline ]; do
    stage=$(resource '.status.errand.stage // ""')
    if [ -n "$stage" ] && [[ $stages != *" $stage "* ]]; then kill_operator >/dev/null 2>&1 && stages+="$stage "; fi
    case $(phase_of "$kind" "$name") in Succeeded|Failed) break ;; esac
    sleep 0.1
  done
  echo "killed in:$stages"
  [ "$(wc -w <<<"$stages")" -ge "$3" ] && is Succeeded phase_of "$kind" "$name"
}
killed_while_recovering() {
  local CLUSTER=hurt KEYS
  own replicas=3 && take_keys && fill 1 100 && within 10 level && k delete pvc data-hurt-0 data-hurt-1 --wait=false && k delete pod hurt-0 hurt-1 --grace-period=0 --force &&
    within 120 is False condition QuorumHealthy || { shown quoratecluster hurt; return 1; }
  sed "s/CONFIRM/$(id_of)/" <<<'{"apiVersion": "quorate.io/v1alpha1", "kind": "QuorateTask", "metadata": {"name": "recover"}, "spec": {"clusterRef": {"name": "hurt"}, "type": "RecoverQuorum", "confirm": "CONFIRM"}}' | k apply -f - &&
    killed_at_each_stage quoratetask recover 2 && within 240 settled 3 && is 100 keys_held && fill 101 120 && is 120 keys_held || { shown quoratetask recover; return 1; }
  k get quoratetask recover -o json | jq -e '.status.survivor == "hurt-2"' && k delete quoratetask recover && drop
}
killed_while_restoring() {
  local CLUSTER=undo KEYS kept
  store_here && own replicas=3 && take_keys && fill 1 60 && backed_up undo-before && fill 61 100 && restore_of undo-before back || return 1
  killed_at_each_stage quoraterestore back 3 && within 240 settled 3 && is 60 keys_held || { shown quoraterestore back; return 1; }
  # Each old volume is kept once, and the safety backup holds what was replaced.
  kept=$(k get quoraterestore back -o json | jq -r '[.status.keptVolumes[].volume] | unique | join(" ")') && [ "$(wc -w <<<"$kept")" = 3 ] && is 100 safety_keys back-safety || { shown quoraterestore back; return 1; }
  k delete quoraterestore back && lab exec kubectl delete pv $kept --wait=false && killed_while_going_back && drop && k delete quoratebackup undo-before back-safety
}
safety_keys() { k get quoratebackup "$1" -o 'jsonpath={.status.keys}'; }
# It is given up while it halts, and the operator dies on the way back: the old data serves, under the same member ids.
killed_while_going_back() {
  local ids
  fill 61 70 && ids=$(member_ids) && restore_of undo-before lost && within 120 known quoratebackup lost-safety && object_away undo-before && within 240 is True condition Stalled &&
    k delete quoraterestore lost && within 30 is GoingBack stage && kill_operator && within 240 settled 3 && is 70 keys_held && is "$ids" member_ids && object_back undo-before && k delete quoratebackup lost-safety
}
stage() { resource '.status.errand.stage // ""'; }

# --- space and maintenance
# Writes fill a small quota; the operator makes room by itself, and writes go on. Then a window of each minute compacts, and one for
# space is told to be done.
full_store_healed() {
  local CLUSTER=tight KEYS
  own 'replicas=3,config.quotaBackendBytes=16777216,maintenance.fullStore.keepRevisions=5' && take_keys || return 1
  head -c 400000 /dev/zero | tr '\0' x > "$work/large"
  until_full && within 120 is '' alarms && within 30 ctl 0 put /own/after healed && within 60 told_of SpaceHealed ||
    { shown quoratecluster tight; return 1; }
  change '{"maintenance":{"compaction":{"schedule":"* * * * *","keepRevisions":1},"reclaim":{"schedule":"* * * * *","minFreePercent":0,"minFreeBytes":0}}}' &&
    within 200 compacted_by_schedule && within 30 is True condition Maintained && within 60 settled 3 || { resource .status.maintenance; shown quoratecluster tight; return 1; }
  grows_its_volumes && drop
}
told_of() { k get events -o json | jq -e --arg reason "$1" --arg name "$CLUSTER" '[.items[] | select(.reason == $reason and .involvedObject.name == $name)] | length > 0'; }
until_full() {
  local i
  for i in $(seq 100); do
    stdin_ctl 0 put /own/large < "$work/large" >/dev/null 2>"$work/full" || { grep -q 'space exceeded' "$work/full" && return; cat "$work/full"; }
  done
  echo "never full"
  return 1
}
alarms() { ctl 0 alarm list; }
compacted_by_schedule() { resource '.status.maintenance | (.compactedRevision // 0) > 1 and (.lastReclaimAt // "") != "" and (.lastCompactionAt // "") != ""' | grep -qx true; }
# A growth that the class does not take is told, and can be taken back.
grows_its_volumes() {
  local class
  change '{"storage":{"size":"2Gi"}}' && within 60 is '2Gi 2Gi 2Gi' capacities && class=$(k get pvc "data-$CLUSTER-0" -o 'jsonpath={.spec.storageClassName}') &&
    lab exec kubectl patch storageclass "$class" -p '{"allowVolumeExpansion":false}' || return 1
  change '{"storage":{"size":"9Gi"}}' && within 60 is VolumeRefused stalled_for && ! change '{"storage":{"size":"1Gi"}}' && change '{"storage":{"size":"2Gi"}}' && within 90 settled 3
  set -- $?
  lab exec kubectl patch storageclass "$class" -p '{"allowVolumeExpansion":true}' && return "$1"
}
capacities() { k get pvc -o json | jq -r --arg start "data-$CLUSTER-" '[.items[] | select(.metadata.name | startswith($start)) | .status.capacity.storage] | join(" ")'; }

# --- tasks that stop nobody
asked_to_compact_and_lead() {
  local to=2
  [ "$(leader)" != "$CLUSTER-2" ] || to=1
  task compact '"type": "Compact", "compact": {"keepRevisions": 100000}' && task reclaim '"type": "Defragment"' && task lead '"type": "MoveLeader", "moveLeader": {"slot": '$to'}' && is "$CLUSTER-$to" leader && within 30 settled 3 &&
    k delete quoratetask compact reclaim lead && writes_go_on
}
task() {
  k apply -f - <<<'{"apiVersion": "quorate.io/v1alpha1", "kind": "QuorateTask", "metadata": {"name": "'"$1"'"}, "spec": {"clusterRef": {"name": "'"$CLUSTER"'"}, '"$2"'}}' && within 60 is Succeeded phase_of quoratetask "$1" || shown quoratetask "$1"
}

# --- certificates
# Plain text, with a NetworkPolicy; then certificates of the user's own.
other_certificates() {
  local CLUSTER=plain KEYS
  own 'replicas=1,tls.mode=Disabled,networkPolicy.enabled=true' && k get networkpolicy plain && plain_put && drop || return 1
  CLUSTER=mine KEYS=$work/keys-mine
  own_authority && own 'replicas=3,tls.mode=Secret,tls.secretRefs.server.name=mine-own,tls.secretRefs.peer.name=mine-own,tls.secretRefs.client.name=mine-own' && settled_plainly 3 && fill 1 10 && is 10 keys_held && drop && k delete secret mine-own
}
settled_plainly() { within 30 settled "$1"; }
plain_put() { lab node 1 exec "$BIN/quoratectl" --endpoints "http://plain-0.plain-peer.demo.svc.cluster.local:2379" put a b; }
own_authority() {
  local names='DNS:*.mine-peer.demo.svc,DNS:*.mine-peer.demo.svc.cluster.local,DNS:mine-client.demo.svc,DNS:localhost,IP:127.0.0.1'
  mkdir -p "$KEYS" && cd "$KEYS" && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.crt -days 3 -subj /CN=mine -addext keyUsage=critical,keyCertSign 2>/dev/null &&
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout tls.key -out tls.csr -subj /CN=mine 2>/dev/null &&
    openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out tls.crt -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names") 2>/dev/null || return 1
  cd - >/dev/null && k create secret generic mine-own --type=kubernetes.io/tls --from-file=tls.crt="$KEYS/tls.crt" --from-file=tls.key="$KEYS/tls.key" --from-file=ca.crt="$KEYS/ca.crt"
}

# The change of authority takes twenty minutes, each half with time for everyone to read the files of the one before; other steps go on
# meanwhile. The clients take over what they are given; a kube-apiserver reads what it trusts when it starts, so that one starts anew.
authority_change_begins() {
  pods -o 'jsonpath={.items[*].metadata.uid}' > "$work/uids-before-change" && k annotate quoratecluster "$CLUSTER" quorate.io/rotate-authority=now-1 --overwrite && within 60 is Announcing rotation && take_keys &&
    [ "$(grep -c BEGIN "$KEYS/ca.crt")" = 2 ] && k rollout restart deployment/guest && k rollout status deployment/guest --timeout=120s && writes_go_on
}
authority_changed() { { is Announcing rotation || is Retiring rotation || authority_change_begins; } && within 900 is Retiring rotation && within 30 take_keys && within 120 served_by_the_new && writes_go_on; }
rotation() { resource '.status.tls.rotation'; }
served_by_the_new() {
  local slot
  k get secret "$CLUSTER-ca" -o 'jsonpath={.data.ca\.crt}' | base64 -d > "$work/new-authority" || return 1
  for slot in 0 1 2; do
    lab node 1 exec bash -c 'openssl s_client -connect "$1:2379" -CAfile "$2" -verify_return_error -cert "$3/tls.crt" -key "$3/tls.key" </dev/null 2>&1 | grep -q "Verify return code: 0"' \
      served "$CLUSTER-$slot.$CLUSTER-peer.demo.svc.cluster.local" "$work/new-authority" "$KEYS" || return 1
  done
}

# --- cert-manager, where its controller and its definitions are at hand (CERT_MANAGER, CERT_MANAGER_CRDS)
# It runs beside the control plane, as one more program. Its issuer has an authority of the test's; the operator asks for the
# certificates, the members serve with them, and a shorter validity renews them without a restart.
issued_by_cert_manager() {
  local CLUSTER=issued KEYS before result
  mkdir -p "$work/issuer" && lab exec kubectl apply --server-side -f "$CERT_MANAGER_CRDS" && within 30 lab exec kubectl get issuers.cert-manager.io -A || return 1
  lab exec bash -c 'echo $$ > "$1"; shift; exec "$@"' cert-manager "$work/cert-manager.pid" "$CERT_MANAGER" --leader-elect=false --kubeconfig "$(lab exec bash -c 'echo $KUBECONFIG')" >"$work/cert-manager.log" 2>&1 &
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$work/issuer/ca.key" -out "$work/issuer/ca.crt" -days 30 -subj /CN=issuer -addext keyUsage=critical,keyCertSign 2>/dev/null &&
    k create secret tls issuer --cert="$work/issuer/ca.crt" --key="$work/issuer/ca.key" && k apply -f - <<<'{"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": "own"}, "spec": {"ca": {"secretName": "issuer"}}}' &&
    own 'replicas=3,tls.mode=CertManager,tls.issuerRef.name=own' && take_keys && fill 1 10 && is 10 keys_held && before=$(pods -o 'jsonpath={.items[*].metadata.uid}') && is Issued reason CertificatesReady &&
    served_serial > "$work/serial" && change '{"tls":{"extraSANs":["kv.example.com"]}}' && within 180 another_serial && is "$before" pods -o 'jsonpath={.items[*].metadata.uid}' && is 10 keys_held && drop
  result=$?
  [ $result = 0 ] || { tail -n 20 "$work/cert-manager.log"; k get certificates,certificaterequests,issuers; shown quoratecluster issued; }
  kill "$(cat "$work/cert-manager.pid")" 2>/dev/null
  return $result
}
reason() { resource ".status.conditions[]? | select(.type == \"$1\") | .reason"; }
served_serial() {
  lab node 1 exec bash -c 'openssl s_client -connect "$1:2379" -CAfile "$2/ca.crt" -cert "$2/tls.crt" -key "$2/tls.key" </dev/null 2>/dev/null | openssl x509 -noout -serial' \
    serial "$CLUSTER-0.$CLUSTER-peer.demo.svc.cluster.local" "$KEYS"
}
another_serial() { local now; now=$(served_serial) && [ -n "$now" ] && [ "$now" != "$(cat "$work/serial")" ]; }
