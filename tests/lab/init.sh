#!/usr/bin/env bash
# init.sh     process 1 of the lab: lays the network, starts the programs, stays. Its death ends every program of the lab.
#
# Started by lab.sh inside fresh mount, PID and (unless the store is elsewhere) network namespaces. Creates $LAB_RUN/ready when
# the API server answers and, in a whole cluster, every node is Ready.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/parts.sh"
mount --make-rprivate /
mkdir -p "$LAB_RUN"/{programs,pids,path,keys,log,store,volumes}
chmod 0700 "$LAB_RUN/store"
for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do ln -sf "$LAB_BIN/kube" "$LAB_RUN/path/$name"; done
ln -sf "$LAB_BIN/helm" "$LAB_RUN/path/helm"
ln -sf "$LAB_SERVER" "$LAB_RUN/path/etcd"
export PATH=$LAB_RUN/path:$PATH

# The bridge is the machine room: programs of the control plane sit on it, each node hangs on it by one cable.
lay_network() {
  local i other
  mount -t tmpfs tmpfs /run
  mkdir /run/netns
  ip link add lab0 type bridge
  ip addr add "$BRIDGE/24" dev lab0
  ip link set lab0 up
  sysctl -qw net.ipv4.ip_forward=1
  for i in $(seq "$LAB_NODES"); do
    ip netns add "node$i"
    ip link add "cable$i" type veth peer name eth0 netns "node$i"
    ip link set "cable$i" master lab0 up
    ip -n "node$i" link set lo up
    ip -n "node$i" link set eth0 up
    ip -n "node$i" addr add "10.90.0.$((10 + i))/24" dev eth0
    # kube-proxy and host-network pods look for a default route; this one leads no further than the bridge
    ip -n "node$i" route add default via $BRIDGE
    ip route add "10.91.$i.0/24" via "10.90.0.$((10 + i))"
  done
  for i in $(seq "$LAB_NODES"); do
    for other in $(seq "$LAB_NODES"); do
      [ "$i" = "$other" ] || ip -n "node$i" route add "10.91.$other.0/24" via "10.90.0.$((10 + other))"
    done
  done
}

define_controllers() {
  local k=$LAB_RUN/keys
  # The default of 20 calls a second would spend seconds on making service accounts alone.
  define kube-controller-manager kube-controller-manager --kubeconfig="$LAB_RUN/controllers.conf" --leader-elect=false \
    --use-service-account-credentials=true --service-account-private-key-file="$k/accounts.key" --root-ca-file="$k/ca.crt" \
    --cluster-signing-cert-file="$k/ca.crt" --cluster-signing-key-file="$k/ca.key" --allocate-node-cidrs=false \
    --kube-api-qps=500 --kube-api-burst=1000 --node-monitor-period=2s --node-monitor-grace-period=16s
  define kube-scheduler kube-scheduler --kubeconfig="$LAB_RUN/scheduler.conf" --leader-elect=false
  cat > "$LAB_RUN/Corefile" <<C
.:53 {
  bind $BRIDGE
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $LAB_RUN/admin.conf lab
    ttl 1
  }
  template ANY ANY . {
    rcode NXDOMAIN
  }
}
C
  define dns "$LAB_BIN/dns" -conf "$LAB_RUN/Corefile"
  define volumes python3 "$here/volumes.py" "$API_URL" "$LAB_RUN/keys/ca.crt" "$LAB_RUN/volumes"
}

cluster_ready() {
  [ "$(kubectl get nodes --no-headers 2>/dev/null | grep -cw Ready)" = "$LAB_NODES" ] &&
    kubectl -n default get serviceaccount default >/dev/null 2>&1 &&
    kubectl get storageclass shared node-local >/dev/null 2>&1 &&
    curl -sf http://127.0.0.1:8181/ready >/dev/null
}

# LAB_ENDPOINTS means that the store lives in the caller's network, whose loopback is not ours to touch.
[ -n "${LAB_ENDPOINTS:-}" ] || ip link set lo up
[ "$LAB_CONTROLLERS" = 0 ] || lay_network
make_keys
export KUBECONFIG=$LAB_RUN/admin.conf
say "network and keys made"
# Nodes' containerds start while the control plane does.
for i in $(seq "$LAB_NODES"); do bash "$here/node-power.sh" "$i"; done
define_store
define_apiserver
for program in $(cd "$LAB_RUN/programs" && ls); do start "$program"; done
until api_ready; do all_running; sleep 0.1; done
say "the API server is ready"
if [ "$LAB_CONTROLLERS" = 1 ]; then
  define_controllers
  for program in kube-controller-manager kube-scheduler dns volumes; do start "$program"; done
  until cluster_ready; do all_running; sleep 0.2; done
  say "$LAB_NODES nodes are ready"
fi
touch "$LAB_RUN/ready"
# Process 1 also buries what its children leave; it waits for ever, since programs are stopped and started by tests.
while :; do wait || true; sleep 1; done
