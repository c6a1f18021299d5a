"""Handwritten digits of thirty small sites, each hidden: `python examples/private_clients.py`.

The study is `quickstart.py`, as it is; how private the run is says `private_clients.toml`. Sites
tell nothing of it but noised sums, so that who holds the held-out images, as here, measures the
model.
"""

from pathlib import Path

from quickstart import app

import kumiai as km

if __name__ == "__main__":
    result = km.simulate(app, Path(__file__).with_suffix(".toml"), sites=30)
    everything = app.context(km.Site("all"))
    print(app.evaluate_function(result.weights, everything).metrics)
    print(result.privacy)
