#!/usr/bin/env python3
"""Writes data/flow_quality.json: the calibrated score on synthetic features, computed with numpy straight
from the definition (docs/math.md), as an oracle for anomaly_test.cc.

usage: make_golden.py (needs numpy; run it in this folder)
"""
import json
import pathlib

import numpy as np


def main():
    rng = np.random.default_rng(3)
    rows, count, event_size = 121, 4, 32
    mixing = rng.normal(size=(count, count))
    features = np.round(rng.normal(size=(rows, count)) @ mixing + 3, 3)
    features[::11] *= 4  # what the trimming is for
    log_prob = np.round(rng.normal(size=rows) * 20 - 40, 3)

    half_a, half_b = features[0::2], features[1::2]
    centre = np.median(half_a, axis=0)
    scale = (np.percentile(half_a, 84, axis=0) - np.percentile(half_a, 16, axis=0)) / 2 + 1e-9
    z = (half_a - centre) / scale
    keep = np.ones(len(z), dtype=bool)
    for _ in range(4):
        mean = z[keep].mean(axis=0)
        covariance = np.cov(z[keep], rowvar=False)
        covariance = covariance + 0.02 * np.diag(np.diag(covariance))
        inverse = np.linalg.inv(covariance)
        distance = np.einsum("ij,jk,ik->i", z - mean, inverse, z - mean)
        keep = distance <= np.quantile(distance, 0.9)

    def deviations(rows_of):
        return (rows_of - centre) / scale - mean

    d = deviations(half_b)
    scores = np.sort(np.einsum("ij,jk,ik->i", d, inverse, d))
    nll = np.sort(-log_prob[1::2] / event_size)

    probes = np.round(rng.normal(size=(6, count)) @ mixing + 3, 3)
    probes[4] += 20
    probe_nll = np.array([nll[0] - 1, np.median(nll), nll[-1] + 1, nll[3], nll[10] + 1e-3, 1.25])
    d = deviations(probes)
    contributions = d * (d @ inverse)
    probe_scores = contributions.sum(axis=1)
    low, high = np.quantile(nll, [0.025, 0.975])
    golden = {
        "event_size": event_size, "features": features, "log_prob": log_prob, "centre": centre, "scale": scale,
        "mean": mean, "inverse_covariance": inverse, "scores": scores, "nll": nll,
        "reference_mean": nll.mean(), "reference_stddev": nll.std(ddof=1),
        "probes": probes, "probe_nll": probe_nll, "probe_contributions": contributions,
        "probe_scores": probe_scores,
        "probe_p": [(1 + np.sum(scores >= s)) / (len(scores) + 1) for s in probe_scores],
        "probe_ratio": probe_scores / scores[-1],
        "probe_rank": [np.mean(nll <= v) for v in probe_nll],
        "probe_typicality": [1 if v < low else 2 if v > high else 0 for v in probe_nll],
    }
    text = json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in golden.items()})
    (pathlib.Path(__file__).parent / "data" / "flow_quality.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
