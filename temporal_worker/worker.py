"""The wiring of one worker process: connection, activities, workflows, and the loops between Postgres and Temporal."""

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.runtime import LoggingConfig, PrometheusConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError
from temporalio.worker import Worker, WorkerDeploymentConfig

from shared.config import Config
from shared.db import queue
from shared.db.pool import Database, open_pool
from shared.definitions import load_definitions
from shared.errors import ConfigError, UnavailableError
from shared.execution.environment import Environment, surroundings
from shared.execution.telemetry import ship, tell
from shared.orchestration.messages import KNOWN_WORKFLOWS
from shared.security.codec import data_converter
from shared.security.temporal import connection
from shared.telemetry.shipper import ShipReport
from temporal_worker import constants, orchestrations
from temporal_worker.activities.calls import Calls
from temporal_worker.activities.decisions import Decisions
from temporal_worker.activities.effects import Effects
from temporal_worker.activities.joins import Joins
from temporal_worker.delivery import away
from temporal_worker.dispatcher import Dispatcher
from temporal_worker.loops import describe, forever, log, nap, pause
from temporal_worker.reconciler import Reconciler
from temporal_worker.relay import Relay
from temporal_worker.workflows.approval import ApproveEffect

CONNECTIONS = 10


@dataclass(frozen=True, slots=True)
class Options:
    """How this process works. With a `build_id`, workflows stay pinned to the release that started them.

    With a `region` it runs calls, writes and authors' activities of that region, and no workflow. `metrics` is where it
    serves the SDK's for Prometheus, HOST:PORT. `cached` is how many workflows it keeps in memory; 0 replays each at
    every step, which tests like.
    """

    task_queue: str = constants.TASK_QUEUE
    build_id: str | None = None
    region: str | None = None
    metrics: str = ""
    cached: int = 1000


async def run(config: Config, options: Options, stop: asyncio.Event) -> None:
    """Work until `stop` is set. Postgres and Temporal may be away, now or later.

    Raises ConfigError or DefinitionError before anything is connected.
    """
    if not config.database_url:
        raise ConfigError("database_url is not set", fix="Set BACKBEAT_DATABASE_URL, or run `backbeat up` here")
    connection(config)
    async with _environment(config) as env:
        shipper = asyncio.create_task(forever("telemetry", _shipper(env), constants.SHIP_EVERY, stop))
        client = await connect(config, stop, options.metrics)
        if client is not None:
            await serve(env, client, options, stop)
        await shipper


def _shipper(env: Environment) -> Callable[[], Awaitable[bool]]:
    """One bounded round of shipping; with no ClickHouse it only tells Postgres what waits here."""
    db, config, told = Database(env.db.pool, patience=0.0), env.config, 0

    async def beat() -> bool:
        nonlocal told
        report = await ship(config, db, constants.SHIP_DEADLINE) if config.clickhouse_url else ShipReport()
        if config.telemetry != "off":
            news = env.telemetry.untold - told
            await tell(config, db, max(news, 0))
            told += news
        if report.error:
            raise UnavailableError(f"spans wait: {report.error}", fix="They are kept; see `backbeat status`")
        return report.remaining > 0

    return beat


@contextlib.asynccontextmanager
async def _environment(config: Config) -> AsyncIterator[Environment]:
    registry = load_definitions(config.definitions, config.prompt_tools)
    orchestrations.load(registry.orchestrations.values())
    data_converter(config.payload_keys_file, config.payload_dir)
    if not registry.effects:
        log.warning("no effects are loaded, so escalations wait: set BACKBEAT_DEFINITIONS to what the ticks load")
    async with open_pool(config.database_url, CONNECTIONS) as pool:
        db = Database(pool, constants.PATIENCE)
        async with surroundings(config, "temporal-worker", db, registry, runtime="temporal") as env:
            yield env


async def connect(config: Config, stop: asyncio.Event, metrics: str = "") -> Client | None:
    """A client of a server that knows the namespace; waits for one that does not answer. None when stopped first."""
    failures = 0
    while not stop.is_set():
        try:
            return await asyncio.wait_for(_connected(config, metrics), constants.RPC_TIMEOUT)
        except (RuntimeError, RPCError, TimeoutError) as error:
            if not failures:
                where = connection(config)["target_host"]
                log.warning("Temporal at %s: %s (trying again)", where, describe(error))
            failures += 1
            await nap(stop, pause(failures, 0.2))
    return None


