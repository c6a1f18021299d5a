"""Handwritten digits of three hundred devices, each hidden: `python examples/private_devices.py`.

The study is `quickstart.py`, as it is; how private the run is says `private_devices.toml`. Nobody
has to know beforehand how long updates are: the clip finds their median by itself.
"""

from pathlib import Path

from quickstart import app

import kumiai as km


def tell(result):
    if result.round:
        print(f"round {result.round}: clip {result.metrics['privacy.clip']:.2f}")


if __name__ == "__main__":
    job = Path(__file__).with_suffix(".toml")
    result = km.simulate(app, job, sites=300, on_round=tell)
    everything = app.context(km.Site("all"))
    print(app.evaluate_function(result.weights, everything).metrics)
    print(result.privacy)
