# `just` lists what there is.
default:
    @just --list

# what CI runs before the slow parts
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo test

# everything, from the packages up
ci:
    .ci/run

# see it work
quickstart:
    cargo run --example quickstart

# the release binary without a shared library, in target/HOST/release; glibc 2.36 or newer to build it
static:
    RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs" cargo build --release --locked --bin mcp-auth-proxy --target "$(rustc -vV | sed -n 's/^host: //p')"

# a release binary laid out for a workload (PGO), say `just pgo benches/proxy/run --short`
pgo +command:
    .ci/pgo {{command}}

# real clients, conformance suite, real browser; each needs the release binaries
release:
    cargo build --release --bin mcp-auth-proxy
    cargo build --release --example standin --example profile
interop: release
    tests/interop/run
conformance: release
    tests/conformance/run
browser: release
    tests/browser/run
h2spec: release
    tests/h2spec/run

# every fuzz target for a minute, on any Rust
fuzz:
    fuzz/run --seconds 60

# requests as h11 and nginx read them, against what went on
differential: release
    tests/differential/run

# all tests with a real PostgreSQL, PgBouncer, Redis, Cluster and Sentinel around them
backends:
    tests/backends/run cargo test

# the figures of docs/scaling.md; takes ten minutes, and two cores of its own
scale:
    cargo build --release --bin mcp-auth-proxy
    MCP_AUTH_PROXY=target/release/mcp-auth-proxy tests/backends/run cargo test --test scale -- --ignored --nocapture --test-threads 1

# what each part on the path of a request costs by itself, and how often it asks for memory
parts:
    cargo bench --features fuzzing --bench parts

# the table of docs/security.md, from what tests say they hold
security:
    UPDATE=1 cargo test --test catalogue

# licences, advisories, doubles
deny:
    cargo deny check
