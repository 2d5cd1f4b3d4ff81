#!/usr/bin/env python3
"""pack-image.py NAME:TAG DIST OUT.tar     builds the Dockerfile's last stage without a container engine.

In: the repository's Dockerfile and DIST, the folder that stands for its stage `dist`. Out: an OCI image archive, which
`ctr images import`, `docker load` and `skopeo` read. Each COPY is a layer. The same folder gives the same bytes: times are
the epoch, owners are as the Dockerfile says.

Invariant: an instruction or option that is not understood is an error, so the image never differs from what a container
engine would make of the same lines.
"""
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shlex
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def fail(text):
    sys.exit("pack-image.py: " + text)


def last_stage(path):
    """The instructions after the last FROM, which must be `FROM scratch`."""
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file.read().replace("\\\n", " ").splitlines() if line.strip() and not line.lstrip().startswith("#")]
    instructions = [(word.upper(), rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines)]
    start = max(i for i, (word, _) in enumerate(instructions) if word == "FROM")
    if instructions[start][1] != "scratch":
        fail("the last stage does not start FROM scratch")
    return instructions[start + 1:]


def copy_arguments(rest):
    """COPY's source and target folders and the owner."""
    owner, words = (0, 0), []
    for word in shlex.split(rest):
        if word.startswith("--chown="):
            if not re.fullmatch(r"--chown=\d+:\d+", word):
                fail(f"{word}: only numbers, the image has no user database yet when it is copied")
            owner = tuple(int(part) for part in word[len("--chown="):].split(":"))
        elif word.startswith("--") and word != "--from=dist":
            fail(f"COPY {word} is not understood")
        elif word != "--from=dist":
            words.append(word)
    if "--from=dist" not in rest or len(words) != 2 or not all(word.startswith("/") for word in words):
        fail(f"COPY {rest}: only one absolute path to another, from the stage dist")
    return words[0], words[1], owner


def layer(dist, source, target, owner):
    """The uncompressed tar of one COPY: a folder's content under the target's name."""
    root = os.path.join(dist, source.lstrip("/"))
    if not os.path.isdir(root):
        fail(f"{root} is not a folder")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        def add(path, name):
            info = tar.gettarinfo(path, arcname=name)
            info.uid, info.gid, info.uname, info.gname, info.mtime = owner[0], owner[1], "", "", 0
            if info.isreg():
                with open(path, "rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info)
        if target != "/":
            add(root, target.lstrip("/"))
        for folder, folders, files in os.walk(root):
            folders.sort()
            for name in sorted(folders + files):
                path = os.path.join(folder, name)
                add(path, os.path.normpath(os.path.join(target, os.path.relpath(path, root))).lstrip("/"))
    return buffer.getvalue()


def assignments(rest):
    """KEY=VALUE words; LABEL and ENV share them."""
    pairs = [word.partition("=") for word in shlex.split(rest)]
    if not all(equals for _, equals, _ in pairs):
        fail(f"{rest}: only KEY=VALUE")
    return {key: value for key, _, value in pairs}


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: pack-image.py NAME:TAG DIST OUT.tar")
    name, dist, out = sys.argv[1:]
    dockerfile = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "Dockerfile")
    config, layers = {"Env": [], "Labels": {}}, []
    for word, rest in last_stage(dockerfile):
        match word:
            case "COPY":
                layers.append(layer(dist, *copy_arguments(rest)))
            case "ENV":
                config["Env"] += [f"{key}={value}" for key, value in assignments(rest).items()]
            case "LABEL":
                config["Labels"].update(assignments(rest))
            case "USER":
                config["User"] = rest
            case "WORKDIR":
                config["WorkingDir"] = rest
            case "VOLUME":
                config["Volumes"] = {path: {} for path in rest.split()}
            case "EXPOSE":
                config["ExposedPorts"] = {f"{port}/tcp": {} for port in rest.split()}
            case "ENTRYPOINT":
                config["Entrypoint"] = json.loads(rest)
            case _:
                fail(f"the instruction {word} is not understood")

    blobs = {}

    def blob(data, kind):
        blobs[digest_of(data)] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest_of(data), "size": len(data)}

    def document(value, kind):
        return blob(json.dumps(value, sort_keys=True).encode(), kind)

    manifest = document({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": document({
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()), "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in layers]}}, "config.v1+json"),
        "layers": [blob(gzip.compress(data, compresslevel=1, mtime=0), "layer.v1.tar+gzip") for data in layers]}, "manifest.v1+json")
    manifest["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
             "index.json": json.dumps({"schemaVersion": 2, "manifests": [manifest]}, sort_keys=True).encode()}
    files.update({"blobs/" + digest.replace(":", "/"): data for digest, data in sorted(blobs.items())})
    with tarfile.open(out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    print(f"{name} {manifest['digest']}")


main()
