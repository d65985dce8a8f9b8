"""Epsilons of opacus's RDP accountant on a grid. Usage: python make.py (needs opacus 1.6.0), writes opacus.json beside itself."""

import json
import warnings
from pathlib import Path

from opacus.accountants.analysis import rdp
from opacus.accountants.rdp import RDPAccountant

warnings.simplefilter("ignore")
ORDERS = RDPAccountant.DEFAULT_ALPHAS


def epsilon(history, delta):
    accountant = RDPAccountant()
    accountant.history = list(history)
    value, order = accountant.get_privacy_spent(delta=delta)
    return {"steps": [{"noise": n, "rate": q, "steps": s} for n, q, s in history], "delta": delta, "epsilon": value, "order": order}


cases = [
    epsilon([(noise, rate, steps)], delta)
    for noise in (0.5, 0.7, 1.0, 1.5, 3.0, 8.0)
    for rate in (1e-4, 0.002, 0.01, 0.05, 0.25, 1.0)
    for steps in (1, 30, 1000, 20000)
    for delta in (1e-5, 1e-7)
] + [epsilon([(1.1, 0.01, 500), (0.8, 0.03, 100), (2.0, 1.0, 3)], 1e-6)]
steps = [
    {"noise": noise, "rate": rate, "order": order, "rdp": float(rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=float(order)))}
    for noise in (0.5, 1.0, 4.0)
    for rate in (1e-3, 0.02, 0.3)
    for order in (1.1, 1.7, 2, 2.5, 5, 8.3, 20, 63)
]
Path(__file__).with_name("opacus.json").write_text(json.dumps({"orders": ORDERS, "cases": cases, "steps": steps}) + "\n")
