"""Sparse linear heads fitted on frozen features, which the study compares with DKA."""

from collections.abc import Iterator

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression

from experiments.plan import L1_RATIO
from models.heads import DenseHead


def elastic_nets(pooled: np.ndarray, targets: np.ndarray, strengths: tuple[float, ...]) -> Iterator[DenseHead]:
    """Sparse linear heads fitted on frozen features, the sparsest first (Zou and Hastie 2005; solver SAGA).

    Args:
        pooled: (V, N) features of the training images; they are standardised for the fit, and the heads take them
            as they are.
        targets: (V,) their classes.
        strengths: values of C, ascending.
    """
    mean, spread = pooled.mean(0), pooled.std(0) + 1e-6
    fit = LogisticRegression(solver="saga", l1_ratio=L1_RATIO, warm_start=True, tol=1e-3, max_iter=200, random_state=0)
    if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):  # later versions infer it from l1_ratio
        fit.set_params(penalty="elasticnet")
    for strength in strengths:
        fit.set_params(C=strength).fit((pooled - mean) / spread, targets)
        weight = fit.coef_ / spread
        bias = fit.intercept_ - weight @ mean
        yield DenseHead.of(torch.from_numpy(weight).float(), torch.from_numpy(bias).float())
