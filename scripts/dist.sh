#!/usr/bin/env bash
# dist.sh BIN OUT     fills OUT with the root file system of the image: what the Dockerfile's last stage copies.
#
# In: BIN, a folder with quorate, quoratectl and quorate-operator. Out: OUT/usr/bin with the three, stripped of debug
# information, and links under etcd's names; the shared libraries they load, the loader, what name resolution reads, the
# authorities that object storage is checked against, and a passwd entry for uid 65532. OUT is replaced.
# The programs are linked dynamically on purpose: a static glibc cannot resolve the names of pods in every setting.
set -euo pipefail
[ $# = 2 ] || { echo "usage: dist.sh BIN OUT" >&2; exit 2; }
bin=$1 out=$2
die() { echo "dist.sh: $*" >&2; exit 1; }
programs=(quorate quoratectl quorate-operator)
for program in "${programs[@]}"; do [ -x "$bin/$program" ] || die "$bin/$program is missing: build it first"; done
if [ -e "$out" ] && [ ! -e "$out/usr/bin/quorate" ] && [ -n "$(ls -A "$out")" ]; then die "$out is not a folder that this script filled, so it is not replaced"; fi
rm -rf "$out"
mkdir -p "$out"/{usr/bin,etc/ssl/certs,tmp,var/lib/quorate}
chmod 1777 "$out/tmp"
chmod 0700 "$out/var/lib/quorate"

for program in "${programs[@]}"; do
  strip --strip-debug -o "$out/usr/bin/$program" "$bin/$program"
  chmod 0755 "$out/usr/bin/$program"
done
# By these names the programs show etcd's face, which kubeadm's manifests and people's scripts call.
ln -s quorate "$out/usr/bin/etcd"
ln -s quorate "$out/usr/bin/etcdutl"
ln -s quoratectl "$out/usr/bin/etcdctl"

# add FILE: a library under its own path, its links resolved, so that the loader finds it where it looks.
add() { [ -e "$out$1" ] || install -D -m 0755 "$(readlink -f "$1")" "$out$1"; }
for program in "${programs[@]}"; do
  libraries=$(ldd "$bin/$program") || die "$bin/$program is not a dynamic program"
  ! grep -q 'not found' <<<"$libraries" || die "$program lacks a library: $(grep 'not found' <<<"$libraries")"
  while read -r library; do add "$library"; done < <(grep -oE '/[^ ]+' <<<"$libraries")
done
# Since 2.34 glibc holds the files and dns sources itself; an older one loads them from these.
libc=$(ldd "$bin/quorate" | awk '$1 == "libc.so.6" {print $3}')
for library in libnss_files.so.2 libnss_dns.so.2 libresolv.so.2; do
  [ ! -e "$(dirname "$libc")/$library" ] || add "$(dirname "$libc")/$library"
done
echo 'hosts: files dns' > "$out/etc/nsswitch.conf"
printf 'root:x:0:0:root:/:/sbin/nologin\nquorate:x:65532:65532:Quorate:/var/lib/quorate:/sbin/nologin\n' > "$out/etc/passwd"
printf 'root:x:0:\nquorate:x:65532:\n' > "$out/etc/group"
authorities=/etc/ssl/certs/ca-certificates.crt
[ -s "$authorities" ] || die "$authorities is missing: install ca-certificates"
install -m 0644 "$authorities" "$out/etc/ssl/certs/ca-certificates.crt"
