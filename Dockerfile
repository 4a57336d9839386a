# The server of an engine file, or of a model folder:
#
#   docker build -t spikeformers .
#   docker run --rm -p 8000:8000 -v "$PWD":/models:ro -e SPIKEFORMERS_API_KEY=... spikeformers /models/mine.engine
#
# Other machines can reach the container, so that the server asks for a key (--no-auth: it does not).
#
# For a build of torch without CUDA, which is far smaller, name PyTorch's index of such builds:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=... -t spikeformers .

FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /src

FROM python:3.12-slim
ARG PIP_EXTRA_INDEX_URL=""
COPY constraints.txt /wheels/constraints.txt
COPY --from=build /wheels /wheels
# The second line fails if the wheel has no kernels, without which nothing is served.
RUN pip install --no-cache-dir -c /wheels/constraints.txt "$(ls /wheels/*.whl)[serve]" \
    && python -c "from spikeformers.kernels import choose; print('kernels:', choose())" \
    && useradd --create-home server
USER server
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["spikeformers", "serve", "--host", "0.0.0.0"]
