#!/usr/bin/env bash
# build.sh             builds once what the lab is made of and prints the folder that holds it:
#                      kube (all Kubernetes programs), dns (CoreDNS), helm, and images/*.tar for the nodes
# build.sh --objects   builds the project's own program objects and prints its path
#
# programs/go.mod and go.sum pin Kubernetes, CoreDNS and Helm to one client-go, so that they share most of the compiling.
# Cold: about eight minutes and 3.5 GB of memory on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
need go flock jq tar
[ -x /bin/busybox ] || die "needs /bin/busybox (Debian package busybox-static); tests/setup.sh installs it"

# Without these the programs call themselves v0.0.0, and a chart's kubeVersion constraint would refuse the cluster.
version_flags() {
  local kube helm minor package flags=
  kube=$(cd "$here/programs" && go list -mod=readonly -m -f '{{.Version}}' k8s.io/kubernetes)
  helm=$(cd "$here/programs" && go list -mod=readonly -m -f '{{.Version}}' helm.sh/helm/v4)
  minor=$(cut -d. -f2 <<<"$kube")
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$kube -X $package.gitMajor=1 -X $package.gitMinor=$minor -X $package.gitTreeState=clean"
  done
  for package in pkg/chart/common.k8sVersion pkg/chart/v2/lint/rules.k8sVersion internal/version.kubeClientVersion; do
    flags+=" -X helm.sh/helm/v4/${package}Major=1 -X helm.sh/helm/v4/${package}Minor=$minor"
  done
  echo "$flags -X helm.sh/helm/v4/internal/version.version=$helm"
}

# The sandbox container of every pod, and a shell for test pods: Debian's static busybox with a link per applet.
build_images() {
  local bin=$1 out=$1/images work applet
  work=$(mktemp -d)
  mkdir -p "$out" "$work/pause" "$work/shell/bin" "$work/shell/etc" "$work/shell/tmp"
  mv "$bin/pause" "$work/pause/pause"
  "$here/image.sh" localhost/pause:1 "$work/pause" "$out/pause.tar" /pause
  cp /bin/busybox "$work/shell/bin/busybox"
  for applet in $(/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$work/shell/bin/$applet"
  done
  echo 'root:x:0:0:root:/:/bin/sh' > "$work/shell/etc/passwd"
  chmod 1777 "$work/shell/tmp"
  "$here/image.sh" localhost/shell:1 "$work/shell" "$out/shell.tar" /bin/sh
  rm -rf "$work"
}

build_lab() {
  local bin=$1/bin
  echo "building Kubernetes, CoreDNS and Helm once into $1: about eight minutes on two cores" >&2
  mkdir -p "$bin"
  GO_LDFLAGS=$(version_flags)
  export GO_LDFLAGS
  go_build "$here/programs" "$bin/" ./kube ./dns ./pause helm.sh/helm/v4/cmd/helm
  build_images "$bin"
}

# The project's own test program changes more often than Kubernetes, so it has a key of its own.
build_objects() { mkdir -p "$1/bin"; go_build "$here/programs" "$1/bin/" ./objects; }

case ${1:-} in
'')
  dir=$(once lab "$(key_of "$here"/programs/go.{mod,sum} "$here"/programs/{kube,dns,pause}/main.go "$here/image.sh" <(declare -f version_flags build_images build_lab))" build_lab)
  echo "$dir/bin"
  ;;
--objects)
  dir=$(once lab-objects "$(key_of "$here"/programs/go.{mod,sum} "$here"/programs/objects/*.go <(declare -f build_objects))" build_objects)
  echo "$dir/bin/objects"
  ;;
*) die "usage: build.sh [--objects]" ;;
esac
