# docker build -t mcp-auth-proxy .
# With podman or buildah add --format docker: the OCI format has no place for HEALTHCHECK.
#
# Mount the configuration at /etc/mcp-auth-proxy/proxy.yaml; in it, `listen: 0.0.0.0:8000`. What must survive
# is in /var/lib/mcp-auth-proxy: the store and its key. examples/compose shows both.

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# Without a shared library, which takes a MiB less of memory; `just static` does the same.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs" \
        cargo build --release --locked --bin mcp-auth-proxy --target "$target" \
    && cp "target/$target/release/mcp-auth-proxy" /usr/local/bin/

FROM debian:bookworm-slim
# GitHub's certificate, and those of https upstreams, are checked against the system's trust store.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && groupadd --gid 10001 mcp-auth-proxy \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /var/lib/mcp-auth-proxy \
        --shell /usr/sbin/nologin mcp-auth-proxy \
    && install -d /etc/mcp-auth-proxy \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/mcp-auth-proxy
COPY --from=build /usr/local/bin/mcp-auth-proxy /usr/local/bin/mcp-auth-proxy

# A number, because Kubernetes cannot tell from a name that it is not root.
USER 10001:10001
# A relative file name in `store` lands here.
WORKDIR /var/lib/mcp-auth-proxy
VOLUME /var/lib/mcp-auth-proxy
EXPOSE 8000
STOPSIGNAL SIGTERM
# There is no curl in here; bash talks TCP by itself. With `tls:` it gets 400 for not speaking https, which is a
# sign of life too.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8000 && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r -t 3 status <&3 && [[ $status == 'HTTP/1.1 '[24]00* ]] || exit 1"]
ENTRYPOINT ["mcp-auth-proxy"]
CMD ["--config", "/etc/mcp-auth-proxy/proxy.yaml"]
