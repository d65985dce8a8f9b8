"""Adds to classify.json and encoders.json what Transformers' Trainer makes of their micro-batches, and writes the heads at the start and the weights at the end.

    bun test/golden/classify/rows.ts && python test/golden/classify/make.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2)

A run is one training of 20 steps of a `...ForSequenceClassification` with accumulated micro-batches of two texts, several epochs laid end to
end, warm-up, clipping that takes effect, weight decay and a falling rate; then the logits of the first epoch's texts. Some texts end with
the token of padding. The Trainer is told that the model's loss knows nothing of accumulation, or it would add the means of micro-batches
up instead of taking theirs.

losses.json has losses of PyTorch for logits, with their derivatives (weights of classes, smoothing), and metrics.
"""

import json
import tempfile
from pathlib import Path

import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import Trainer, TrainingArguments

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "trainer"))

from judges import PAD, adapted, judge_of
from settings import InOrder, arguments

FILES = [HERE / "classify.json", HERE / "encoders.json"]
EPOCHS = 5
PROBLEMS = {"single": "single_label_classification", "several": "multi_label_classification", "number": "regression"}


def model_of(run):
    model, head = judge_of(run, 1 if run["kind"] == "number" else 3, problem_type=PROBLEMS[run["kind"]])
    return (model if run["method"] == "full" else adapted(model, run)), head


def collate(kind):
    def of(rows):
        length = max(len(row["ids"]) for row in rows)
        pad = lambda values, filler: values + [filler] * (length - len(values))
        target = torch.tensor([row["target"] for row in rows], dtype=torch.float32)
        types = {"token_type_ids": torch.tensor([pad(row["types"], 0) for row in rows])} if "types" in rows[0] else {}
        return {
            **types,
            "input_ids": torch.tensor([pad(row["ids"], PAD) for row in rows]),
            "attention_mask": torch.tensor([pad([1] * len(row["ids"]), 0) for row in rows]),
            "labels": target[:, 0].long() if kind == "single" else target[:, 0] if kind == "number" else target,
        }

    return of


class Recording(InOrder, Trainer):
    def training_step(self, *args, **more):
        loss = super().training_step(*args, **more)
        self.notes.append((self.state.global_step, loss.item()))
        return loss


def train(run, name, batches):
    model, head = model_of(run)
    rows = [row for batch in batches for row in batch]
    with tempfile.TemporaryDirectory() as output:
        args = TrainingArguments(output_dir=output, label_names=["labels"], **arguments(run))
        trainer = Recording(model=model, train_dataset=rows, data_collator=collate(run["kind"]), args=args)
        trainer.notes = []
        trainer.model_accepts_loss_kwargs = False
        trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    steps = []
    for step, norm in enumerate(norms):
        own = [loss for at, loss in trainer.notes if at == step]
        assert len(own) == run["gradientAccumulation"]
        steps.append({"loss": sum(own), "gradientNorm": float(norm)})
    model.eval()
    logits = []
    with torch.no_grad():
        for row in rows[: len(rows) // EPOCHS]:
            types = {"token_type_ids": torch.tensor([row["types"]])} if "types" in row else {}
            logits.append(model(input_ids=torch.tensor([row["ids"]]), **types).logits[0].tolist())
    weights = head | {
        name.replace(".modules_to_save.default", "").replace(".default", ""): value.detach().float().contiguous()
        for name, value in model.named_parameters()
        # Of a whole model one block is enough: the others are in its losses.
        if value.requires_grad and (run["method"] == "lora" or not any(part in name for part in (".layers.1.", ".layer.1.", ".layer.2.")))
    }
    save_file(weights, HERE / f"{name}.safetensors")
    (HERE / f"{name}.safetensors").chmod(0o644)
    return {"steps": steps, "logits": logits}


def losses():
    """Losses and derivatives for random logits."""
    torch.manual_seed(2)
    cases = []
    for kind, own in (
        ("single", {}),
        ("single", {"label_smoothing": 0.2}),
        ("single", {"weight": [0.5, 2.0, 1.25, 3.0]}),
        ("single", {"weight": [0.5, 2.0, 1.25, 3.0], "label_smoothing": 0.1}),
        ("several", {}),
        ("number", {}),
    ):
        logits = 3 * torch.randn(6, 1 if kind == "number" else 4)
        logits = logits.requires_grad_()
        if kind == "single":
            target = torch.randint(0, 4, (6,))
            weight = torch.tensor(own["weight"]) if "weight" in own else None
            loss = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=own.get("label_smoothing", 0.0))(logits, target)
        elif kind == "several":
            target = torch.randint(0, 2, (6, 4)).float()
            loss = torch.nn.BCEWithLogitsLoss()(logits, target)
        else:
            target = torch.randn(6, 1)
            loss = torch.nn.MSELoss()(logits, target)
        loss.backward()
        found = {"logits": logits.detach(), "target": target, "gradient": logits.grad}
        cases.append({"kind": kind, **own, "loss": loss.item(), **{name: value.flatten().tolist() for name, value in found.items()}})
    return cases


