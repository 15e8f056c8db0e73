# headgate serve: docker build -f infra/docker/serve.Dockerfile -t headgate .
FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ cmake ninja-build pkg-config libcurl4-openssl-dev \
    nlohmann-json3-dev libhiredis-dev libsqlite3-dev libssl-dev libexpat1-dev && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN /source/infra/docker/steps.sh wheel /source /wheels
RUN /source/infra/docker/steps.sh install /wheels/headgate-*.whl /opt/headgate /source/tools/locks/serve.txt

FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libcurl4 libhiredis0.14 libsqlite3-0 libssl3 libexpat1 \
    ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data headgate && install -d -o headgate -g headgate /data
COPY --from=build /opt/headgate /opt/headgate
COPY infra/docker/steps.sh /opt/headgate/steps.sh
RUN /opt/headgate/steps.sh check /opt/headgate
USER headgate
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=3 CMD ["/opt/headgate/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/headgate/bin/headgate"]
CMD ["serve", "--port", "8080"]
