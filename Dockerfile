# One file, two images: plain for the CPU, and with the arguments of docker-compose.yml's worker-gpu for NVIDIA's GPUs.
# Packages are those of requirements.lock, checked by hash. The service runs as an unprivileged user.
ARG BUILD_IMAGE=python:3.12-slim-bookworm
ARG RUN_IMAGE=python:3.12-slim-bookworm

FROM ${BUILD_IMAGE} AS build
ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -c "import ensurepip" 2>/dev/null || { apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-dev build-essential; }
RUN python3 -m venv /opt/assay
WORKDIR /source
COPY requirements.lock requirements-build.lock ./
RUN /opt/assay/bin/pip install --require-hashes -r requirements-build.lock \
 && /opt/assay/bin/pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY engines engines
COPY migrations migrations
COPY devstack devstack
COPY worker worker
RUN /opt/assay/bin/pip install --no-deps --no-build-isolation . \
 && if [ -n "$EXTRAS" ]; then /opt/assay/bin/pip install ".[$EXTRAS]"; fi

FROM ${RUN_IMAGE}
RUN command -v python3 >/dev/null || { apt-get update && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*; }
RUN useradd --system --uid 10001 --create-home assay
COPY --from=build /opt/assay /opt/assay
ENV PATH=/opt/assay/bin:$PATH PYTHONUNBUFFERED=1 ASSAY_OBSERVE__HOST=0.0.0.0 ASSAY_OBSERVE__PORT=9464
USER assay
WORKDIR /home/assay
RUN mkdir evidence
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9464/livez', timeout=2)"]
ENTRYPOINT ["assay"]
CMD ["worker"]