def ranks(values):
    """Places in order; equal values share the mean of theirs."""
    return torch.stack([((values < value).sum() + 1 + (values <= value).sum()) / 2.0 for value in values])


def f1(guess, target):
    return (2 * (guess & target).sum() / (guess.sum() + target.sum()).clamp(min=1)).item()


def ece_of(p, target):
    """Expected calibration error, in 15 bins."""
    confidence, guess = p.max(-1)
    ece = 0.0
    for bin in range(15):
        inside = (confidence > bin / 15) & (confidence <= (bin + 1) / 15)
        if inside.any():
            ece += inside.double().mean() * (confidence[inside].mean() - (guess == target)[inside].double().mean()).abs()
    return float(ece)


def metrics():
    """Metrics of random logits, by PyTorch in float64."""
    torch.manual_seed(3)
    logits = (2 * torch.randn(300, 4)).double()
    target = torch.where(torch.rand(300) < 0.6, logits.argmax(-1), torch.randint(0, 4, (300,)))
    p = logits.float().double().softmax(-1)
    guess = p.argmax(-1)
    hot = torch.nn.functional.one_hot(target, 4).double()
    single = {
        "class_accuracy": (guess == target).double().mean().item(),
        "f1_macro": sum(f1(guess == c, target == c) for c in range(4)) / 4,
        "brier": ((p - hot) ** 2).sum(-1).mean().item(),
        "ece": ece_of(p, target),
    }
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits.float().double() / log_t.exp(), target)
        loss.backward()
        return loss

    optimizer.step(closure)
    temperature = log_t.exp().item()
    cooled = (logits.float().double() / temperature).softmax(-1)
    calibrated = {
        "temperature": temperature,
        "ece": ece_of(cooled, target),
        "brier": ((cooled - hot) ** 2).sum(-1).mean().item(),
    }
    several = torch.where(torch.rand(300, 4) < 0.7, (logits > 0).double(), torch.randint(0, 2, (300, 4)).double())
    chosen, wanted = logits >= 0, several.bool()
    many = {
        "class_accuracy": (chosen == wanted).all(-1).double().mean().item(),
        "f1_macro": sum(f1(chosen[:, c], wanted[:, c]) for c in range(4)) / 4,
        "f1_micro": f1(chosen, wanted),
        "brier": ((logits.float().double().sigmoid() - several) ** 2).mean().item(),
    }
    value = logits[:, 0].round(decimals=1).float().double()
    given = (value + torch.randn(300)).round().float().double()
    number = {
        "mse": ((value - given) ** 2).mean().item(),
        "pearson": torch.corrcoef(torch.stack([value, given]))[0, 1].item(),
        "spearman": torch.corrcoef(torch.stack([ranks(value), ranks(given)]).double())[0, 1].item(),
    }
    return [
        {"kind": "single", "logits": logits.float().flatten().tolist(), "target": target.tolist(), "metrics": single, "calibrated": calibrated},
        {"kind": "several", "logits": logits.float().flatten().tolist(), "target": several.flatten().tolist(), "metrics": many},
        {"kind": "number", "logits": value.tolist(), "target": given.tolist(), "metrics": number},
    ]


for file in FILES:
    fixture = json.loads(file.read_text())
    for run in fixture["runs"]:
        run["expected"] = train(run["settings"], run["name"], fixture["batches"][run["settings"]["kind"]])
    fixture["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    file.write_text(json.dumps(fixture) + "\n")
(HERE / "losses.json").write_text(json.dumps({"losses": losses(), "metrics": metrics()}) + "\n")
