"""A PyTorch network at five unlike sites, with FedProx: `python examples/torch_digits.py`.

Needs `pip install 'kumiai[torch]'`.
"""

import torch
from torch import nn

import kumiai as km


def load(site):
    data = km.datasets.digits(site, dirichlet=0.3)  # a few classes make up most of a site
    return km.datasets.SiteData(data.x_train / 16, data.y_train, data.x_test / 16, data.y_test)


def build():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


app = km.torch(
    "torch-digits",
    build,
    loss=nn.functional.cross_entropy,
    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.2),
    data=load,
    epochs=2,
    batch_size=16,
)

if __name__ == "__main__":
    strategy = {"name": "fedprox", "proximal_mu": 0.01}
    result = km.run(app, sites=5, rounds=15, strategy=strategy)
    print(result.evaluation)

    network = build()  # the model is a state_dict: back into a module it goes
    network.load_state_dict({n: torch.from_numpy(a) for n, a in result.weights.items()})
