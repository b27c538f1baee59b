"""Fits of scikit-learn's GaussianMixture from a given start, for the tests of this crate.

Needs scikit-learn; the version is written into the file. Run: python mixture.py > mixture.json
"""

import json

import numpy
import sklearn
from sklearn.mixture import GaussianMixture

random = numpy.random.default_rng(5)
centres = random.normal(size=(4, 3)) * 3
points = numpy.concatenate([c + random.normal(size=(n, 3)) * s for c, n, s in zip(centres, (25, 10, 40, 15), (1, 0.3, 2, 0.1))])
points = numpy.concatenate([points, points[:3], points[:3]]).round(6)
fits = []
for k, regularisation in ((1, 1e-6), (2, 1e-6), (4, 1e-6), (4, 0.1), (7, 1e-3)):
    means = points[random.choice(len(points), k, replace=False)]
    weights = numpy.full(k, 1 / k)
    variances = numpy.full((k, 3), 2.0)
    model = GaussianMixture(
        k, covariance_type="diag", reg_covar=regularisation, tol=1e-10, max_iter=2000,
        weights_init=weights, means_init=means, precisions_init=1 / variances,
    ).fit(points)
    assert model.converged_
    fits.append({
        "regularisation": regularisation,
        "start_weights": weights.tolist(), "start_means": means.tolist(), "start_variances": variances.tolist(),
        "weights": model.weights_.tolist(), "means": model.means_.tolist(), "variances": model.covariances_.tolist(),
        "memberships": model.predict_proba(points).tolist(),
        "log_likelihood": float(model.score_samples(points).sum()), "bic": float(model.bic(points)),
    })
print(json.dumps({"made_with": f"scikit-learn {sklearn.__version__}", "points": points.tolist(), "fits": fits}))
