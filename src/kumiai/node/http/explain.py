"""Why a run is slow, waiting or failed, and who was left out, told in one screen.

`explain` is pure: facts in, lines out. The facts are rows, and the sessions of this coordinator.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter

from kumiai.node.http.access import GuardedRouter
from kumiai.node.http.dependencies import ApiDependencies, Parts
from kumiai.node.http.hidden_rounds import HiddenRound, find_hidden_round, hidden_lines
from kumiai.node.http.runs import find_run
from kumiai.node.http.views import (
    ClientInRoundView,
    CountsView,
    ExplainView,
    HiddenRoundView,
)
from kumiai.node.job import JobSpec, parse_job
from kumiai.storage import (
    AssignmentRecord,
    ClientRecord,
    RoundProgress,
    RoundRecord,
    RunRecord,
)

__all__ = ["AttachedClient", "RunFacts", "explain", "new_router"]

_CLIENT_LINES_MAX: Final = 20
_ABSENT: Final = "absent"
# What needs attention comes first.
_ORDER: Final = ("refused", "failed", "late", _ABSENT, "assigned", "cancelled", "reported", "idle")


@dataclass(frozen=True, slots=True)
class AttachedClient:
    """A client with a session here."""

    client_id: str
    apps: tuple[str, ...]
    phase: str
    heard_seconds_ago: float


@dataclass(frozen=True, slots=True)
class RunFacts:
    """All that an explanation rests on.

    Attributes:
        current: the run's present round.
        progress: of that round, with the database's clock.
        assignments: of that round, and the evaluations that run beside it.
        attached: the clients with a session at this coordinator.
        registered: every client that ever attached anywhere.
        hidden: the sum of that round, where updates are hidden.
    """

    run: RunRecord
    current: RoundRecord
    progress: RoundProgress
    assignments: Sequence[AssignmentRecord]
    attached: Sequence[AttachedClient]
    registered: Sequence[ClientRecord]
    hidden: HiddenRound | None = None


def new_router() -> APIRouter:
    """Return the route."""
    router = GuardedRouter("runs")
    router.get("/api/v1/runs/{ref}/explain")(explain_run)
    return router


async def explain_run(ref: str, parts: Parts) -> ExplainView:
    """Tell why the run is where it is, who is waited for and who was left out."""
    return explain(await _facts(parts, await find_run(parts, ref)))


async def _facts(parts: ApiDependencies, run: RunRecord) -> RunFacts:
    runs, now = parts.runs, parts.clock.monotonic()
    current = await runs.round(run.run_id, run.round)
    assignments = await runs.assignments(run.run_id, run.round)
    if run.round:
        # The model of the round before is evaluated while this round trains.
        before = await runs.assignments(run.run_id, run.round - 1)
        assignments += [each for each in before if each.kind == "evaluate"]
    assignments = [each for each in assignments if each.kind != "prepare"]
    ahead = await runs.preparing(run.run_id, run.round)
    assignments += [each for each in ahead if each.kind == "prepare" and each.state != "joined"]
    return RunFacts(
        run=run,
        current=current,
        progress=await runs.progress(run.run_id, run.round),
        assignments=assignments,
        attached=[
            AttachedClient(
                client_id=session.client_id,
                apps=session.apps,
                phase=session.phase,
                heard_seconds_ago=max(now - session.last_heard, 0.0),
            )
            for session in parts.hub.sessions()
        ],
        registered=await parts.near.clients(),
        hidden=await find_hidden_round(parts.secure, run.run_id, run.round),
    )


def explain(facts: RunFacts) -> ExplainView:
    """Return the explanation."""
    clients = sorted(_clients(facts), key=lambda each: (_rank(each), each.client, each.kind or ""))
    run, current = facts.run, facts.current
    is_collecting = current.stage == "collecting"
    return ExplainView(
        run_id=run.run_id,
        state=run.state,
        reason=run.reason,
        end_kind=run.end_kind,
        round=run.round,
        rounds_total=run.rounds_total,
        stage=current.stage,
        attempt=current.attempt if run.round else None,
        deadline_seconds=_deadline_left(facts) if is_collecting else None,
        min_reports=current.min_reports if run.round else None,
        counts=CountsView.of(facts.progress) if run.round else None,
        apps_offered=_apps_offered(facts),
        lines=[*_run_lines(facts), *_hidden_lines(facts), *_client_lines(clients)],
        hidden=None if facts.hidden is None else HiddenRoundView.of(facts.hidden),
        clients=clients,
    )


def _run_lines(facts: RunFacts) -> Iterator[str]:
    run = facts.run
    name = f" ({run.name})" if run.name else ""
    yield f"run {run.run_id}{name} is {run.state}, round {run.round} of {run.rounds_total}"
    if run.reason:
        yield f"reason: {run.reason}" + (f" ({run.end_kind})" if run.end_kind else "")
    if run.finished_at is not None:
        return
    if run.stop_requested:
        yield f"a stop was asked for: {run.stop_reason or 'no reason given'}"
    yield _leader_line(facts)
    if facts.current.stage == "collecting":
        yield from _collecting_lines(facts)
    elif facts.current.stage == "closed":
        yield f"round {run.round} is closed ({facts.current.close_reason}) and being aggregated"
    elif _open_evaluations(facts):
        yield f"waits for {_open_evaluations(facts)} clients to evaluate the last model"
    elif run.round < run.rounds_total:
        yield from _waiting_lines(facts, parse_job(run.job))


def _hidden_lines(facts: RunFacts) -> Iterator[str]:
    if facts.hidden is not None:
        yield from hidden_lines(facts.hidden)


def _leader_line(facts: RunFacts) -> str:
    run, left = facts.run, facts.run.lease_until - facts.progress.now
    if run.leader is None:
        return "no coordinator leads it yet; a running one takes it within seconds"
    if left < 0:
        return (
            f"no coordinator leads it now: the lease of {run.leader} ended {-left:.0f} s ago; "
            "start a coordinator, or see that it reaches the database"
        )
    return f"led by {run.leader} (epoch {run.epoch})"


def _collecting_lines(facts: RunFacts) -> Iterator[str]:
    current, progress, job = facts.current, facts.progress, parse_job(facts.run.job)
    yield (
        f"round {current.round}, attempt {current.attempt} of {job.cohort.max_attempts}: "
        f"{progress.reported} of {current.target_reports} wanted reports are in, quorum "
        f"{current.min_reports}; {progress.assigned} not answered, {progress.failed} failed, "
        f"{progress.refused} refused"
    )
    left = _deadline_left(facts)
    if progress.quorum_at is not None:
        grace = progress.quorum_at + job.cohort.grace_seconds - progress.now
        yield f"the quorum stands; it closes in {max(min(grace, left), 0.0):.0f} s at the latest"
    elif left >= 0:
        missing = max(current.min_reports - progress.reported, 0)
        if missing:
            more = "1 more report makes" if missing == 1 else f"{missing} more reports make"
            yield f"{more} the quorum; the deadline is in {left:.0f} s"
        else:
            yield "the quorum is in; the round closes within moments"
    else:
        yield f"the deadline passed {-left:.0f} s ago"
    offering = {each.client_id for each in facts.attached if facts.run.app in each.apps}
    if not offering:
        yield from _nobody_lines(facts)


def _waiting_lines(facts: RunFacts, job: JobSpec) -> Iterator[str]:
    app = facts.run.app
    if job.asynchronous is not None:
        yield from _group_lines(facts, job.asynchronous.group_size)
        return
    offering = sum(app in each.apps for each in facts.attached)
    wanted = max(job.cohort.min_clients, job.cohort.size or 1)
    enough = max(job.cohort.min_clients, job.cohort.quorum(job.cohort.size or 1))
    yield (
        f"round {facts.run.round + 1} waits for clients with app {app!r}: {offering} attached "
        f"here, {wanted} wanted, {enough} are enough after {job.cohort.grace_seconds:.0f} s"
    )
    if not offering:
        yield from _nobody_lines(facts)


def _group_lines(facts: RunFacts, size: int) -> Iterator[str]:
    states = Counter(each.state for each in facts.assignments if each.kind == "prepare")
    yield (
        f"version {facts.run.round + 1} is made as soon as {size} clients hold an update: "
        f"{states['reported']} do, {states['assigned']} train"
    )
    if not any(facts.run.app in each.apps for each in facts.attached):
        yield from _nobody_lines(facts)


def _nobody_lines(facts: RunFacts) -> Iterator[str]:
    app, offered = facts.run.app, _apps_offered(facts)
    if not facts.attached:
        yield "no client is attached to this coordinator"
    elif app not in offered:
        yield (
            f"no attached client offers app {app!r}; offered are "
            f"{', '.join(map(repr, offered)) or 'none'}: add it to client.apps at the sites, or "
            "correct run.app in the job"
        )
    past = [each.client_id for each in facts.registered if app in each.apps]
    if past:
        yield f"offered it before: {_listed(past)}"


def _client_lines(clients: Sequence[ClientInRoundView]) -> Iterator[str]:
    for client in clients[:_CLIENT_LINES_MAX]:
        yield f"  {client.client}: {_words(client)}"
    if rest := clients[_CLIENT_LINES_MAX:]:
        counted = Counter(each.state for each in rest)
        yield "  and " + ", ".join(f"{count} {state}" for state, count in counted.most_common())


def _words(client: ClientInRoundView) -> str:
    duty = f"{client.kind}: {client.state}" if client.kind else client.state
    words = [duty]
    if client.reason:
        words.append(client.reason)
    if client.phase and client.state in {"assigned", "idle"}:
        words.append(client.phase)
    if client.heard_seconds_ago is not None and client.state == "assigned":
        words.append(f"heard {client.heard_seconds_ago:.0f} s ago")
    return ", ".join(words)


def _clients(facts: RunFacts) -> Iterator[ClientInRoundView]:
    attached = {each.client_id: each for each in facts.attached}
    registered = {each.client_id: each for each in facts.registered}
    asked = set()
    for assignment in facts.assignments:
        asked.add(assignment.client_id)
        session = attached.get(assignment.client_id)
        record = registered.get(assignment.client_id)
        reason = assignment.reason
        if session is None and assignment.state == "assigned":
            reason = _absence(record, facts.progress.now)
        yield _client_view(assignment.client_id, assignment, session, assignment.state, reason)
    if facts.run.finished_at is not None:
        return
    for client_id, record in registered.items():
        if client_id in asked or facts.run.app not in record.apps:
            continue
        session = attached.get(client_id)
        if session is None:
            reason = _absence(record, facts.progress.now)
            yield _client_view(client_id, None, None, _ABSENT, reason)
        else:
            yield _client_view(client_id, None, session, "idle", "not asked in this round")


def _client_view(
    client_id: str,
    assignment: AssignmentRecord | None,
    session: AttachedClient | None,
    state: str,
    reason: str | None,
) -> ClientInRoundView:
    return ClientInRoundView(
        client=client_id,
        kind=None if assignment is None else assignment.kind,
        state=state,
        reason=reason,
        attached=session is not None,
        phase=None if session is None else session.phase,
        heard_seconds_ago=None if session is None else round(session.heard_seconds_ago, 1),
    )


def _absence(record: ClientRecord | None, now: float) -> str:
    if record is None:
        return "not attached"
    if record.state == "registered":
        return "not attached, has never been"
    if record.state == "attached":
        return "attached to another coordinator, or its connection has just gone"
    return f"not attached, left {max(now - record.last_seen_at, 0.0):.0f} s ago"


def _rank(client: ClientInRoundView) -> int:
    return _ORDER.index(client.state)


def _apps_offered(facts: RunFacts) -> list[str]:
    return sorted({app for each in facts.attached for app in each.apps})


def _deadline_left(facts: RunFacts) -> float:
    return round(facts.progress.deadline_at - facts.progress.now, 1)


def _open_evaluations(facts: RunFacts) -> int:
    return sum(
        each.kind == "evaluate" and each.state == "assigned" and each.round == facts.run.round
        for each in facts.assignments
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_CLIENT_LINES_MAX])
    rest = len(names) - _CLIENT_LINES_MAX
    return shown if rest <= 0 else f"{shown} and {rest} more"
