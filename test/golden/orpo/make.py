"""Adds to orpo.json what TRL's ORPOTrainer makes of its micro-batches (see runs.py), and writes the weights after the last step.

    bun test/golden/orpo/rows.ts && python test/golden/orpo/make.py
"""

import json
from pathlib import Path

from runs import train, write
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

HERE = Path(__file__).parent
FILE = HERE / "orpo.json"


def trained(run, batches):
    return train(run, batches, HERE, ORPOTrainer, ORPOConfig, {"beta": run["orpoLambda"]})


fixture = json.loads(FILE.read_text())
write(FILE, fixture, fixture["batches"], trained)
