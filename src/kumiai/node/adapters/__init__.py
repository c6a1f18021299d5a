"""From a model of another library to an ``App``: PyTorch modules, scikit-learn estimators.

Each adapter is a module of its own and imports its library on first use, so that neither is needed
by anyone else.
"""
