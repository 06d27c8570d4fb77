# brainscale on one machine, with the tested versions of requirements.lock. Build and run it in the project's folder:
#   docker build -t brainscale .
#   docker run --rm --shm-size=4g -u "$(id -u):$(id -g)" -v "$PWD/data:/data" brainscale index /data/scans --out /data/scans.parquet
# For a cluster, see configs/cluster/Dockerfile.
FROM python:3.11-slim AS wheel
WORKDIR /build
COPY pyproject.toml README.md LICENSE requirements-dev.lock ./
COPY brainscale brainscale
COPY configs configs
COPY jobs jobs
RUN pip install --no-cache-dir -c requirements-dev.lock hatchling \
 && pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.11-slim
COPY requirements.lock /tmp/
RUN pip install --no-cache-dir --require-hashes -r /tmp/requirements.lock
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir --no-deps /tmp/wheels/*.whl && mkdir -m 1777 /work
# Any user may run it: what Ray and matplotlib keep goes here, as does a relative --out.
ENV HOME=/work
WORKDIR /work
ENTRYPOINT ["brainscale"]
