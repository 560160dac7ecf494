# A service around saved runs, without PyTorch. Build it with:
#
#   docker build -t headstart-serve .
#
# and start it with a run folder and a file that holds a token (see `headstart serve --help`):
#
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges -p 8000:8000 \
#     -v "$PWD/runs/photos:/runs/photos:ro" -v "$PWD/token.txt:/run/secrets/headstart_token:ro" headstart-serve /runs/photos
#
# Both mounted paths must be readable for the user 10001.

FROM python:3.12-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/headstart \
    && /opt/headstart/bin/pip install --no-cache-dir --disable-pip-version-check ".[serve]"

FROM python:3.12-slim-bookworm
RUN groupadd --gid 10001 headstart \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin headstart
COPY --from=build /opt/headstart /opt/headstart
# The root of the image may be read-only: whatever is written goes below /tmp.
ENV PATH=/opt/headstart/bin:/usr/local/bin:/usr/bin:/bin \
    HEADSTART_CACHE=/tmp/headstart \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# As a number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /runs
EXPOSE 8000
# `http.client` takes no notice of proxies, and every answer but 200 is a failure.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["headstart", "serve", "--host", "0.0.0.0", "--port", "8000", "--token-file", "/run/secrets/headstart_token"]
CMD ["/runs/model"]
