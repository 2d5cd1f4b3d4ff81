#!/usr/bin/env bash
# setup.sh     installs the Debian packages that the scripts under tests/ need, if they are missing. Safe to run again and again.
#
# Go and Rust are not taken from Debian, whose releases are too old; their absence is reported at the end.
set -euo pipefail
packages=(
  curl jq openssl python3 util-linux iproute2 procps        # every script
  containerd runc containernetworking-plugins iptables     # the lab's nodes
  nftables e2fsprogs                                        # robustness: cut and lossy networks, disks of members
  busybox-static                                            # the lab's test image
)
missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { echo "setup.sh: needs root to install: ${missing[*]}" >&2; exit 1; }
  # Packages must not start services here: the lab runs a containerd of its own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
  fi
  # The package lists of an old image may name files that are gone, so they are fetched anew only if the first try fails.
  install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2; }
  install || { apt-get update -qq >&2 && install; }
fi
for program in go cargo; do
  command -v "$program" >/dev/null || { echo "setup.sh: $program is not in PATH; install it from its own site" >&2; exit 1; }
done
echo "everything is installed"
