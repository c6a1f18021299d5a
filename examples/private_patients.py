"""Heart disease with every patient hidden in noise: `python examples/private_patients.py`.

The study is `heart_hospitals.py`, which gives each patient's gradient; how private the run is says
`private_patients.toml`. Sites tell nothing of it but noised sums, so that who holds all of the
held-out patients, as here, measures the model.
"""

from pathlib import Path

from heart_hospitals import app, sites

import kumiai as km

if __name__ == "__main__":
    result = km.simulate(app, Path(__file__).with_suffix(".toml"), sites=sites)
    tests = [
        app.evaluate_function(result.weights, app.context(km.Site(name, options)))
        for name, options in sites.items()
    ]
    right = sum(test.examples * test.metrics["accuracy"] for test in tests)
    print(f"accuracy {right / sum(test.examples for test in tests):.3f}")
    print(result.privacy)
