"""Adds to dpo.json what TRL's DPOTrainer makes of orpo.json's micro-batches, and writes the weights after the last step.

    bun test/golden/dpo/rows.ts && python test/golden/dpo/make.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2, trl 1.16.0)

The reference is the model as it was at the start: a copy of the whole model, or of the adapter that is trained further.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
ORPO = HERE.parent / "orpo"
sys.path.insert(0, str(ORPO))

from runs import train, write
from settings import InOrder
from trl import DPOConfig, DPOTrainer

FILE = HERE / "dpo.json"


class Recording(InOrder):
    """Takes the pairs as they are tokenized; notes losses and metrics of micro-batches."""

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def _compute_loss(self, model, inputs, return_outputs):
        result = super()._compute_loss(model, inputs, return_outputs)
        loss = result[0] if isinstance(result, tuple) else result
        kind = "train" if self.model.training else "eval"
        kept = {name: values[-1] for name, values in self._metrics[kind].items() if name.startswith(("rewards/", "logps/"))}
        self.notes.append((kind, self.state.global_step, {"loss": loss.item(), **kept}))
        return result


def row_of(pair):
    """A tokenized pair: the prompt is what neither text learns."""
    chosen, rejected = pair["chosen"], pair["rejected"]
    prompt = sum(label == -100 for label in chosen["labels"])
    return {"prompt_ids": chosen["ids"][:prompt], "chosen_ids": chosen["ids"][prompt:], "rejected_ids": rejected["ids"][prompt:]}


def trained(run, batches):
    own = {"loss_type": run["dpoLoss"], "beta": run["dpoBeta"]}
    return train(run, batches, HERE, DPOTrainer, DPOConfig, own, recording=Recording, row_of=row_of)


write(FILE, json.loads(FILE.read_text()), json.loads((ORPO / "orpo.json").read_text())["batches"], trained)
