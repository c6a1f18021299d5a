"""Four small real data sets, shipped with the package, and the ways to split data over sites.

``load_*`` return a whole data set. ``digits``, ``breast_cancer``, ``heart`` and ``rand_hie`` are
data loaders: ``App("x", data=km.datasets.heart)`` gives each site its part, already divided into
training and held-out rows. No download, no other package; licences stand in ``LICENSES.md``.
"""

from kumiai.node.datasets.dataset import Dataset, SiteData, hold_out
from kumiai.node.datasets.files import load_breast_cancer, load_digits, load_heart, load_rand_hie
from kumiai.node.datasets.loaders import breast_cancer, digits, heart, rand_hie
from kumiai.node.datasets.partition import by_site, dirichlet_partition, iid_partition

__all__ = [
    "Dataset",
    "SiteData",
    "breast_cancer",
    "by_site",
    "digits",
    "dirichlet_partition",
    "heart",
    "hold_out",
    "iid_partition",
    "load_breast_cancer",
    "load_digits",
    "load_heart",
    "load_rand_hie",
    "rand_hie",
]
