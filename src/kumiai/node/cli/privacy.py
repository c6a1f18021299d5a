"""``kumiai privacy``: report, budget, history, calibrate, simulate."""

from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kumiai.core.errors import ConfigError
from kumiai.node.cli.invocation import Invocation, invocation_of
from kumiai.node.cli.output import Table, emit
from kumiai.node.cli.text_plot import Series, text_plot

if TYPE_CHECKING:
    from kumiai.node.operator.client import OperatorClient

__all__ = ["app"]

app = typer.Typer(
    help="Differential privacy: what is spent, and what is left.", no_args_is_help=True
)
budget = typer.Typer(help="Budgets of clients, data sets and models.", no_args_is_help=True)
app.add_typer(budget, name="budget")

_DELTA = 1e-5

Scope = Annotated[
    str, typer.Argument(help="client/NAME, dataset/CLIENT/STUDY, model/NAME or model/NAME/RUN.")
]
Delta = Annotated[float, typer.Option(help="Epsilons are stated at this delta.")]
OwnDelta = Annotated[
    float | None,
    typer.Option(
        "--delta",
        help="Epsilons are stated at this delta; left out: at that of the budget, else 1e-5.",
    ),
]
Days = Annotated[
    int, typer.Option("--window-days", min=0, help="Of the last so many days; 0: of all time.")
]
Rounds = Annotated[int, typer.Option(min=1, help="How many rounds.")]
SamplingRate = Annotated[
    float | None,
    typer.Option(
        help="The chance of each to be picked by a secret, independent coin; else nobody is."
    ),
]
Adjacency = Annotated[
    str, typer.Option(help="How data sets differ: zero-out, add-or-remove or replace-one.")
]


@app.command()
def report(
    ctx: typer.Context,
    scope: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    *,
    delta: OwnDelta = None,
) -> None:
    """Tell what every client, data set and model has spent in its life, and what is left."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        told = client.budgets(scope=scope, delta=delta)
    rows = [
        (
            each["scope"],
            spent["guarantee"],
            f"{spent['epsilon']:.4g}",
            f"{spent['delta']:g}",
            str(spent["releases"]),
            ", ".join(spent["sampling"]),
            _shown_left(each["budgets"]),
        )
        for each in told["scopes"]
        for spent in each["spent"]
    ]
    columns = ("scope", "protects", "epsilon", "delta", "releases", "sampling", "rounds left")
    note = "" if rows else "nothing was spent yet"
    if told["frozen"] is not None:
        note = f"{note}\nthe ledger is frozen: {told['frozen']}".lstrip()
    emit(invocation.output, told, Table(columns, rows, note))


@app.command()
def history(
    ctx: typer.Context,
    scope: Scope,
    *,
    delta: Annotated[
        float | None,
        typer.Option(help="Epsilons are stated at this delta where there is no budget that says."),
    ] = None,
) -> None:
    """Plot the epsilon over the rounds, and where it goes until the budget is spent."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        told = client.budget_history(scope, delta=delta)
    plot = text_plot(
        [
            Series(".", [(each["rounds"], each["epsilon"]) for each in told["forecast"]]),
            Series("*", [(each["rounds"], each["epsilon"]) for each in told["points"]]),
        ],
        limit=told["limit"],
    )
    head = f"epsilon of {scope} at delta {told['delta']:g}, {told['guarantee']}, over its releases"
    if told["window_days"]:
        head += f" of the last {told['window_days']} days"
    legend = "* charged"
    if told["limit"] is not None:
        legend += f"   . forecast   - the budget of {told['limit']:g}"
        if told["forecast"]:
            left = told["forecast"][-1]["rounds"] - _count(told["points"])
            legend += f", spent after {left} more releases like the last"
        elif told["rounds_left"] == 0:
            legend += ", of which not one more release like the last is left"
    emit(invocation.output, told, Table((), (), note=f"{head}\n\n{plot}\n\n{legend}"))


