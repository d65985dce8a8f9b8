"""Adds to simpo.json what TRL's CPOTrainer makes of orpo.json's micro-batches with SimPO's loss, and writes the weights after the last step.

    bun test/golden/simpo/rows.ts && python test/golden/simpo/make.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2, trl 1.16.0)

With `cpo_alpha` 0 nothing but the preference is learned; `nll_loss` is 0 in all that TRL notes then.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
ORPO = HERE.parent / "orpo"
sys.path.insert(0, str(ORPO))

from runs import train, write
from trl.experimental.cpo import CPOConfig, CPOTrainer

FILE = HERE / "simpo.json"


def trained(run, batches):
    own = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": run["simpoBeta"], "simpo_gamma": run["simpoGamma"]}
    return train(run, batches, HERE, CPOTrainer, CPOConfig, own, unknown=("nll_loss",))


write(FILE, json.loads(FILE.read_text()), json.loads((ORPO / "orpo.json").read_text())["batches"], trained)
