"""docker-compose.yml, Procfile, Dockerfile and .env.example, checked without a container engine."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from honcho.environ import parse_procfile

from altsync.config import Settings, read_settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"

QUEUES = {"embedding", "neo4j", "pinecone"}
SECRETS = {
    "ALTSYNC_DASHBOARD_PASSWORD": "a password of the dashboard's",
    "FLOWER_BASIC_AUTH": "name:password",
    "NEO4J_PASSWORD": "a password of Neo4j's",
    "POSTGRES_PASSWORD": "with$ign:@/",
}
#: Seconds a task goes on claiming batches before it ends.
DRAIN_SECONDS = 20
#: Seconds podman-compose may take to read one file; it needs less than one.
CONFIG_SECONDS = 60


@dataclass(frozen=True)
class Service:
    """One service, as podman-compose understood it."""

    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ports: tuple[str, ...]
    volumes: tuple[str, ...]
    depends_on: Mapping[str, str]
    has_health_check: bool
    restart: str
    stop_grace_period: str

    def option(self, name: str) -> str:
        """The value that follows an option on the command line."""
        return option(self.command, name)


def option(command: tuple[str, ...], name: str) -> str:
    """The value that follows an option on a command line."""
    return command[command.index(name) + 1]


def compose_config(variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The file after interpolation and merging; a dry run needs no podman."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "podman_compose"),
            *("--dry-run", "--env-file", os.devnull, "--profile", "seed"),
            *("-f", str(COMPOSE), "config"),
        ],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=CONFIG_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    """Every service, with all secrets given."""
    done = compose_config(SECRETS)
    assert done.returncode == 0, done.stderr
    return {
        name: Service(
            image=raw["image"],
            command=tuple(raw.get("command", ())),
            environment=raw.get("environment", {}),
            ports=tuple(raw.get("ports", ())),
            volumes=tuple(raw.get("volumes", ())),
            depends_on={
                other: how["condition"] for other, how in raw.get("depends_on", {}).items()
            },
            has_health_check="healthcheck" in raw,
            restart=raw["restart"],
            stop_grace_period=raw.get("stop_grace_period", "10s"),
        )
        for name, raw in yaml.safe_load(done.stdout)["services"].items()
    }


@pytest.fixture(scope="module")
def procfile() -> dict[str, tuple[str, ...]]:
    """The Procfile's commands, as honcho reads them."""
    processes = parse_procfile((ROOT / "Procfile").read_text()).processes
    return {name: tuple(shlex.split(command)) for name, command in processes.items()}


def test_every_service_is_there(services: dict[str, Service]) -> None:
    """The stores, the one-shot services, the relay, a worker per queue, and what shows them."""
    assert set(services) == {
        *("postgres", "redis", "neo4j"),
        *("migrate", "seed", "relay", "dashboard", "flower"),
        *(f"worker-{queue}" for queue in QUEUES),
    }


def test_ports_are_published_on_loopback_only(services: dict[str, Service]) -> None:
    """No port can be reached from another machine."""
    published = [port for service in services.values() for port in service.ports]

    assert len(published) == 6
    assert {port.split(":")[0] for port in published} == {"127.0.0.1"}


def test_redis_keeps_what_it_is_given(services: dict[str, Service]) -> None:
    """Append-only file on, nothing evicted, data on a volume."""
    redis = services["redis"]

    assert redis.option("--appendonly") == "yes"
    assert redis.option("--maxmemory-policy") == "noeviction"
    assert redis.volumes == ("redis:/data",)


def test_stores_keep_their_data_on_volumes(services: dict[str, Service]) -> None:
    """PostgreSQL's images mount one level higher from 18 on."""
    assert services["postgres"].volumes == ("postgres:/var/lib/postgresql",)
    assert services["neo4j"].volumes == ("neo4j:/data",)


def test_each_queue_has_one_worker(services: dict[str, Service]) -> None:
    """One service per queue, named after it, in processes of its own."""
    workers = {name: service for name, service in services.items() if "worker" in service.command}

    assert {name: worker.option("-Q") for name, worker in workers.items()} == {
        f"worker-{queue}": queue for queue in QUEUES
    }
    assert {worker.option("--pool") for worker in workers.values()} == {"prefork"}
    assert {worker.depends_on["migrate"] for worker in workers.values()} == {
        "service_completed_successfully"
    }


def test_procfile_runs_what_compose_runs(
    services: dict[str, Service], procfile: dict[str, tuple[str, ...]]
) -> None:
    """The same processes and options; only the pool and the addresses of pages differ."""
    assert set(procfile) == {"relay", "dashboard", "flower", *QUEUES}
    assert procfile["relay"] == services["relay"].command
    assert services["dashboard"].command[:2] == procfile["dashboard"]
    for queue in QUEUES:
        command = procfile[queue]
        assert option(command, "--pool") == "threads"
        swapped = tuple("prefork" if word == "threads" else word for word in command)
        assert swapped == services[f"worker-{queue}"].command
    address = "--address=${FLOWER_ADDRESS:-127.0.0.1}"
    assert procfile["flower"] == (*services["flower"].command, address)


