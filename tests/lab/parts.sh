# parts.sh     what runs inside the lab's namespaces shares: programs with a pid file and a log, keys, the store, the API server.
#
# To be sourced with LAB_BIN and LAB_RUN set (lab.sh says what each LAB_ variable means).
# Every program is a small script under $LAB_RUN/programs, so that it can be started again later, from another shell, as it was.
# Invariant: a program is ended only by the pid that its own start recorded.

# Where things answer. One API server on the bridge when there are nodes to reach it, else on loopback only.
BRIDGE=10.90.0.1
if [ "$LAB_CONTROLLERS" = 1 ]; then API_HOST=$BRIDGE; else API_HOST=127.0.0.1; fi
API_URL=https://$API_HOST:${LAB_API_PORT:-6443}

say() { echo "$(date +%T.%N | cut -c1-12) $*"; }

# define NAME COMMAND...: records how to run a program; nothing starts yet.
define() {
  local name=$1
  shift
  { echo '#!/bin/bash'; printf 'exec'; printf ' %q' "$@"; echo; } > "$LAB_RUN/programs/$name"
}

running() { [ -f "$LAB_RUN/pids/$1" ] && kill -0 "$(cat "$LAB_RUN/pids/$1")" 2>/dev/null; }

start() {
  running "$1" && { echo "$1 runs already" >&2; return 1; }
  setsid bash "$LAB_RUN/programs/$1" </dev/null >>"$LAB_RUN/log/$1.log" 2>&1 &
  echo $! > "$LAB_RUN/pids/$1"
}

# halt NAME SIGNAL: sends the signal and returns once the program is gone, at most 90 s later (an API server drains its requests for up to 60).
halt() {
  local pid tenths
  pid=$(cat "$LAB_RUN/pids/$1")
  kill -s "$2" "$pid"
  for tenths in $(seq 900); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.1
  done
  echo "$1 (pid $pid) still runs 90 s after SIG$2" >&2
  return 1
}

# A program that ended by itself ends the bring-up at once, with its last words, instead of at a time limit.
all_running() {
  local name
  for name in $(ls "$LAB_RUN/pids"); do
    running "$name" && continue
    say "$name ended by itself; its last lines:"
    tail -n 5 "$LAB_RUN/log/$name.log"
    exit 1
  done
}

# leaf NAME SUBJECT EXTENSION: a key and a certificate signed by the lab's CA.
leaf() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -subj "$2" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile <(echo "$3") -out "$1.crt" 2>/dev/null
}

make_keys() {
  local names=DNS:localhost,IP:127.0.0.1,IP:127.0.0.2,IP:127.0.0.3,IP:127.0.0.4,IP:127.0.0.5
  cd "$LAB_RUN/keys"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=quorate-lab 2>/dev/null
  # serving certificate: every name under which pods, nodes and tests reach the API server
  leaf apiserver /CN=kube-apiserver "subjectAltName=$names,IP:$BRIDGE,IP:10.92.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  leaf to-kubelet /O=system:masters/CN=apiserver-to-kubelet extendedKeyUsage=clientAuth
  # store members are each other's clients too
  leaf store /CN=store "$(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth' "$names")"
  leaf to-store /CN=root extendedKeyUsage=clientAuth
  openssl ecparam -name prime256v1 -genkey -noout -out accounts.key 2>/dev/null
  openssl ec -in accounts.key -pubout -out accounts.pub 2>/dev/null
  # A static token per component stands in for a client certificate each.
  {
    echo 'admin-token,admin,admin,system:masters'
    echo 'controllers-token,system:kube-controller-manager,controllers'
    echo 'scheduler-token,system:kube-scheduler,scheduler'
    echo 'proxy-token,system:kube-proxy,proxy'
    for i in $(seq "$LAB_NODES"); do echo "node$i-token,system:node:node$i,node$i,system:nodes"; done
  } > tokens.csv
  cd /
  for who in admin controllers scheduler proxy $(seq -f 'node%g' "$LAB_NODES"); do kubeconfig "$who"; done
}

