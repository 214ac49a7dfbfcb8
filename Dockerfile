# The service in an image: the one binary, as nobody in particular, without a shell.
#
#   docker build -t runledger .
#   docker run --rm -p 8080:8080 -v runledger-data:/data -e RUNLEDGER_API_KEYS=change-me runledger

# The version is `rust-version` of Cargo.toml, the Debian that of the image at the end: the binary
# uses its C library.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src

# Dependencies alone first: a layer that stays until Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
# A member of the workspace has to be there; it is not built.
COPY bench/Cargo.toml bench/
RUN mkdir src bench/src \
 && touch src/lib.rs \
 && echo 'fn main() {}' | tee src/main.rs > bench/src/main.rs \
 && cargo build --locked --profile dist --bin runledger \
 && cargo clean --locked --profile dist --package runledger \
 && rm -r src

COPY migrations migrations
COPY src src
RUN cargo build --locked --profile dist --bin runledger \
 && mkdir /data

# The binary alone, for releases: docker build --target binary --output . .
FROM scratch AS binary
COPY --from=build /src/target/dist/runledger /runledger

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="Runledger" \
      org.opencontainers.image.description="Runs LLM agents as a durable service over HTTP and SSE" \
      org.opencontainers.image.source="https://github.com/runledger/runledger" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=binary /runledger /usr/local/bin/runledger

# A new volume takes over the owner of the folder that it covers.
COPY --from=build --chown=65532:65532 /data /data
VOLUME /data
WORKDIR /data

# All addresses: the container's own are reached from outside. So keys are asked for, at the start
# and of every request.
ENV RUNLEDGER_LISTEN=0.0.0.0:8080 \
    RUNLEDGER_DATA_DIR=/data
EXPOSE 8080

# In numbers, so that an orchestrator can see that it is not root.
USER 65532:65532
STOPSIGNAL SIGTERM

# Whether the process lives, and no more: a restart doesn't bring back a database that is away.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["/usr/local/bin/runledger", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/runledger"]
