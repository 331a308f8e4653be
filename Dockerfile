# The server on CPUs. docs/serving.md says how it is built and run.
# For builds that are the same next year, name the base by its digest: python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY exporter exporter
COPY quantization quantization
COPY runtimes runtimes
COPY validation validation
# All there is to install, ours included, in the versions that were tested together.
RUN python -m pip wheel --no-cache-dir --disable-pip-version-check \
    --constraint constraints.txt --wheel-dir /wheels ".[cpu,serve]"

FROM ${BASE}
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# The wheels are lent for this step, and no layer keeps them.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --disable-pip-version-check --no-compile \
    --no-index --find-links /wheels "wuerstchen-export[cpu,serve]"
# A number: orchestrators that refuse root cannot look a name up.
USER 10001:10001
WORKDIR /
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# Beyond one's own machine, which a container is, there is no serving without keys.
ENTRYPOINT ["python", "-m", "runtimes", "serve", "--host", "0.0.0.0", "--port", "8000", "--api-key-file", "/run/secrets/api-keys"]
CMD ["/bundle"]
