"""scikit-learn's logistic regression at five clinics: `python examples/sklearn_breast_cancer.py`.

Needs `pip install 'kumiai[sklearn]'`.
"""

from sklearn.linear_model import LogisticRegression

import kumiai as km


def load(site):
    data = km.datasets.breast_cancer(site)
    # Each clinic scales by its own averages, so none has to leave it.
    middle, width = data.x_train.mean(axis=0), data.x_train.std(axis=0)
    return km.datasets.SiteData(
        (data.x_train - middle) / width,
        data.y_train,
        (data.x_test - middle) / width,
        data.y_test,
    )


app = km.sklearn(
    "sklearn-breast-cancer",
    LogisticRegression(max_iter=5),
    data=load,
    features=30,
    classes=(0, 1),
)

if __name__ == "__main__":
    print(km.run(app, sites=5, rounds=10).evaluation)
