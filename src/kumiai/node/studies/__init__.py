"""The studies that come with the package: ``digits``, ``heart`` and ``rand``.

Each is a module with one ``app``, written as a data scientist would write it: against ``import
kumiai`` alone. ``STUDIES`` holds the apps by name; ``baselines`` computes what a federated result
is compared with.
"""

from kumiai.node.studies import digits, heart, rand
from kumiai.node.studies.baselines import Baselines, baselines, measured_everywhere

__all__ = ["STUDIES", "Baselines", "baselines", "measured_everywhere"]

STUDIES = {app.name: app for app in (digits.app, heart.app, rand.app)}