async def _connected(config: Config, metrics: str) -> Client:
    converter = data_converter(config.payload_keys_file, config.payload_dir)
    client = await Client.connect(**connection(config), data_converter=converter, runtime=_runtime(metrics))
    await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    return client


@functools.cache
def _runtime(metrics: str) -> Runtime:
    """The SDK's core would print each failed poll on stdout; the loops say what is away, once."""
    quiet = LoggingConfig(TelemetryFilter("ERROR", "ERROR"))
    served = PrometheusConfig(metrics, durations_as_seconds=True) if metrics else None
    try:
        return Runtime(telemetry=TelemetryConfig(logging=quiet, metrics=served))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"metrics cannot be served at {metrics}: {error}", fix="Name a free HOST:PORT") from error


async def warm(env: Environment) -> None:
    """Load the vendors that orchestrations may call, seconds that the first one would wait for."""
    routes = env.routing.routes
    for tier in routes.tiers if env.registry.orchestrations else ():
        with contextlib.suppress(ConfigError):  # said by the call that needs it
            await env.provider(routes.for_tier(tier, env.config.providers)[0].provider)


async def serve(env: Environment, client: Client, options: Options, stop: asyncio.Event) -> None:
    """Run activities, workflows and loops until `stop`; then let activities end for some seconds."""
    impatient = Database(env.db.pool, patience=0.0)
    dispatcher = Dispatcher(impatient, client, options.task_queue, env)
    relay, reconciler = Relay(impatient, client), Reconciler(impatient, client)
    identity = f"{socket.gethostname()}:{os.getpid()}"

    declared = env.registry.orchestrations
    own = orchestrations.load(declared.values())
    loaded = [{"name": n, "version": v, "tier": "-", "max_attempts": 1} for n, v in KNOWN_WORKFLOWS.items()]
    loaded += [made.row for made in declared.values()]

    async def present() -> bool:
        await queue.register(impatient, identity, "temporal", loaded)
        try:
            await asyncio.wait_for(client.service_client.check_health(), constants.RPC_TIMEOUT)
        except (RPCError, TimeoutError) as error:
            raise away(error) from error
        return False

    async with make_worker(client, [*activities_of(env), *own.activities], options, identity, own):
        if options.region:
            log.info("running activities of region %s", options.region)
            await asyncio.gather(stop.wait(), warm(env))
            return
        log.info("running %s on task queue %s", ", ".join([*KNOWN_WORKFLOWS, *declared]), options.task_queue)
        await asyncio.gather(
            forever("dispatcher", dispatcher.beat, constants.POLL, stop),
            forever("relay", relay.beat, constants.POLL, stop),
            forever("reconciler", reconciler.beat, constants.RECONCILE_EVERY, stop),
            forever("presence", present, constants.PRESENCE_EVERY, stop),
            warm(env),
        )
        log.info("stopping: activities may end for %d s", constants.GRACE.total_seconds())


def activities_of(env: Environment) -> list[Callable[..., Any]]:
    """Every activity, bound to its surroundings."""
    env = replace(env, registry=orchestrations.with_proceed(env.registry))
    decisions, calls, joins = Decisions(env), Calls(env), Joins(env)
    return [
        decisions.create_request,
        decisions.close_if_pending,
        decisions.submit_decision,
        decisions.revise_request,
        Effects(env).perform_effect,
        decisions.project,
        calls.model_call,
        calls.write,
        joins.project_run,
        joins.subworkflow,
        joins.fan_out,
        joins.join,
        joins.results,
    ]


def make_worker(
    client: Client,
    activities: Sequence[Callable[..., Any]],
    options: Options,
    identity: str | None = None,
    own: orchestrations.Loaded = orchestrations.NOTHING,
) -> Worker:
    """A Temporal worker with this program's settings; tests hand in activities of their own."""
    deployment = None
    if options.build_id:
        version = WorkerDeploymentVersion("backbeat", options.build_id)
        deployment = WorkerDeploymentConfig(version, True, VersioningBehavior.PINNED)
    return Worker(
        client,
        task_queue=f"{options.task_queue}-{options.region}" if options.region else options.task_queue,
        max_cached_workflows=options.cached,
        workflows=[] if options.region else [ApproveEffect, *own.workflows],
        activities=activities,
        interceptors=own.interceptors,
        workflow_runner=orchestrations.runner(),
        identity=identity,
        sticky_queue_schedule_to_start_timeout=constants.STICKY,
        graceful_shutdown_timeout=constants.GRACE,
        deployment_config=deployment,
    )
