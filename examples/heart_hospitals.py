"""Heart disease at four real hospitals: `python examples/heart_hospitals.py`.

Each hospital keeps its patients; what leaves it is a logistic regression of 13 weights and the
means of its held-out patients' accuracy. Measures are scaled by round clinical figures, so that no
hospital has to tell the others its averages.
"""

import numpy as np

import kumiai as km

#           age sex  cp  trestbps chol fbs restecg thalach exang oldpeak slope ca thal
MIDDLE = np.array([55, 0.5, 3, 130, 240, 0, 1, 140, 0.5, 1, 2, 1, 5], np.float32)
WIDTH = np.array([10, 0.5, 1, 20, 50, 1, 1, 25, 0.5, 1, 1, 1, 2], np.float32)


class Heart:
    """The same study as a class: its methods are its functions."""

    def data(self, site):
        data = km.datasets.heart(site)
        return self.scaled(data.x_train), data.y_train, self.scaled(data.x_test), data.y_test

    def model(self, config):
        return {"weight": np.zeros(13, np.float32), "bias": np.zeros(1, np.float32)}

    def train(self, weights, context):
        x, y, _, _ = context.data
        rate = context.config.get("learning_rate", 0.1)
        for step in range(20):
            error = self.probability(weights, x) - y
            weights["weight"] -= rate * (error @ x) / len(y)
            weights["bias"] -= rate * error.mean()
            context.report(step / 20)
        return km.Update(weights, len(y), {"mean_error": np.abs(error).mean()})

    def gradients(self, weights, context):  # of each patient, for private_patients.py
        x, y, _, _ = context.data
        error = self.probability(weights, x) - y
        return {"weight": error[:, None] * x, "bias": error[:, None]}

    def evaluate(self, weights, context):
        _, _, x, y = context.data
        right = (self.probability(weights, x) > 0.5) == y
        return km.Evaluation(len(y), {"accuracy": right.mean()})

    def scaled(self, x):
        return np.nan_to_num((x - MIDDLE) / WIDTH)  # a missing measure counts as an average one

    def probability(self, weights, x):
        return 1 / (1 + np.exp(-(x @ weights["weight"] + weights["bias"])))


app = km.App("heart-hospitals", study=Heart)
sites = {
    name: {"site": name} for name in ["cleveland", "budapest", "zurich_basel", "long_beach_va"]
}

if __name__ == "__main__":
    result = km.run(
        app,
        sites=sites,
        rounds=15,
        on_round=lambda each: print(f"round {each.round:2}: {dict(each.evaluation)}"),
    )
    result.save("heart.safetensors")
