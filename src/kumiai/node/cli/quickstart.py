"""``kumiai demo``, ``dev``, ``simulate`` and ``version``: what a newcomer types first."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kumiai.node.cli.invocation import OutputFormat, invocation_of, parse_overrides
from kumiai.node.cli.output import Table, emit, shown_duration, shown_metrics

if TYPE_CHECKING:
    from kumiai.node.job import JobSpec
    from kumiai.node.simulation import RoundResult
    from kumiai.node.study import App

__all__ = ["add_to", "tell_version"]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (demo, dev, simulate, version):
        app.command()(command)


def demo(
    ctx: typer.Context,
    *,
    study: Annotated[str, typer.Option(help="digits or heart.")] = "digits",
    clients: Annotated[
        int | None, typer.Option(help="How many sites; default: 5, for heart its 4 hospitals.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="How many rounds.")] = 20,
    dirichlet: Annotated[
        float, typer.Option(help="How unevenly the digits lie; smaller is more uneven.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(help="Everything random derives from it.")] = 7,
    dp: Annotated[
        bool, typer.Option("--dp", help="Hide every record with noise; for heart.")
    ] = False,
    exit_at_end: Annotated[
        bool, typer.Option("--exit", help="End after the last table, on a terminal too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document only.")] = False,
    no_kill: Annotated[bool, typer.Option("--no-kill", help="Leave every client alive.")] = False,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keeps the federation's files.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Receives the model; default: ./demo-model.safetensors.")
    ] = None,
) -> None:
    """Watch a federation of real processes train on real data, and survive a killed client."""
    from kumiai.node.demo import DemoOptions, run_demo

    invocation = invocation_of(ctx)
    code = run_demo(
        DemoOptions(
            study=study,
            clients=clients,
            rounds=rounds,
            dirichlet=dirichlet,
            seed=seed,
            dp=dp,
            exit=exit_at_end,
            json=as_json or invocation.output is not OutputFormat.TABLE,
            kill=not no_kill,
            directory=directory,
            out=out,
        )
    )
    raise typer.Exit(code)


def dev(
    *,
    clients: Annotated[int, typer.Option(help="How many clients.")] = 3,
    apps: Annotated[
        list[str] | None,
        typer.Option("--app", help="A study for all clients; repeatable; default: our own."),
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", help="Certificates, settings, database and logs.")
    ] = Path(".kumiai"),
    port: Annotated[int, typer.Option(help="Where clients connect; 0 takes a free one.")] = 8421,
    http_port: Annotated[
        int, typer.Option(help="Where operators connect; 0 takes a free one.")
    ] = 8420,
) -> None:
    """Start a coordinator and clients on this machine, with their own CA; not for production."""
    from kumiai.node.local.dev import DevOptions, run_dev

    options = DevOptions(
        directory=directory,
        clients=clients,
        apps=tuple(apps or ()),
        port=port,
        http_port=http_port,
    )
    raise typer.Exit(run_dev(options))


def simulate(
    ctx: typer.Context,
    study: Annotated[str, typer.Argument(metavar="STUDY.py[:app]", help="The study.")],
    *,
    job_file: Annotated[
        Path | None, typer.Option("--job", help="A job file; --set changes values of it.")
    ] = None,
    sites: Annotated[int, typer.Option(min=1, help="How many virtual sites.")] = 4,
    rounds: Annotated[int | None, typer.Option(min=1, help="How many; default: the job's.")] = None,
    site_options: Annotated[
        list[str] | None,
        typer.Option(
            "--site-option",
            metavar="KEY=VALUE",
            help="A data option of every site, as in a client's [client.data]; repeatable.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Receives the last model, .safetensors.")] = None,
) -> None:
    """Run a study with virtual clients in this process, without sockets."""
    from kumiai.node import simulation
    from kumiai.node.cli.job_source import value_of
    from kumiai.node.study import load_app

    invocation = invocation_of(ctx)
    app = load_app(study)
    job = _job_for(app, job_file, dict(invocation.overrides), rounds)
    is_table = invocation.output is OutputFormat.TABLE
    if job.privacy is not None:
        _tell_outlook(app, job)

    def tell(result: "RoundResult") -> None:
        if is_table:
            typer.echo(_round_line(result, job.run.rounds))
            sys.stdout.flush()
        elif invocation.output is OutputFormat.JSONL:
            emit(invocation.output, _round_data(result), Table((), ()))

    data = {
        key: value_of(text)
        for key, text in parse_overrides(site_options or [], "--site-option").items()
    }
    result = simulation.simulate(app, job, sites=sites, data=data, on_round=tell)
    if out is not None:
        result.save(out)
    if invocation.output is not OutputFormat.JSONL:
        told = {
            "app": app.name,
            "sites": sites,
            "seconds": result.seconds,
            "evaluation": dict(result.evaluation),
            "rounds": [_round_data(each) for each in result.history],
            "model": None if out is None else str(out),
        }
        note = f"{job.run.rounds} rounds with {sites} sites in {shown_duration(result.seconds)}"
        emit(invocation.output, told, Table((), (), note + (f"; model in {out}" if out else "")))


def _tell_outlook(app: "App", job: "JobSpec") -> None:
    from kumiai.node.noised_rounds import outlook_of
    from kumiai.node.study import initial_model

    model = initial_model(app, job.train, seed=job.run.seed)
    for line in outlook_of(job, sum(array.size for array in model.values())):
        typer.echo(line, err=True)


def version(ctx: typer.Context) -> None:
    """Print the version of Kumiai and of Python."""
    emit(invocation_of(ctx).output, _versions(), Table((), (), note=_version_line()))


def tell_version(is_asked: bool) -> None:
    """Print the version and end, if ``--version`` stands on the line."""
    if is_asked:
        typer.echo(_version_line())
        raise typer.Exit


def _versions() -> dict[str, str]:
    import platform

    from kumiai import __version__

    return {"kumiai": __version__, "python": platform.python_version()}


def _version_line() -> str:
    found = _versions()
    return f"kumiai {found['kumiai']}, Python {found['python']}"


def _job_for(
    app: "App", path: Path | None, overrides: dict[str, str], rounds: int | None
) -> "JobSpec":
    from kumiai.node.cli.job_source import job_from, load_job, split_overrides

    for_job, _ = split_overrides(overrides)
    if rounds is not None:
        for_job["run.rounds"] = str(rounds)
    if path is not None:
        return load_job(path, for_job)
    base: dict[str, Any] = {"run": {"app": app.name}}
    if app.evaluate_function is None:
        base["evaluation"] = {"every": 0}
    return job_from(base, for_job)


def _round_data(result: "RoundResult") -> dict[str, Any]:
    return {
        "round": result.round,
        "reports": result.reports,
        "metrics": dict(result.metrics),
        "evaluation": dict(result.evaluation),
    }


def _round_line(result: "RoundResult", rounds: int) -> str:
    update_count = "1 update" if result.reports == 1 else f"{result.reports} updates"
    told = [f"round {result.round} of {rounds}", update_count if result.round else "initial model"]
    if result.metrics:
        told.append(f"training: {shown_metrics(result.metrics)}")
    if result.evaluation:
        told.append(f"evaluation: {shown_metrics(result.evaluation)}")
    return "; ".join(told)
