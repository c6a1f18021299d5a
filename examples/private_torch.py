"""The network of `torch_digits.py`, trained privately: `python examples/private_torch.py`.

The same study, with no line changed: that sites train by clipped and noised steps says
`private_torch.toml`. Needs `pip install 'kumiai[torch]'`, for PyTorch and Opacus.
"""

from pathlib import Path

from torch_digits import app

import kumiai as km

if __name__ == "__main__":
    result = km.simulate(app, Path(__file__).with_suffix(".toml"), sites=5)
    tests = [
        app.evaluate_function(
            result.weights,
            app.context(km.Site(f"s{number}", {"partition": number, "partitions": 5})),
        )
        for number in range(5)
    ]
    right = sum(test.examples * test.metrics["accuracy"] for test in tests)
    print(f"accuracy {right / sum(test.examples for test in tests):.3f}")
    print(result.privacy)