def test_workers_have_time_to_finish_a_batch(services: dict[str, Service]) -> None:
    """A container is killed only after a drain and the batch it was in, which a lease bounds."""
    ours = [service for service in services.values() if service.image == "altsync"]

    for service in ours:
        lease = int(service.environment["ALTSYNC_LEASE_SECONDS"])
        grace = int(service.stop_grace_period.removesuffix("s"))
        assert grace > DRAIN_SECONDS + lease


def test_services_that_answer_something_are_asked(services: dict[str, Service]) -> None:
    """All long-running services but the relay, which listens to nothing, have a health check."""
    unasked = {
        name
        for name, service in services.items()
        if service.restart != "no" and not service.has_health_check
    }

    assert unasked == {"relay"}


def test_neo4j_image_gets_no_variable_it_would_take_for_a_setting(
    services: dict[str, Service],
) -> None:
    """Besides NEO4J_AUTH only server settings: NEO4J_PASSWORD would stop its start."""
    others = set(services["neo4j"].environment) - {"NEO4J_AUTH"}

    assert all(name.startswith("NEO4J_server_") for name in others)


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_a_missing_secret_is_refused_by_name(secret: str) -> None:
    """No password has a default."""
    done = compose_config({name: SECRETS[name] for name in SECRETS if name != secret})

    assert done.returncode != 0
    assert f"set {secret} in .env" in done.stderr


def test_secrets_pass_through_unchanged(services: dict[str, Service]) -> None:
    """A dollar sign or a slash in the PostgreSQL password needs no quoting."""
    assert services["postgres"].environment["POSTGRES_PASSWORD"] == SECRETS["POSTGRES_PASSWORD"]
    assert services["relay"].environment["PGPASSWORD"] == SECRETS["POSTGRES_PASSWORD"]


def test_compose_passes_every_setting_of_delivery_on(services: dict[str, Service]) -> None:
    """Variables of .env reach the containers, but for addresses, which differ in there."""
    of_this_machine = {"ALTSYNC_HOME", "ALTSYNC_DIRECT_DATABASE_URL", "ALTSYNC_BROKER_URL"}
    of_this_machine |= {"ALTSYNC_SENTINEL_MASTER", "ALTSYNC_SENTINEL_PASSWORD"}
    of_the_dashboard = {"ALTSYNC_DASHBOARD_PASSWORD"}
    settings = {name.upper() for name in Settings.model_fields if name.startswith("altsync_")}

    assert settings - set(services["relay"].environment) == of_this_machine | of_the_dashboard
    assert of_the_dashboard <= set(services["dashboard"].environment)


def test_compose_leaves_no_setting_wrong_when_nothing_is_set(
    services: dict[str, Service], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The settings read inside a container are the defaults, and sinks without keys are off."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALTSYNC_HOME")
    for name, value in services["relay"].environment.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()

    assert settings.require_database_url() == "postgresql://altsync@postgres:5432/altsync"
    assert settings.neo4j_password.get_secret_value() == SECRETS["NEO4J_PASSWORD"]
    assert (settings.pinecone_api_key, settings.openai_api_key) == (None, None)
    for name, field in Settings.model_fields.items():
        if name.startswith("altsync_"):
            assert getattr(settings, name) == field.default, name


def test_env_example_lists_every_setting_with_its_default() -> None:
    """All that altsync and docker-compose.yml read, with the true defaults and no secret."""
    text = (ROOT / ".env.example").read_text()
    listed = dict(re.findall(r"^#?([A-Z]\w+)=(.*)$", text, re.MULTILINE))
    read_by_compose = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    read_by_altsync = {name.upper() for name in Settings.model_fields}
    shown_defaults = dict(re.findall(r"^#(ALTSYNC_\w+)=(.+)$", text, re.MULTILINE))

    assert set(listed) == read_by_altsync | read_by_compose
    assert {listed[name] for name in (*SECRETS, "OPENAI_API_KEY", "PINECONE_API_KEY")} == {""}
    settings = Settings.model_validate(
        {name.lower(): text for name, text in shown_defaults.items()}
    )
    for name in shown_defaults:
        assert getattr(settings, name.lower()) == Settings.model_fields[name.lower()].default, name


def test_dockerignore_lets_through_what_the_image_copies() -> None:
    """The builder gets an allow-list: all that is copied from the checkout, and nothing else."""
    copied = {
        source.removesuffix("*")
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    rules = (ROOT / ".dockerignore").read_text().splitlines()

    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert "*" in rules
