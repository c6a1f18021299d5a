"""Health insurance at six real sites: will a person cause any medical expense this year?

Logistic regression over the RAND Health Insurance Experiment. Between 66 % and 85 % of a site's
person-years do, so accuracy says little here and the area under the ROC curve (``auc``) more.
Features are scaled by the constants below, round figures that were not computed from these people.

Entries of the job's ``train`` table: ``epochs`` (1), ``batch_size`` (64), ``learning_rate`` (0.05),
``l2`` (0.001). With a strategy that sends ``proximal_mu``, FedProx's term is added.
"""

from collections.abc import Mapping
from typing import Any

import kumiai as km
from kumiai.node.studies import logistic

SCALES = {
    "coins": (40, 40),  # coinsurance the person pays, percent
    "black": (0.5, 0.5),
    "xage": (25, 18),  # age, years
    "female": (0.5, 0.5),
    "educdec": (12, 3),  # education of the decision maker, years
    "num": (4, 2),  # people in the family
    "mhi": (75, 15),  # mental health index, 0 to 100
    "disea": (10, 7),  # index of chronic diseases
    "physlm": (0.5, 0.5),  # physical limitation
    "child": (0.5, 0.5),
    "lpi": (4, 3),  # log of the yearly participation incentive
    "idp": (0.5, 0.5),  # individual deductible plan
    "fmde": (4, 4),  # log of the maximum expense over coinsurance
    "hlthg": (0.5, 0.5),  # health rated good by the person
    "hlthf": (0.5, 0.5),  # fair
    "hlthp": (0.5, 0.5),  # poor
    "linc": (9, 1),  # log of the family's income
}
CATEGORIES = {"year": (1, 2, 3, 4, 5)}
COLUMNS = len(SCALES) + sum(map(len, CATEGORIES.values()))


def load(site: km.Site) -> km.datasets.SiteData:
    """Return the site's person-years, scaled and coded."""
    return logistic.standardized(km.datasets.rand_hie(site), scales=SCALES, categories=CATEGORIES)


app = km.App("rand", data=load)


@app.model
def model(_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a regression that knows nothing yet."""
    return logistic.model(COLUMNS)


@app.train
def train(weights: dict[str, Any], context: km.Context) -> km.Update:
    """Run one epoch over the site's person-years."""
    return logistic.train(weights, context, epochs=1, batch_size=64, rate=0.05)


@app.gradients
def gradients(weights: dict[str, Any], context: km.Context) -> dict[str, Any]:
    """Return each person's gradient, for runs that hide every person."""
    return logistic.gradients(weights, context)


@app.evaluate
def evaluate(weights: dict[str, Any], context: km.Context) -> km.Evaluation:
    """Return loss, accuracy and AUC on the site's held-out people."""
    return logistic.evaluate(weights, context)
