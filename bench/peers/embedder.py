"""The work of bench/encoder/step.ts in sentence-transformers: its trainer with MultipleNegativesRankingLoss on a model with random weights in
all-MiniLM-L6-v2's shape, all weights trained in f32. Prints one JSON line with the same keys.

    python bench/peers/embedder.py --rows 64 --length 128 --steps 4
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("--rows", type=int, default=64)
parser.add_argument("--length", type=int, default=128)
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

os.environ["OMP_NUM_THREADS"] = str(args.threads)
os.environ["MKL_NUM_THREADS"] = str(args.threads)
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Nothing is looked up in the network.
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets  # noqa: E402
import sentence_transformers as st  # noqa: E402
import sentence_transformers.losses  # noqa: E402, F401
import sentence_transformers.models  # noqa: E402, F401
import torch  # noqa: E402
import transformers  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(1)

# The numbers of MINILM in bench/shapes.ts.
config = transformers.BertConfig(
    hidden_size=384,
    intermediate_size=1536,
    num_hidden_layers=6,
    num_attention_heads=12,
    vocab_size=30522,
    max_position_embeddings=512,
    layer_norm_eps=1e-12,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
VOCABULARY = [f"w{i}" for i in range(config.vocab_size - 5)]


def words(rng):
    """A text of `length` tokens, two of which are special."""
    return " ".join(VOCABULARY[i] for i in torch.randint(0, len(VOCABULARY), (args.length - 2,), generator=rng).tolist())


class Times(transformers.TrainerCallback):
    """Times of whole steps, from one to the next: batches are made between them, as a user's run has it."""

    def __init__(self):
        self.wall, self.cpu = [], []

    def on_step_begin(self, *_args, **_kwargs):
        self.begin = (time.perf_counter(), time.process_time())

    def on_step_end(self, *_args, **_kwargs):
        self.wall.append(time.perf_counter() - self.begin[0])
        self.cpu.append(time.process_time() - self.begin[1])


with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "vocab.txt"), "w") as file:
        file.write("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *VOCABULARY]))
    tokenizer = transformers.BertTokenizer(os.path.join(folder, "vocab.txt"))
    bert = os.path.join(folder, "bert")
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    transformer = st.models.Transformer(bert, max_seq_length=args.length)
    model = st.SentenceTransformer(modules=[transformer, st.models.Pooling(config.hidden_size, "mean")], device="cpu")
    rng = torch.Generator().manual_seed(1)
    pairs = args.rows // 2
    texts = [words(rng) for _ in range(2 * pairs * args.steps)]
    lengths = {len(tokenizer(text)["input_ids"]) for text in texts[:4]}
    if lengths != {args.length}:
        sys.exit(f"expected texts of {args.length} tokens; got {lengths}")
    data = datasets.Dataset.from_dict({"anchor": texts[0::2], "positive": texts[1::2]})
    times = Times()
    trainer = st.SentenceTransformerTrainer(
        model=model,
        args=st.SentenceTransformerTrainingArguments(
            output_dir=os.path.join(folder, "run"),
            per_device_train_batch_size=pairs,
            max_steps=args.steps,
            learning_rate=2e-5,
            weight_decay=0.0,
            max_grad_norm=1.0,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=data,
        loss=st.losses.MultipleNegativesRankingLoss(model),
        callbacks=[times],
    )
    result = trainer.train()
    wall = statistics.median(times.wall[1:] or times.wall)
    tokens = args.rows * args.length
    print(
        json.dumps(
            {
                "versions": {
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                    "sentence-transformers": st.__version__,
                },
                "tokens": tokens,
                "threads": torch.get_num_threads(),
                "loss": result.training_loss,
                "stepSeconds": wall,
                "tokensPerSecond": tokens / wall,
                "stepCpuSeconds": statistics.median(times.cpu[1:] or times.cpu),
                # Kibibytes on Linux, bytes on macOS.
                "peakRss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            }
        )
    )
