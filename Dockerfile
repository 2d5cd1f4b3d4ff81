# syntax=docker/dockerfile:1
# The image of all three programs: server, command line, operator.
#
#   docker build -t quorate .                                     compiles everything (RocksDB's C++ included: half an hour)
#   make dist && docker build --build-context dist=dist .         takes a folder that `make dist` filled; the same for buildah
#   make image                                                    the same last stage, packed without any container engine
#
# The last stage holds what the programs need and nothing else: no shell, no package manager. scripts/pack-image.py reads that
# stage too, and refuses instructions that it does not know, so the tests run what this file describes.

FROM rust:1.95.0-bookworm AS build
ARG TARGETPLATFORM
WORKDIR /src
RUN apt-get update \
 && apt-get install -y --no-install-recommends clang libclang-dev cmake ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=quorate-target-$TARGETPLATFORM \
    --mount=type=cache,target=/cache,id=quorate-rocksdb \
    export QUORATE_CACHE=/cache ROCKSDB_STATIC=1 && ROCKSDB_LIB_DIR="$(scripts/rocksdb.sh)" && export ROCKSDB_LIB_DIR \
 && cargo build --profile dist --locked -p quorate-server -p quoratectl -p quorate-operator --bins \
 && scripts/dist.sh target/dist /dist

# A folder of the caller's takes this stage's place: --build-context dist=FOLDER.
FROM scratch AS dist
COPY --from=build /dist /

FROM scratch
COPY --from=dist / /
COPY --from=dist --chown=65532:65532 /var/lib/quorate /var/lib/quorate
LABEL org.opencontainers.image.title="Quorate" org.opencontainers.image.description="A replicated key-value store that speaks etcd's v3 API" org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/usr/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
WORKDIR /var/lib/quorate
VOLUME /var/lib/quorate
EXPOSE 2379 2380 2381
ENTRYPOINT ["/usr/bin/quorate"]
