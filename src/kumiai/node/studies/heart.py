"""Heart disease at four real hospitals: logistic regression on 13 findings.

The sites are Cleveland, Budapest, Zurich/Basel and Long Beach. They differ in how ill their
patients are (36 % to 93 %) and in which findings they record at all; a missing one is told to the
model as such. Measures are scaled by the constants below, round clinical figures that were not
computed from these patients.

Entries of the job's ``train`` table: ``epochs`` (2), ``batch_size`` (16), ``learning_rate`` (0.02),
``l2`` (0.001). With a strategy that sends ``proximal_mu``, FedProx's term is added.
"""

from collections.abc import Mapping
from typing import Any

import kumiai as km
from kumiai.node.studies import logistic

SCALES = {
    "age": (55, 10),  # years
    "sex": (0.5, 0.5),  # 1 male
    "trestbps": (130, 20),  # resting blood pressure, mm Hg
    "chol": (240, 50),  # serum cholesterol, mg/dl
    "fbs": (0, 1),  # fasting blood sugar > 120 mg/dl
    "thalach": (140, 25),  # highest heart rate reached, 1/min
    "exang": (0.5, 0.5),  # angina induced by exercise
    "oldpeak": (1, 1),  # ST depression by exercise, mm
    "ca": (1, 1),  # major vessels coloured by fluoroscopy, 0 to 3
}
CATEGORIES = {
    "cp": (1, 2, 3, 4),  # typical angina, atypical, other pain, none
    "restecg": (0, 1, 2),  # normal, ST-T wave, hypertrophy
    "slope": (1, 2, 3),  # of the ST segment: up, flat, down
    "thal": (3, 6, 7),  # normal, fixed defect, reversible defect
}
MISSING = ("trestbps", "chol", "fbs", "thalach", "oldpeak", "slope", "ca", "thal")
COLUMNS = len(SCALES) + sum(map(len, CATEGORIES.values())) + len(MISSING)


def load(site: km.Site) -> km.datasets.SiteData:
    """Return the hospital's patients, scaled and coded."""
    return logistic.standardized(
        km.datasets.heart(site), scales=SCALES, categories=CATEGORIES, missing=MISSING
    )


app = km.App("heart", data=load)


@app.model
def model(_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a regression that knows nothing yet."""
    return logistic.model(COLUMNS)


@app.train
def train(weights: dict[str, Any], context: km.Context) -> km.Update:
    """Run two epochs over the hospital's patients."""
    return logistic.train(weights, context, epochs=2, batch_size=16, rate=0.02)


@app.gradients
def gradients(weights: dict[str, Any], context: km.Context) -> dict[str, Any]:
    """Return each patient's gradient, for runs that hide every patient."""
    return logistic.gradients(weights, context)


@app.evaluate
def evaluate(weights: dict[str, Any], context: km.Context) -> km.Evaluation:
    """Return loss, accuracy and AUC on the hospital's held-out patients."""
    return logistic.evaluate(weights, context)
