# One image for the relay, the workers, Flower and the commands; docker-compose.yml runs it.
FROM python:3.12-slim AS build
ENV PATH=/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
# pip takes hashes from constraints since 26.1; the base image may carry an older one.
RUN python -m venv /venv \
    && echo "pip==26.3 --hash=sha256:f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13" \
        > /tmp/pip.txt \
    && pip install --require-hashes -r /tmp/pip.txt
COPY pyproject.toml requirements.lock ./
# requirements.lock is one lock for every extra. As constraints with --require-hashes it gives the
# version and the hash of each package, while pyproject.toml names what to install: so the local
# and dev extras (their servers, their Java) stay out of the image.
RUN python -c "import tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['fast'], 'setuptools', sep='\n')" \
        > runtime.txt \
    && pip install --only-binary :all: --require-hashes -c requirements.lock -r runtime.txt
COPY README.md LICENSE ./
COPY src src
COPY workers workers
COPY migrations migrations
COPY seeds seeds
# Editable: src, workers, migrations and seeds lie beside one another, as in a checkout.
RUN pip install --no-deps --no-build-isolation --editable .
# alembic.ini is optional: alembic also reads pyproject.toml.
COPY pyproject.toml alembic.ini* ./
RUN python -m compileall -q src workers migrations

FROM python:3.12-slim
# Console scripts do not look for `workers` in the working folder; PYTHONPATH makes them.
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --create-home altsync
COPY --from=build /venv /venv
COPY --from=build /app /app
# The folder alone: the code in it stays read-only, while a seed run can leave its rejects file.
RUN chown altsync: /app
WORKDIR /app
USER altsync
CMD ["altsync", "--help"]
