"""What the commands that list or describe have in common: their options, and where lists go on."""

from typing import Annotated, Any

import typer

from kumiai.core.errors import ConfigError

__all__ = [
    "AddTags",
    "Cursor",
    "Description",
    "IfVersion",
    "Limit",
    "RemoveTags",
    "Search",
    "Tags",
    "changes_of",
    "shown_tags",
    "tell_cursor",
]

Tags = Annotated[
    list[str] | None, typer.Option("--tag", help="Only with this tag; repeatable, all count.")
]
Search = Annotated[
    str | None,
    typer.Option(help="Words, each the beginning of one in name, description or tags."),
]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")]
Cursor = Annotated[
    str | None, typer.Option(help="Goes on where a list with the same options ended.")
]
Description = Annotated[
    str | None, typer.Option("--description", "-d", help="The new description; '' removes it.")
]
AddTags = Annotated[list[str] | None, typer.Option("--tag", help="Adds a tag; repeatable.")]
RemoveTags = Annotated[list[str] | None, typer.Option("--untag", help="Removes it; repeatable.")]
IfVersion = Annotated[
    int | None,
    typer.Option(
        "--if-version", help="Only if nobody has changed it since this version, as `show` tells it."
    ),
]


def changes_of(
    description: str | None,
    add_tags: list[str] | None,
    remove_tags: list[str] | None,
    expected_version: int | None,
) -> dict[str, Any]:
    """Return the body of the request that describes something.

    Raises:
        ConfigError: there is nothing to change.
    """
    if description is None and not add_tags and not remove_tags:
        raise ConfigError("--description, --tag or --untag must be given, got none")
    return {
        "description": description,
        "add_tags": add_tags or [],
        "remove_tags": remove_tags or [],
        "expected_version": expected_version,
    }


def shown_tags(tags: list[str]) -> str:
    """Return tags for people."""
    return ", ".join(tags) or "-"


def tell_cursor(cursor: str | None) -> None:
    """Say how to go on, if there is more."""
    if cursor is not None:
        typer.echo(f"there is more; go on with --cursor {cursor}", err=True)
