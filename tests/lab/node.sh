#!/usr/bin/env bash
# node.sh I     node I of the lab: containerd, kubelet and kube-proxy inside mount, UTS, IPC, PID and network namespaces.
#
# Nothing outside these namespaces is written but the run folder and this node's cgroups. Ends when one of the three ends.
set -euo pipefail
i=$1 home=$LAB_RUN/node$1
export PATH=$LAB_RUN/path:$PATH
mount --make-rprivate /
hostname "node$i"
mount -t tmpfs tmpfs /run
mkdir -p "$home" /run/containerd

# These paths are fixed inside the programs: each node sees a folder of its own there.
for fixed in /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log/pods /var/log/containers /opt/cni; do
  mkdir -p "$fixed" "$home$fixed"
  mount --bind "$home$fixed" "$fixed"
done
echo 'nameserver 10.90.0.1' > "$home/resolv.conf"
echo "127.0.0.1 localhost
10.90.0.$((10 + i)) node$i" > "$home/hosts"
mount --bind "$home/resolv.conf" /etc/resolv.conf
mount --bind "$home/hosts" /etc/hosts
# kubelet insists on setting these for the whole machine; it gets plain files to set instead.
for setting in kernel/panic kernel/panic_on_oops vm/overcommit_memory; do
  cp "/proc/sys/$setting" "$home/$(basename "$setting")"
  mount --bind "$home/$(basename "$setting")" "/proc/sys/$setting"
done
mount --make-rshared /
sysctl -qw net.ipv4.ip_forward=1
iptables -P FORWARD ACCEPT

# A cgroup for the node in every hierarchy (v1), or below the unified one. What a power-off left behind is removed first:
# kubelet would spend seconds on each dead container's cgroup.
own_cgroup() {
  find "$1/$LAB_CGROUP/node$i" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true
  mkdir -p "$1/$LAB_CGROUP/node$i"
}
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  own_cgroup /sys/fs/cgroup
  for above in /sys/fs/cgroup "/sys/fs/cgroup/$LAB_CGROUP" "/sys/fs/cgroup/$LAB_CGROUP/node$i"; do
    for controller in cpu cpuset memory pids; do echo "+$controller" > "$above/cgroup.subtree_control"; done
  done
else
  for hierarchy in /sys/fs/cgroup/*/; do own_cgroup "${hierarchy%/}"; done
  # version 1 gives a new cpuset no CPUs and no memory nodes
  for file in cpuset.cpus cpuset.mems; do
    for group in "$LAB_CGROUP" "$LAB_CGROUP/node$i"; do cat "/sys/fs/cgroup/cpuset/$file" > "/sys/fs/cgroup/cpuset/$group/$file"; done
  done
fi

mkdir -p "$home/cni"
cat > "$home/cni/10-lab.conflist" <<J
{"cniVersion": "0.4.0", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.91.$i.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc may not lower the sandbox's score, and no pod would start.
cat > "$home/containerd.toml" <<T
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$home/cni"
T
containerd --config "$home/containerd.toml" >>"$LAB_RUN/log/containerd$i.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for image in "$LAB_BIN"/images/*.tar; do ctr -n k8s.io images import "$image" >/dev/null; done

# The lease is renewed every 2 s and the controllers wait 16 s: quick to notice a dead node, slow enough for a busy machine.
cat > "$home/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $LAB_RUN/keys/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$LAB_CGROUP/node$i
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [10.90.0.1]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
nodeLeaseDurationSeconds: 8
nodeStatusUpdateFrequency: 2s
nodeStatusReportFrequency: 60s
imageGCHighThresholdPercent: 100    # imported images could not be pulled again
evictionHard: {memory.available: 100Mi, nodefs.available: 200Mi, imagefs.available: 200Mi}
Y
cat > "$home/proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
hostnameOverride: node$i
clientConnection: {kubeconfig: $LAB_RUN/proxy.conf}
clusterCIDR: 10.91.0.0/16
detectLocalMode: ClusterCIDR
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}    # not ours to set in this namespace
Y
until curl -sk https://10.90.0.1:6443/livez >/dev/null; do sleep 0.2; done
kube-proxy --config "$home/proxy.yaml" >>"$LAB_RUN/log/kube-proxy$i.log" 2>&1 &
kubelet --config "$home/kubelet.yaml" --kubeconfig "$LAB_RUN/node$i.conf" --hostname-override "node$i" --node-ip "10.90.0.$((10 + i))" \
  --node-labels "topology.kubernetes.io/zone=zone$i" >>"$LAB_RUN/log/kubelet$i.log" 2>&1 &
wait -n || true
echo "a program of node$i ended; its last words are in containerd$i.log, kubelet$i.log or kube-proxy$i.log"
exit 1
