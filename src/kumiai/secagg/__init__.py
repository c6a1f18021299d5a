"""Secure aggregation: the coordinator learns the sum of a round's updates, and no single one.

State machines of the client's and the coordinator's side, their messages, and what both compute.
Everything here is pure and synchronous: messages in, actions out; whoever calls makes records
durable, sends messages and keeps the time.
"""

__all__: list[str] = []
