"""Runs over HTTP: submit, look, stop."""

import re
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from kumiai.core.digest import verify_digest_text
from kumiai.core.errors import ConfigError, ConflictError, NotFoundError
from kumiai.core.ids import verify_name
from kumiai.identity.audit import Act, NewEntry
from kumiai.node.auditing.actors import actor_of
from kumiai.node.coordinator.namespaces import model_namespace
from kumiai.node.http.access import Caller, GuardedRouter
from kumiai.node.http.dependencies import ApiDependencies, Parts
from kumiai.node.http.lists import Filters, Limit
from kumiai.node.http.views import (
    DescribeBody,
    EventsView,
    EventView,
    RoundsView,
    RoundView,
    RunPageView,
    RunView,
    StopBody,
    SubmitBody,
)
from kumiai.node.job import JobSpec, parse_job
from kumiai.storage import NewRun, RunRecord, RunState, SessionOrder, SessionQuery

__all__ = ["find_run", "new_router", "verify_run_id"]

_PREFIX: Final = "run-"
_REFERENCE: Final = re.compile(r"[A-Za-z0-9._-]{1,63}")
_CREATED: Final = 201


def verify_run_id(run_id: str) -> str:
    """Return ``run_id`` if a submitter may choose it.

    Raises:
        ConfigError: it is no name, or does not begin with ``run-``.
    """
    verify_name("run id", run_id)
    if not run_id.startswith(_PREFIX):
        raise ConfigError(f"run id must begin with {_PREFIX!r}, got {run_id!r}")
    return run_id


async def find_run(parts: ApiDependencies, reference: str) -> RunRecord:
    """Return the run of this identifier, or the only one that begins with it.

    Raises:
        NotFoundError: there is none.
        ConflictError: several begin with it.
    """
    if not _REFERENCE.fullmatch(reference):
        raise NotFoundError(f"run must exist, got {reference[:80]!r}")
    return await parts.near.run(reference)


def new_router() -> APIRouter:
    """Return the routes."""
    router = GuardedRouter("runs")
    router.put("/api/v1/runs/{run_id}", status_code=_CREATED, responses={200: {"model": RunView}})(
        submit
    )
    router.get("/api/v1/runs")(list_runs)
    router.get("/api/v1/runs/{ref}")(show)
    router.patch("/api/v1/runs/{ref}")(describe)
    router.get("/api/v1/runs/{ref}/rounds")(rounds)
    router.get("/api/v1/runs/{ref}/events")(events)
    router.post("/api/v1/runs/{ref}/stop")(stop)
    return router


async def submit(
    run_id: str, body: SubmitBody, parts: Parts, caller: Caller, response: Response
) -> RunView:
    """Create a run; the same submission again answers 200 with the run of the first time."""
    verify_run_id(run_id)
    verify_digest_text(body.model_digest)
    job = _verified_job(body, parts)
    size_bytes = await parts.blobs.find_size(model_namespace(run_id), body.model_digest)
    if size_bytes is None:
        raise ConflictError(
            f"model {body.model_digest[:12]} of run {run_id} must be uploaded before the run is "
            "submitted, got none"
        )
    run, is_new = await parts.runs.create(
        NewRun(
            run_id=run_id,
            name=job.run.name,
            app=job.run.app,
            # With its defaults: a later version's must not change a run that exists.
            job=job.model_dump(mode="json"),
            submit_token=run_id,
            submitted_by=caller.name,
            rounds_total=job.run.rounds,
            model_digest=body.model_digest,
            model_size_bytes=size_bytes,
        ),
        entry=NewEntry(
            Act.RUN_CREATED,
            actor_of(caller),
            f"run/{run_id}",
            detail={"app": job.run.app, "rounds": job.run.rounds, "model": body.model_digest},
        ),
    )
    if not is_new:
        await _verify_same_model(parts, run_id, body.model_digest)
    parts.supervisor.wake()
    response.status_code = _CREATED if is_new else 200
    return RunView.of(run)


async def list_runs(
    parts: Parts,
    filters: Filters,
    *,
    state: Annotated[list[RunState] | None, Query()] = None,
    app: str | None = None,
    order: SessionOrder = "newest",
    limit: Limit = 50,
    cursor: str | None = None,
) -> RunPageView:
    """Return the runs that pass all filters; ``cursor`` takes the ``next`` of the page before."""
    query = SessionQuery(states=state, app=app, order=order, **filters)
    page = await parts.history.list_sessions(query, limit=limit, cursor=cursor)
    return RunPageView(runs=[RunView.of(run) for run in page.items], next=page.next_cursor)


async def show(ref: str, parts: Parts) -> RunView:
    """Return a run with its present round and how many clients stand where in it."""
    run = await find_run(parts, ref)
    return RunView.of(
        run,
        current=await parts.runs.round(run.run_id, run.round),
        counts=await parts.runs.progress(run.run_id, run.round),
    )


async def describe(ref: str, body: DescribeBody, parts: Parts, caller: Caller) -> RunView:
    """Change a run's description and tags, whatever its state."""
    run = await find_run(parts, ref)
    return RunView.of(
        await parts.history.update(
            run.run_id,
            body.changes(),
            expected_version=body.expected_version,
            by=caller.name,
            entry=NewEntry(Act.RUN_DESCRIBED, actor_of(caller), f"run/{run.run_id}"),
        )
    )


async def rounds(ref: str, parts: Parts) -> RoundsView:
    """Return all rounds with their metrics and evaluations."""
    run = await find_run(parts, ref)
    return RoundsView(rounds=[RoundView.of(each) for each in await parts.near.rounds(run)])


async def events(
    ref: str,
    parts: Parts,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=5_000)] = 500,
) -> EventsView:
    """Return events with a higher ``seq`` than ``after``, in order."""
    run = await find_run(parts, ref)
    found = await parts.runs.events(run.run_id, after_seq=after, limit=limit)
    return EventsView(
        events=[EventView.of(each) for each in found], after=found[-1].seq if found else after
    )


async def stop(ref: str, body: StopBody, parts: Parts, caller: Caller) -> RunView:
    """Ask the run's leader to stop it; what is published stays."""
    run = await find_run(parts, ref)
    reason = f"stopped by {caller.name}" + (f": {body.reason}" if body.reason else "")
    entry = NewEntry(Act.RUN_STOP_REQUESTED, actor_of(caller), f"run/{run.run_id}")
    run = await parts.runs.request_stop(run.run_id, reason, entry=entry)
    parts.signals.wake(run.run_id)
    return RunView.of(run)


def _verified_job(body: SubmitBody, parts: ApiDependencies) -> JobSpec:
    job = parse_job(body.job)
    if job.evaluation.central and not parts.can_evaluate:
        raise ConfigError(
            "evaluation.central must be false for this coordinator, got true: it has no study "
            "installed; set coordinator.apps, or leave the evaluation to the clients"
        )
    return job


async def _verify_same_model(parts: ApiDependencies, run_id: str, digest: str) -> None:
    initial = await parts.runs.find_model(run_id, 0)
    if initial is None or initial.digest != digest:
        raise ConflictError(
            f"run {run_id} must be submitted again with the same model, got {digest[:12]}; "
            "use a new run id"
        )
