#!/usr/bin/env bash
# image.sh NAME:TAG ROOTFS OUT.tar [COMMAND...]
#
# Packs the folder ROOTFS as a one-layer OCI image archive, which `ctr images import` and buildah read. COMMAND becomes the
# entrypoint. Needs no container engine. The same folder gives the same bytes: owners and times are fixed.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: image.sh NAME:TAG ROOTFS OUT.tar [COMMAND...]" >&2; exit 2; }
name=$1 rootfs=$2 out=$(realpath -m "$3")
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
blobs=$work/blobs/sha256
mkdir -p "$blobs"

# blob FILE: moves FILE among the blobs and prints `"digest": "...", "size": N`, the two fields of every reference to it.
blob() {
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1) size=$(stat -c %s "$1")
  mv "$1" "$blobs/$digest"
  printf '"digest": "sha256:%s", "size": %d' "$digest" "$size"
}

tar -C "$rootfs" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer" .
layer=$(blob "$work/layer")
entrypoint=null
[ $# = 0 ] || entrypoint=$(printf '%s\n' "$@" | jq -R . | jq -cs .)
arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
diff_id=$(sed -E 's/"digest": ("[^"]*").*/\1/' <<<"$layer")
cat > "$work/config" <<J
{"architecture": "$arch", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [$diff_id]},
 "config": {"Entrypoint": $entrypoint, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}}
J
config=$(blob "$work/config")
cat > "$work/manifest" <<J
{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
 "config": {"mediaType": "application/vnd.oci.image.config.v1+json", $config},
 "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", $layer}]}
J
manifest=$(blob "$work/manifest")
cat > "$work/index.json" <<J
{"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", $manifest,
 "annotations": {"io.containerd.image.name": "$name", "org.opencontainers.image.ref.name": "${name##*:}"}}]}
J
echo '{"imageLayoutVersion": "1.0.0"}' > "$work/oci-layout"
tar -C "$work" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$out" oci-layout index.json blobs
