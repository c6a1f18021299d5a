"""``kumiai demo``: a federation of real processes, real data and one killed client, in seconds."""

from kumiai.node.demo.options import DemoOptions
from kumiai.node.demo.program import run_demo

__all__ = ["DemoOptions", "run_demo"]
