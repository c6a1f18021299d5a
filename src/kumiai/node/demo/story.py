"""What happens in the demo, one thing after the other; what it looks like is `screens`."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from kumiai.core.arrays import NamedArrays, layout_of
from kumiai.core.clock import Clock
from kumiai.core.codec import decode
from kumiai.core.errors import KumiaiError, StorageError
from kumiai.learning import dimension_of
from kumiai.node.demo.options import DemoPlan
from kumiai.node.demo.picture import RunPicture
from kumiai.node.demo.result import Comeback, DemoResult, PrivateFacts
from kumiai.node.demo.screens import Screen
from kumiai.node.local.federation import LocalFederation
from kumiai.node.noised_rounds import plan_of
from kumiai.node.simulation import simulate
from kumiai.node.studies import STUDIES, Baselines, baselines, measured_everywhere
from kumiai.node.study import Site, initial_model

__all__ = ["DemoStory"]

_T = TypeVar("_T")

_LOOK_SECONDS = 0.05
_HALTED_SECONDS = 1.0
_LAST_WORDS_SECONDS = 1.0


class DemoStory:
    """One demo on a federation that its caller stops."""

    def __init__(
        self, plan: DemoPlan, federation: LocalFederation, screen: Screen, clock: Clock
    ) -> None:
        """Take the parts; nothing starts before `tell`."""
        self._plan = plan
        self._federation = federation
        self._screen = screen
        self._clock = clock
        self._app = STUDIES[plan.job.run.app]
        self._picture = RunPicture(plan.job.run.rounds, is_private=plan.job.privacy is not None)
        self._changed = asyncio.Event()

    async def tell(self) -> DemoResult:
        """Start everything, train, kill, compare, export.

        Raises:
            KumiaiError: a process failed, or the run.
        """
        began = self._clock.monotonic()
        yardsticks = _in_daemon_thread(self._yardsticks)
        without = _in_daemon_thread(self._without_noise)
        await self._federation.start(on_step=self._screen.step)
        started = self._clock.monotonic()
        model = await asyncio.to_thread(
            initial_model, self._app, self._plan.job.train, seed=self._plan.job.run.seed
        )
        run_id, comeback = await self._run(model)
        ended = self._clock.monotonic()
        content = await self._export(run_id)
        self._screen.step("comparing with each site alone, and with all data in one place")
        lines = self._picture.lines
        return DemoResult(
            study=self._app.name,
            run_id=run_id,
            history=tuple(lines[number] for number in sorted(lines)),
            yardsticks=await yardsticks,
            comeback=comeback,
            model=self._plan.out,
            start_seconds=started - began,
            run_seconds=ended - started,
            privacy=self._private_facts(content, await without),
        )

    def _yardsticks(self) -> Baselines:
        sites = [Site(name, options) for name, options in self._plan.sites.items()]
        job = self._plan.job
        return baselines(
            self._app, sites, rounds=job.run.rounds, config=job.train, seed=job.run.seed
        )

    def _without_noise(self) -> float | None:
        """Return what the study reaches when nothing is hidden; ``None``: nobody asks."""
        if self._plan.open_job is None:
            return None
        trained = simulate(self._app, self._plan.open_job, sites=self._plan.sites)
        return self._measured(trained.weights)

    def _measured(self, weights: NamedArrays) -> float:
        sites = [Site(name, options) for name, options in self._plan.sites.items()]
        return measured_everywhere(self._app, sites, weights, config=self._plan.job.train)

    def _private_facts(self, content: bytes, without: float | None) -> PrivateFacts | None:
        job, privacy = self._plan.job, self._plan.job.privacy
        if privacy is None or without is None:
            return None
        weights = decode(content).arrays
        plan = plan_of(job, privacy, dimension_of(layout_of(weights)))
        return PrivateFacts(
            unit=privacy.unit,
            epsilon=plan.epsilon(),
            delta=privacy.delta,
            noise_multiplier=plan.noise_multiplier,
            accuracy=self._measured(weights),
            accuracy_without=without,
        )

    async def _run(self, model: NamedArrays) -> tuple[str, Comeback | None]:
        """Submit the job, follow it to its end and kill a client on the way."""
        plan = self._plan
        if plan.victim is not None and plan.kill_after_round == 0:
            self._federation.clients[plan.victim].send(signal.SIGSTOP)
        run_id = await self._federation.api.submit(plan.job, model)
        self._screen.step(f"run {run_id} submitted: {plan.job.run.rounds} rounds; {_seen_by(plan)}")
        following = asyncio.ensure_future(self._follow(run_id))
        killing = asyncio.ensure_future(self._kill(run_id))
        await self._all_of(following, killing)
        if self._picture.state != "finished":
            raise KumiaiError(f"run {run_id} {self._picture.state}: {self._picture.reason}")
        return run_id, killing.result()

    async def _all_of(self, *tasks: asyncio.Future[Any]) -> None:
        """Wait for all, or until the first fails, or a process ends that nobody killed."""
        ending = asyncio.ensure_future(self._federation.wait_for_unwanted_end())
        waiting = set(tasks)
        try:
            while waiting:
                done, _ = await asyncio.wait(
                    {*waiting, ending}, return_when=asyncio.FIRST_COMPLETED
                )
                if any(task.exception() for task in done):
                    # A broken connection is told first; the death behind it is the better reason.
                    await asyncio.wait({ending}, timeout=_LAST_WORDS_SECONDS)
                if ending.done():
                    ending.result().verify_running()
                for task in done:
                    task.result()
                waiting -= done
        finally:
            for task in (ending, *tasks):
                task.cancel()
            await asyncio.gather(ending, *tasks, return_exceptions=True)

    async def _follow(self, run_id: str) -> None:
        async for message in self._federation.api.stream(run_id):
            self._picture.apply(message)
            self._tell_change()

    def _tell_change(self) -> None:
        self._screen.show(self._picture)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not (is_so() or self._picture.has_ended):
            await self._changed.wait()

    async def _kill(self, run_id: str) -> Comeback | None:
        """Kill the victim in the middle of a round, start it again, see the round to its end."""
        victim, picture, federation = self._plan.victim, self._picture, self._federation
        if victim is None:
            return None
        await self._until(lambda: picture.last_published >= self._plan.kill_after_round)
        number = await self._halted_amid_a_round(victim, run_id)
        if number is None:
            return None
        began = self._clock.monotonic()
        await federation.kill_client(victim)
        self._put_out(victim, f"killed in round {number}")
        quorum, grace = self._plan.job.cohort.min_reports, self._plan.job.cohort.grace_seconds
        self._screen.note(
            f"round {number}: {victim} killed (SIGKILL) before it reported; with a quorum of "
            f"{quorum} the round waits up to {grace:.0f} s for it, then goes on without"
        )
        await federation.start_client(victim)
        await federation.wait_until_attached([victim])
        away_seconds = self._clock.monotonic() - began
        self._put_out(victim, None)
        self._screen.note(
            f"round {number}: {victim} is back after {away_seconds:.1f} s"
            + ("" if picture.line(number).is_published else " and gets its task again")
        )
        await self._until(lambda: picture.line(number).is_published)
        line = picture.line(number)
        comeback = Comeback(victim, number, away_seconds, line.reports, line.wanted)
        self._screen.note(
            f"round {number}: closed with {line.reports} of {line.wanted} reports"
            + (", nothing was lost" if comeback.took_part else f", without {victim}")
        )
        return comeback

    async def _halted_amid_a_round(self, name: str, run_id: str) -> int | None:
        """Halt a client where it owes a report; return the round, ``None`` when the run has ended.

        Rounds are short: halted first, it surely owes its report when it is killed.
        """
        client = self._federation.clients[name]
        while not self._picture.has_ended:
            client.send(signal.SIGSTOP)
            try:
                async with asyncio.timeout(_HALTED_SECONDS):
                    if (number := await self._round_that_waits_for(name, run_id)) is not None:
                        return number
            except TimeoutError:
                pass  # it has reported; what is left of the round waits for its word
            client.send(signal.SIGCONT)
            await asyncio.sleep(_LOOK_SECONDS)
        client.send(signal.SIGCONT)  # it was halted from the beginning, if the run was too quick
        return None

    def _put_out(self, name: str, why: str | None) -> None:
        self._picture.out = {} if why is None else {name: why}
        self._tell_change()

    async def _round_that_waits_for(self, client: str, run_id: str) -> int | None:
        """Return the round that can't close without the client; ``None`` when the run has ended."""
        seen: int | None = None
        while not self._picture.has_ended:
            found = await self._federation.api.explain(run_id)
            number: int = found["round"]
            owed = {
                each["kind"]
                for each in found["clients"]
                if each["client"] == client and each["state"] == "assigned"
            }
            is_waited_for = "train" in owed or (
                "evaluate" in owed and number == found["rounds_total"]
            )
            # Twice: a report may have been under way when the client was halted.
            if is_waited_for and number == seen:
                return number
            seen = number if is_waited_for else None
            await asyncio.sleep(_LOOK_SECONDS)
        return None

    async def _export(self, run_id: str) -> bytes:
        out, content = self._plan.out, await self._federation.api.model(run_id)
        try:
            await asyncio.to_thread(out.write_bytes, content)
        except OSError as error:
            raise StorageError(f"model can not be written to {out}: {error.strerror}") from error
        self._screen.step(f"model written to {out.name}, {len(content):,} bytes")
        return content


def _seen_by(plan: DemoPlan) -> str:
    if plan.job.secure_aggregation.mode == "none":
        return "updates in the open: to hide them takes three sites"
    return "updates hidden by masks, their sum checked and signed by the sites"


def _in_daemon_thread(function: Callable[[], _T]) -> asyncio.Future[_T]:
    """Run a function in a thread that nobody waits for when the program is stopped."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def deliver(settle: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(lambda: None if future.done() else settle())

    def work() -> None:
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            caught = error
            deliver(lambda: future.set_exception(caught))
        else:
            deliver(lambda: future.set_result(result))

    threading.Thread(target=work, name="kumiai-demo-yardsticks", daemon=True).start()
    return future
