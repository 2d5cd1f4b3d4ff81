"""volumes.py API_URL CA_FILE FOLDER     gives the lab's volume claims a folder each, as a storage provider would.

Two classes: `shared` is bound at once and any node may mount it (the nodes share one file system), like a network disk;
`node-local` is bound once the pod is placed and pins it to that node, like a local disk. Volumes are of type `local`, which
unlike hostPath obeys fsGroup, so pods that are not root can write. A released volume and its folder are deleted, unless its reclaim
policy is Retain. `shared` volumes grow when their claims ask for more; a folder has no size, so only the numbers change.

One loop compares what is claimed with what exists, every POLL seconds; a failed call is tried again in the next round.
"""
import json
import os
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request

API, CA_FILE, FOLDER = sys.argv[1:4]
PROVISIONER = "quorate.test/folder"
POLL = 0.3
SELECTED_NODE = "volume.kubernetes.io/selected-node"
TLS = ssl.create_default_context(cafile=CA_FILE)
# Python's newest default wants an authority key id, which the lab's short-lived certificates do not carry.
TLS.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)


def call(method, path, body=None, kind="application/json"):
    request = urllib.request.Request(API + path, method=method, data=json.dumps(body).encode() if body else None)
    request.add_header("Authorization", "Bearer admin-token")
    request.add_header("Content-Type", kind)
    with urllib.request.urlopen(request, context=TLS, timeout=10) as answer:
        return json.load(answer)


def merge(path, body):
    call("PATCH", path, body, "application/merge-patch+json")


def create(path, body):
    try:
        call("POST", path, body)
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it exists: an earlier round made it
            raise


def make_class(name, binding, default):
    create("/apis/storage.k8s.io/v1/storageclasses", {
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": binding,
        "allowVolumeExpansion": name == "shared"})


def provide(claim):
    meta, spec = claim["metadata"], claim["spec"]
    label, value = "kubernetes.io/os", "linux"
    if spec["storageClassName"] == "node-local":
        label, value = "kubernetes.io/hostname", meta.get("annotations", {}).get(SELECTED_NODE)
        if not value:
            return  # its pod has no node yet
    name = "pvc-" + meta["uid"]
    path = os.path.join(FOLDER, name)
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o777)
    create("/api/v1/persistentvolumes", {
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"], "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec["storageClassName"], "local": {"path": path},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta["namespace"],
                         "name": meta["name"], "uid": meta["uid"]},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": label, "operator": "In", "values": [value]}]}]}}}})


def grow(claim):
    want = claim["spec"]["resources"]["requests"]["storage"]
    have = claim["status"].get("capacity", {}).get("storage")
    if have and have != want:
        merge("/api/v1/persistentvolumes/" + claim["spec"]["volumeName"], {"spec": {"capacity": {"storage": want}}})
        path = "/api/v1/namespaces/%s/persistentvolumeclaims/%s/status" % (claim["metadata"]["namespace"], claim["metadata"]["name"])
        merge(path, {"status": {"capacity": {"storage": want}}})


def reclaim(volume):
    shutil.rmtree(volume["spec"]["local"]["path"], ignore_errors=True)
    call("DELETE", "/api/v1/persistentvolumes/" + volume["metadata"]["name"])


def one_round(have_classes):
    if not have_classes:
        make_class("shared", "Immediate", "true")
        make_class("node-local", "WaitForFirstConsumer", "false")
    for claim in call("GET", "/api/v1/persistentvolumeclaims")["items"]:
        if claim["status"].get("phase") == "Pending" and claim["spec"].get("storageClassName") in ("shared", "node-local"):
            provide(claim)
        if claim["status"].get("phase") == "Bound" and claim["spec"].get("storageClassName") == "shared":
            grow(claim)
    for volume in call("GET", "/api/v1/persistentvolumes")["items"]:
        provided = volume["metadata"].get("annotations", {}).get("pv.kubernetes.io/provisioned-by") == PROVISIONER
        going = "deletionTimestamp" in volume["metadata"]
        deletes = volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        if provided and deletes and not going and volume.get("status", {}).get("phase") == "Released":
            reclaim(volume)


def main():
    have_classes = False
    while True:
        try:
            one_round(have_classes)
            have_classes = True
        except (OSError, KeyError) as error:  # urllib's errors are OSErrors
            print("round failed:", error, flush=True)
        time.sleep(POLL)


main()
