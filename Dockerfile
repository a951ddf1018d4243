# pgq in a container. By itself it runs the service: `docker build -t pgq .`, then
#
#     docker run -e PGQ_DSN=postgresql://… -p 127.0.0.1:8082:8082 pgq
#     docker run -e PGQ_DSN=postgresql://… pgq pgq db upgrade
ARG PYTHON_VERSION=3.13
FROM python:${PYTHON_VERSION}-slim
# Where the packages come from, if not from where pip looks by itself; it takes an empty value for none.
ARG PIP_INDEX_URL=
ARG PIP_FIND_LINKS=
ARG PIP_NO_INDEX=
COPY . /src
RUN python3 -m venv /opt/pgq \
    && /opt/pgq/bin/pip install --no-cache-dir --disable-pip-version-check /src
ENV PATH=/opt/pgq/bin:$PATH PGQ_SERVE_HOST=0.0.0.0
USER nobody
EXPOSE 8082
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s \
    CMD python -c "from urllib.request import urlopen; urlopen('http://127.0.0.1:${PGQ_SERVE_PORT:-8082}/healthz')"
CMD ["pgq", "serve"]
