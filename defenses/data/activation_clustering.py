"""Activation clustering: poisons form the smaller of two clusters of a class (Chen et al., 2018, arXiv:1811.03728)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from robustsuite.methods.backdoors.features import features
from robustsuite.serve import stages
from robustsuite.serve.data import Split


@stages.data(
    paper="Chen et al., 2018, arXiv:1811.03728",
    learns=True,
    differs=("principal components in place of the paper's independent ones, as the common implementations",),
)
def activation_clustering(
    split: Split, trained: Callable[[Split], nn.Module], *, share: float = 0.35, components: int = 10, seed: int = 0
) -> Split:
    """The train set without the smaller of two feature clusters of each class, where that holds less than `share`.

    trained: makes the network whose last features are clustered. components: principal components kept.
    """
    from sklearn.cluster import KMeans  # half a second, which the listing of plugins need not take
    from sklearn.decomposition import PCA

    x, y = features(trained(split), split).double().numpy(), split.y.numpy()
    keep = np.ones(len(y), bool)
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        if len(rows) <= components:
            continue
        low = PCA(min(components, x.shape[1]), random_state=seed).fit_transform(x[rows])
        cluster = KMeans(2, n_init=10, random_state=seed).fit_predict(low)
        small = int(cluster.mean() < 0.5)
        if (cluster == small).mean() < share:
            keep[rows[cluster == small]] = False
    return split.at(torch.from_numpy(np.flatnonzero(keep)))
