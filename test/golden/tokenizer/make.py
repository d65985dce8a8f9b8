"""Makes the tokenizer fixtures of this folder with Hugging Face tokenizers and Transformers.

    python make.py

`trained.json`: what the library's own BPE trainer learns from a text of this repository, and the ids it gives to hard
texts. `bundled.json`: what Transformers makes of hard texts and chats with the tokenizer of the bundled base model.
"""

import json
from pathlib import Path

import tokenizers
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB = 700
VERSIONS = f"tokenizers {tokenizers.__version__}, transformers {transformers.__version__}"

HARD = [
    "",
    " ",
    "\n",
    "Define bore.",
    "A person who talks when you wish him to listen.",
    "   leading, trailing and    inner   spaces   ",
    "tabs\tand\t\tnew\n\nlines\r\nof\rall kinds\n   indented\n",
    "\u00a0no-break\u00a0space\u2003em space\u3000ideographic\u200bzero width\ufeffbom\u0085next line",
    "I'll say it's they've we're he'd I'm can't 'tis 'TIS I'LL",
    "numbers 1 12 123 1234567890 3.14 1,000,000 0x1F 2nd \u0661\u0662\u0663 \u2160 \u00bd \u00b2",
    "signs !@#$%^&*()_+-=[]{}|;':\",./<>? ~` ... -- \u2014 \u2026 \u00ab\u00bb \u201cquoted\u201d",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m \ufb01ne stra\u00dfe \u0130stanbul",
    "emoji \U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f \U0001f44d\U0001f3fd",
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \uc548\ub155 \u0627\u0644\u0633\u0644\u0627\u0645 \u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947 \u041f\u0440\u0438\u0432\u0435\u0442",
    "def f(x):\n    return {\n        'a': x**2,  # square\n    }\n\n\nif __name__ == \"__main__\":\n\tprint(f(3))\n",
    "special <|im_start|>user\nhello<|im_end|>\n<|endoftext|> inside <|im_end|><|im_end|>",
    "almost special <|im_start <|im_end| > <| endoftext |> |im_start|>",
    "\u0000\u0001\u007f controls \u001b[31mred\u001b[0m",
    "private \ue000 noncharacter \uffff last plane \U0010ffff combining a\u0300\u0301\u0302",
    "a" * 300 + " " * 70 + "\n" * 20,
]

CHATS = [
    [{"role": "user", "content": "Define bore."}],
    [{"role": "user", "content": "Define bore."}, {"role": "assistant", "content": "n. A person who talks."}],
    [
        {"role": "system", "content": "You are a cynic."},
        {"role": "user", "content": "  Two\n\nlines \u2764\ufe0f  "},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "with <|im_end|> inside"},
    ],
]


def trained():
    lines = (ROOT / "recipes/devils-dictionary/valid.jsonl").read_text().splitlines()
    texts = [message["content"] for line in lines for message in json.loads(line)["messages"]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        min_frequency=2,
        special_tokens=[AddedToken(token, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {
        "versions": VERSIONS,
        "vocabSize": VOCAB,
        "specialTokens": SPECIAL,
        "vocab": sorted(model["vocab"], key=model["vocab"].get),
        "merges": [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]],
        "texts": [{"text": text, "ids": tokenizer.encode(text).ids} for text in HARD],
    }


def bundled():
    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / "recipes/base/model")
    texts = [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in HARD]
    for case in texts:
        assert tokenizer.decode(case["ids"], clean_up_tokenization_spaces=False) == case["text"]
    chats = []
    for messages in CHATS:
        for prompt in (False, True):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=True)["input_ids"]
            chats.append({"messages": messages, "addGenerationPrompt": prompt, "text": text, "ids": ids})
    return {
        "versions": VERSIONS,
        "eosId": tokenizer.eos_token_id,
        "padId": tokenizer.pad_token_id,
        "texts": texts,
        "chats": chats,
    }


for name, value in (("trained", trained()), ("bundled", bundled())):
    (HERE / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")
