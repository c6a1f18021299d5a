"""Core: errors, identifiers, clock, digests, named arrays and their bytes.

The lowest room: everything may import it, it imports nothing of ours. It is synchronous and pure;
what touches the world (the clock, crash points) is an interface here and brought in from above.

Nothing is offered here itself: import from the modules (``from kumiai.core.errors import
ConfigError``), so that a program which needs only an error does not load numpy.
"""

__all__: list[str] = []