@app.command()
def calibrate(
    ctx: typer.Context,
    *,
    epsilon: Annotated[float, typer.Option(help="What all rounds together may cost.")],
    rounds: Rounds,
    delta: Delta = _DELTA,
    sampling_rate: SamplingRate = None,
    adjacency: Adjacency = "zero-out",
) -> None:
    """Find the least noise that keeps an epsilon over so many rounds."""
    from kumiai.node.cli.privacy_plans import event_by_hand, plan_by_hand
    from kumiai.privacy import calibrate_noise

    try:
        multiplier = calibrate_noise(
            lambda noise: event_by_hand(noise, sampling_rate, adjacency),
            steps=rounds,
            target_epsilon=epsilon,
            target_delta=delta,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    plan = plan_by_hand(
        multiplier, rounds, delta=delta, sampling_rate=sampling_rate, adjacency=adjacency
    )
    told = {"noise_multiplier": multiplier, **plan.told()}
    note = (
        f"noise multiplier {_enough(multiplier)}: standard deviation of the noise over the "
        f"clipping norm, for epsilon {told['epsilon']:.4g} at delta {delta:g} after {rounds} "
        f"rounds {plan.claims()}"
    )
    emit(invocation_of(ctx).output, told, Table((), (), note=note))


@app.command()
def simulate(
    ctx: typer.Context,
    job: Annotated[
        Path | None, typer.Argument(help="A job, TOML, which says all of this itself.")
    ] = None,
    *,
    app_reference: Annotated[
        str | None, typer.Option("--app", help="The job's study, for the size of its model.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="The job's initial model, instead.")] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Standard deviation of the noise over the clipping norm.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How many rounds.")] = None,
    delta: Annotated[
        float | None, typer.Option(help="Epsilons are stated at this delta; left out: 1e-5.")
    ] = None,
    sampling_rate: SamplingRate = None,
    adjacency: Annotated[
        str | None,
        typer.Option(help="How data sets differ: zero-out, if left out, or as for calibrate."),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="A budget, to see when it is spent.")
    ] = None,
    tight: Annotated[
        bool,
        typer.Option("--tight", help="Tell the tighter epsilon of a fixed plan, too (an extra)."),
    ] = False,
) -> None:
    """Plot how the epsilon would grow over the rounds of a run; nothing is asked or charged."""
    from kumiai.node.cli.privacy_plans import plan_by_hand, plan_of_job

    invocation = invocation_of(ctx)
    by_hand = {
        "--noise-multiplier": noise_multiplier,
        "--rounds": rounds,
        "--delta": delta,
        "--sampling-rate": sampling_rate,
        "--adjacency": adjacency,
        "--epsilon": epsilon,
    }
    if job is not None:
        if given := [name for name, value in by_hand.items() if value is not None]:
            raise ConfigError(
                f"{', '.join(given)} must be left out beside a job, which says that itself; "
                "change it with --set"
            )
        plan = plan_of_job(invocation, job, app_reference=app_reference, model=model)
    elif noise_multiplier is None or rounds is None:
        raise ConfigError("a job must be given, or --noise-multiplier and --rounds")
    else:
        plan = plan_by_hand(
            noise_multiplier,
            rounds,
            delta=_DELTA if delta is None else delta,
            sampling_rate=sampling_rate,
            adjacency=adjacency or "zero-out",
            limit=epsilon,
        )
    told = {
        "noise_multiplier": noise_multiplier,
        **plan.told(),
        "rounds_in_budget": plan.rounds_in_budget(),
        "epsilon_tight": plan.tight() if tight else None,
        "outlook": list(plan.notes),
    }
    emit(invocation.output, told, Table((), (), note=plan.text(told)))


@budget.command("list")
def list_budgets(ctx: typer.Context) -> None:
    """List the budgets, what of them is spent, and how many rounds they still allow."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        told = client.budgets()
    _emit_budgets(invocation, told["scopes"], told["frozen"])


@budget.command("set")
def set_budget(
    ctx: typer.Context,
    scope: Scope,
    *,
    epsilon: Annotated[float, typer.Option(help="It may spend at most this.")],
    unit: Annotated[
        str, typer.Option(help="What its epsilon is about: record or client; no default.")
    ],
    delta: Delta = _DELTA,
    adjacency: Adjacency = "zero-out",
    window_days: Days = 0,
) -> None:
    """Set a budget, in place of the scope's other one of the same window."""
    invocation = invocation_of(ctx)
    wanted = {
        "scope": scope,
        "guarantee": f"{unit}/{adjacency}",
        "epsilon": epsilon,
        "delta": delta,
        "window_days": window_days,
    }
    with _client(invocation) as client:
        told = client.set_budget(wanted)
    _emit_budgets(invocation, [told], None)


@budget.command()
def remove(ctx: typer.Context, scope: Scope, *, window_days: Days = 0) -> None:
    """Take a budget away: the scope may spend what it likes, and it is counted."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        told = client.drop_budget(scope, window_days)
    emit(invocation.output, told, Table((), (), note=f"{scope} has no such budget any more"))


@budget.command()
def check(ctx: typer.Context) -> None:
    """Verify every hash of the ledger, and rebuild what is counted from it."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        told = client.check_budgets()
    mended = f"; rebuilt: {', '.join(told['mended'])}" if told["mended"] else ""
    note = f"{told['entries']} entries are as they were written{mended}\n{told['chain']}"
    emit(invocation.output, told, Table((), (), note=note))


@budget.command()
def freeze(
    ctx: typer.Context,
    *,
    reason: Annotated[str, typer.Option(help="Why; shown to whoever is refused.")],
) -> None:
    """Let nothing be charged until the ledger is reconciled, as after a restore."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        told = client.freeze_budgets(reason)
    note = "frozen; bring it in line with `kumiai privacy budget reconcile`"
    emit(invocation.output, told, Table((), (), note=note))


@budget.command()
def export(
    ctx: typer.Context,
    *,
    out: Annotated[Path, typer.Option(help="Receives the copy.")],
) -> None:
    """At a site: write a copy of its own ledger, for the coordinator's operator."""
    from kumiai.core.clock import SystemClock
    from kumiai.identity import files, identity_of
    from kumiai.node.client.budget import SiteLedger, ledger_folder

    invocation = invocation_of(ctx)
    settings = invocation.settings_for("client")
    certificate = settings.identity.certificate
    site = identity_of(files.read_file(certificate, "certificate")).name
    content = SiteLedger(ledger_folder(settings.client), site, SystemClock()).export()
    files.write_atomic(out, content, mode=0o600)
    told = {"site": site, "file": str(out), "charges": content.count(b"\n") - 1}
    note = f"wrote {out}: {told['charges']} charges of {site}; it tells when and what for, no data"
    emit(invocation.output, told, Table((), (), note=note))


@budget.command()
def reconcile(
    ctx: typer.Context,
    *,
    copies: Annotated[
        list[Path] | None, typer.Option("--from", help="A site's copy; repeatable.")
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE=ROUNDS",
            help="How many rounds a site that cannot be asked may have had since; repeatable.",
        ),
    ] = None,
) -> None:
    """Charge what the sites know and the ledger does not, and let it charge again."""
    invocation = invocation_of(ctx)
    bodies = [_copy(path) for path in copies or []]
    assumed = dict(_assumed(text) for text in assume or [])
    with _client(invocation) as client:
        told = client.reconcile_budgets(bodies, assumed)
    count = len(told["charged"])
    note = f"charged {count} releases that the ledger had lost; it charges again"
    emit(invocation.output, told, Table((), (), note=note))


def _copy(path: Path) -> dict[str, Any]:
    from kumiai.identity import files
    from kumiai.node.client.budget import read_copy

    copy = read_copy(files.read_file(path, "site's ledger", size_bytes_max=1 << 26))
    charges = [[str(each.key), each.charge.to_content()] for each in copy.charges]
    return {"site": copy.site, "charges": charges}


def _assumed(text: str) -> tuple[str, int]:
    scope, separator, rounds = text.partition("=")
    if not separator or not rounds.isdecimal():
        raise ConfigError(f"--assume must be SCOPE=ROUNDS, got {text!r}")
    return scope, int(rounds)


def _enough(noise_multiplier: float) -> str:
    # Upwards: who types in what was shown would else have less noise than they asked for.
    shown = Context(prec=6, rounding=ROUND_CEILING).create_decimal(noise_multiplier)
    return f"{float(shown):.6g}"


def _emit_budgets(invocation: Invocation, scopes: list[dict[str, Any]], frozen: str | None) -> None:
    rows = [
        (
            each["scope"],
            now["guarantee"],
            _shown_window(now["window_days"]),
            f"{now['epsilon']:g}",
            f"{now['delta']:g}",
            "more than any" if now["spent"] is None else f"{now['spent']:.4g}",
            f"{now['left']:.4g}",
            _shown_rounds(now["rounds_left"]),
        )
        for each in scopes
        for now in each["budgets"]
    ]
    columns = ("scope", "protects", "over", "epsilon", "delta", "spent", "left", "rounds left")
    note = "" if rows else "no budgets yet; set one with `kumiai privacy budget set`"
    if frozen is not None:
        note = f"{note}\nthe ledger is frozen: {frozen}".lstrip()
    emit(invocation.output, scopes, Table(columns, rows, note))


def _shown_left(budgets: list[dict[str, Any]]) -> str:
    known = [now["rounds_left"] for now in budgets if now["rounds_left"] is not None]
    return _shown_rounds(min(known, default=None))


def _shown_rounds(rounds: int | None) -> str:
    return "-" if rounds is None else str(rounds)


def _shown_window(days: int) -> str:
    return f"{days} d" if days else "life"


def _count(points: list[dict[str, Any]]) -> int:
    return int(points[-1]["rounds"]) if points else 0


def _client(invocation: Invocation) -> "OperatorClient":
    from kumiai.node.operator.client import OperatorClient

    return OperatorClient.of(invocation.settings_for("operator"))
