# memp-mcp for a team: serves streamable HTTP at /mcp, asks for tokens. See "Large memories and teams" in the README.
FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/memp
# First, and without CUDA: sentence-transformers takes the torch that is there. A mirror: --build-arg TORCH_INDEX=https://…
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/memp/bin/pip install --index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE /src/
COPY memp_mcp /src/memp_mcp
RUN /opt/memp/bin/pip install "/src[team]"

FROM python:3.12-slim
COPY --from=build /opt/memp /opt/memp
RUN useradd --create-home --uid 10001 memp && mkdir /memory && chown memp:memp /memory
USER memp
ENV PATH=/opt/memp/bin:$PATH MEMP_HOME=/memory PYTHONUNBUFFERED=1
VOLUME /memory
EXPOSE 8765
# Ready, not only alive: an orchestrator is not to send calls before the memory is open.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8765/ready', timeout=4)"]
ENTRYPOINT ["memp-mcp"]
CMD ["serve", "--http", "--host", "0.0.0.0", "--stateless"]
