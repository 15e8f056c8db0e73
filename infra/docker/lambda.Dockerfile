# The handlers on AWS Lambda: docker build -f infra/docker/lambda.Dockerfile -t headgate-lambda .
# One image for every function: the entry point is the function's command (headgate.handlers.collect, heal, checkpoint, consume, ...).
FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ cmake make ninja-build pkg-config libcurl4-openssl-dev \
    nlohmann-json3-dev libhiredis-dev libsqlite3-dev libssl-dev libexpat1-dev && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN /source/infra/docker/steps.sh wheel /source /wheels
RUN /source/infra/docker/steps.sh install /wheels/headgate-*.whl /opt/headgate /source/tools/locks/lambda.txt

FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libcurl4 libhiredis0.14 libsqlite3-0 libssl3 libexpat1 \
    ca-certificates && rm -rf /var/lib/apt/lists/* && useradd --system --uid 10001 headgate && install -d /var/task
COPY --from=build /opt/headgate /opt/headgate
COPY infra/docker/steps.sh /opt/headgate/steps.sh
RUN /opt/headgate/steps.sh check /opt/headgate
# Your headgate.toml and modules: COPY headgate.toml my_handlers.py /var/task/
WORKDIR /var/task
ENV PYTHONPATH=/var/task
USER headgate
# Lambda asks no container for its health; whoever runs this elsewhere sees whether the package loads.
HEALTHCHECK --interval=60s --timeout=20s CMD ["/opt/headgate/bin/python", "-c", "import headgate.handlers"]
ENTRYPOINT ["/opt/headgate/bin/python", "-m", "awslambdaric"]
CMD ["headgate.handlers.collect"]
