"""Adds to kto.json what TRL's KTOTrainer makes of its micro-batches, and writes the weights after the last step.

    bun test/golden/kto/rows.ts && python test/golden/kto/make.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2, trl 1.16.0)

The reference is the model as it was at the start: a copy of the whole model, or of the adapter that is trained further. Answers of a kind may be
missing in a micro-batch: what is said of a kind is the mean over its answers in all micro-batches of a step.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "orpo"))

from runs import train, write
from settings import InOrder
from trl import KTOConfig, KTOTrainer

FILE = HERE / "kto.json"
KINDS = ("chosen", "rejected")


class Recording(InOrder):
    """Takes the answers as they are tokenized; notes losses and metrics of micro-batches."""

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def _compute_loss(self, model, inputs, return_outputs):
        loss = super()._compute_loss(model, inputs, return_outputs)
        mode = "train" if self.model.training else "eval"
        chosen = int(inputs["label"].sum())
        counts = dict(zip(KINDS, (chosen, len(inputs["label"]) - chosen)))
        last = {name: values[-1] for name, values in self._metrics[mode].items()}
        kinds = {kind: (count, last[f"rewards/{kind}"], last[f"logps/{kind}"]) for kind, count in counts.items() if count > 0}
        value = (loss[0] if isinstance(loss, tuple) else loss).item()
        self.notes.append((mode, self.state.global_step, {"loss": value, "kl": last["kl"], **kinds}))
        return loss


def combined(notes):
    metrics = {name: sum(note[name] for note in notes) / len(notes) for name in ("loss", "kl")}
    for kind in KINDS:
        found = [note[kind] for note in notes if kind in note]
        answers = sum(count for count, _, _ in found)
        if answers > 0:
            metrics[f"rewards/{kind}"] = sum(count * reward for count, reward, _ in found) / answers
            metrics[f"logps/{kind}"] = sum(count * logp for count, _, logp in found) / answers
    if all(f"rewards/{kind}" in metrics for kind in KINDS):
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    return metrics


def row_of(answer):
    """A tokenized answer: the prompt is what it does not learn, the same in the mismatched text."""
    text, mismatched = answer["text"], answer["mismatched"]["ids"]
    prompt = sum(label == -100 for label in text["labels"])
    return {
        "prompt_ids": text["ids"][:prompt],
        "completion_ids": text["ids"][prompt:],
        "KL_completion_ids": mismatched[prompt:],
        "label": answer["label"],
    }


def trained(run, batches):
    own = {
        "loss_type": run.get("ktoLoss", "kto"),
        "beta": run["ktoBeta"],
        "desirable_weight": run["ktoDesirableWeight"],
        "undesirable_weight": run["ktoUndesirableWeight"],
    }
    # Nothing is held against how far the model has moved there, and TRL notes 0.
    without = {"kl"} if own["loss_type"] != "kto" else set()
    mean = lambda notes: {name: value for name, value in combined(notes).items() if name not in without}
    return train(run, batches, HERE, KTOTrainer, KTOConfig, own, recording=Recording, row_of=row_of, mean=mean)


fixture = json.loads(FILE.read_text())
write(FILE, fixture, fixture["batches"], trained)