kubeconfig() {
  cat > "$LAB_RUN/$1.conf" <<Y
apiVersion: v1
kind: Config
current-context: lab
contexts: [{name: lab, context: {cluster: lab, user: $1}}]
clusters: [{name: lab, cluster: {server: "$API_URL", certificate-authority: "$LAB_RUN/keys/ca.crt"}}]
users: [{name: $1, user: {token: $1-token}}]
Y
}

# The store: somebody's own command, or LAB_MEMBERS members of a server that takes etcd's flags, each on a loopback address of
# its own. Fills STORE_ENDPOINTS; starts nothing.
define_store() {
  local scheme=http i tls=() cluster=
  [ "$LAB_TLS" = 0 ] || scheme=https
  if [ -n "${LAB_ENDPOINTS:-}" ]; then
    STORE_ENDPOINTS=$LAB_ENDPOINTS
    return
  fi
  if [ -n "${LAB_STORE:-}" ]; then
    define store-1 env "STORE_DIR=$LAB_RUN/store" bash -c "$LAB_STORE"
    STORE_ENDPOINTS=$scheme://127.0.0.1:2379
    return
  fi
  if [ "$LAB_TLS" = 1 ]; then
    local k=$LAB_RUN/keys
    tls=(--client-cert-auth --trusted-ca-file "$k/ca.crt" --cert-file "$k/store.crt" --key-file "$k/store.key"
      --peer-client-cert-auth --peer-trusted-ca-file "$k/ca.crt" --peer-cert-file "$k/store.crt" --peer-key-file "$k/store.key")
  fi
  for i in $(seq "$LAB_MEMBERS"); do cluster+="${cluster:+,}store-$i=$scheme://127.0.0.$i:2380"; done
  STORE_ENDPOINTS=
  for i in $(seq "$LAB_MEMBERS"); do
    define "store-$i" "$LAB_RUN/path/etcd" --name "store-$i" --data-dir "$LAB_RUN/store/$i" \
      --listen-client-urls "$scheme://127.0.0.$i:2379" --advertise-client-urls "$scheme://127.0.0.$i:2379" \
      --listen-peer-urls "$scheme://127.0.0.$i:2380" --initial-advertise-peer-urls "$scheme://127.0.0.$i:2380" \
      --initial-cluster "$cluster" --initial-cluster-token quorate-lab --initial-cluster-state new "${tls[@]}"
    STORE_ENDPOINTS+="${STORE_ENDPOINTS:+,}$scheme://127.0.0.$i:2379"
  done
}

# The API server's half of the store's TLS: the caller's files when it brought its own store, else the lab's.
store_client_flags() {
  case $STORE_ENDPOINTS in https:*) ;; *) return ;; esac
  local k=$LAB_RUN/keys
  echo "--etcd-cafile=${LAB_CA:-$k/ca.crt} --etcd-certfile=${LAB_CERT:-$k/to-store.crt} --etcd-keyfile=${LAB_KEY:-$k/to-store.key}"
}

define_apiserver() {
  local k=$LAB_RUN/keys bind=0.0.0.0
  [ "$LAB_CONTROLLERS" = 1 ] || bind=127.0.0.1
  # shellcheck disable=SC2046,SC2086 -- both are lists of flags without spaces of their own: lab.sh refuses such a run folder
  define kube-apiserver kube-apiserver --etcd-servers="$STORE_ENDPOINTS" $(store_client_flags) \
    --bind-address=$bind --secure-port="${LAB_API_PORT:-6443}" --advertise-address=$BRIDGE \
    --tls-cert-file="$k/apiserver.crt" --tls-private-key-file="$k/apiserver.key" \
    --client-ca-file="$k/ca.crt" --token-auth-file="$k/tokens.csv" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --kubelet-client-certificate="$k/to-kubelet.crt" --kubelet-client-key="$k/to-kubelet.key" --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-signing-key-file="$k/accounts.key" --service-account-key-file="$k/accounts.pub" \
    --service-cluster-ip-range=10.92.0.0/16 \
    --default-not-ready-toleration-seconds=15 --default-unreachable-toleration-seconds=15 ${LAB_API_FLAGS:-}
}

api_ready() {
  curl -sf -m 5 --cacert "$LAB_RUN/keys/ca.crt" -H 'Authorization: Bearer admin-token' "$API_URL/readyz" >/dev/null
}
