"""Checks what `remat export gguf` writes with llama.cpp itself, and writes llama-cpp.json beside this file.

    python llama-cpp.py --chat PROGRAM [CASE ...]

Needs the packages of ../models/make.py, sentencepiece, gguf and llama-cpp-python (0.3.36: llama.cpp 0.5.0, commit 0c1e570), and bun.
PROGRAM is chat.cpp beside this file, built against the same llama.cpp. Models are random ones of each family, wide enough for
blocks of 32; logits are compared at every position of three texts, the last of 200 tokens, as the greatest difference over the
greatest logit. Checked of each case:

- f32: the logits are those of Transformers.
- f16, bf16, q8_0, q4_0: the file's tensors are, to the bit, those that llama.cpp makes of the f32 file. (Its logits then
  differ by more than the weights' rounding: llama.cpp rounds activations to the type, too, q4_0's to 8 bits.)
- an adapter alone, on the base's file, and merged in: the logits are those of PEFT.
- the vocabulary: texts are split into the same tokens, but for those listed in the JSON file.
- the chat template: llama.cpp renders the conversations to the same texts.
"""

import argparse
import copy
import ctypes
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TOKENIZERS = HERE.parent / "tokenizers"
sys.path.insert(0, str(HERE.parent / "models"))

import internlm2  # noqa: E402, F401: makes the family known
import llama_cpp  # noqa: E402
import make as golden  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from gguf import GGUFReader  # noqa: E402
from sentencepiece import SentencePieceProcessor  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

TYPES = {"f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2}
WIDE = dict(
    hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=512,
    torch_dtype="float32", dtype="float32",
)
GEMMA = dict(head_dim=32, query_pre_attn_scalar=32, sliding_window=16)
LONG = dict(type="longrope", short_factor=[1, 1.05, 1.1, 1.2, 1.3, 1.5], long_factor=[1, 1.4, 2.1, 3.5, 4.2, 5.5])


def yarn(**more):
    return dict(rope_theta=10000.0, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=128, **more))


# Family and tokenizer among the fixtures, and what is changed of the family's configuration.
CASES = {
    "llama": ("llama", "llama3", {}),
    "llama-linear": ("llama-linear", "smollm", {}),
    "llama-biases": ("llama", "llama3", dict(attention_bias=True, mlp_bias=True)),
    "llama-yarn": ("smollm2", "smollm", yarn()),
    "llama-yarn-betas": ("smollm2", "smollm", yarn(beta_fast=4.0, beta_slow=3.0)),
    "llama-yarn-untruncated": ("smollm2", "smollm", yarn(truncate=False)),
    "smollm2": ("smollm2", "smollm", {}),
    "mistral": ("mistral", "mistral", dict(sliding_window=None, head_dim=24)),
    "qwen2": ("qwen2", "qwen", {}),
    "qwen2-yarn": ("qwen2", "qwen", yarn()),
    "qwen2-yarn-factor": ("qwen2", "qwen", yarn(attention_factor=1.5)),
    "qwen2-yarn-mscale": ("qwen2", "qwen", yarn(mscale=0.7, mscale_all_dim=0.4)),
    "qwen3": ("qwen3", "qwen", dict(head_dim=24)),
    "gemma2": ("gemma2", "gemma2", GEMMA),
    "gemma3": ("gemma3", "gemma3", dict(GEMMA, num_hidden_layers=7, sliding_window_pattern=6, rope_local_base_freq=10000.0)),
    "gemma3-vision": ("gemma3-vision", "gemma3", dict(GEMMA, num_hidden_layers=7, layer_types=None)),
    "phi3": ("phi3", "phi3", dict(num_key_value_heads=2, sliding_window=None)),
    "phi4-mini": ("phi4-mini", "phi4", dict(rope_scaling=LONG, original_max_position_embeddings=256)),
    "internlm2": ("internlm2", "internlm2", dict(bias=False)),
    "internlm3": ("internlm3", "internlm3", dict(head_dim=24)),
}
# In f32; Gemma's activation comes from a table in f16 in llama.cpp.
BOUND, GEMMA_BOUND = 2e-5, 1e-3

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCXYZ", "0123456789", " ", "  \t\n\r", "'\".,;:!?/\\-_()[]{}", "éüñçÄÖß", "абвгДЕЖ", "αβγΔ", "你好世界日本",
    "हिन्दी", "ไทย", "العَرَ", "\u00a0\u3000\u200b", "😀👍", "½²Ⅷ", "\u0301\u0308", "'s't'll'RE",
]


def random_texts(count):
    pick = random.Random(5)
    texts = []
    for _ in range(count):
        some = pick.sample(ALPHABETS, pick.randrange(1, 6))
        texts.append("".join(pick.choice(pick.choice(some)) for _ in range(pick.randrange(1, 24))))
    return texts


LOG = []


@llama_cpp.llama_log_callback
def keep_log(level, text, _):
    LOG.append(text.decode(errors="replace"))


class Llama:
    def __init__(self, path, context=256, adapter=None, only_vocabulary=False):
        LOG.clear()
        settings = llama_cpp.llama_model_default_params()
        settings.vocab_only = only_vocabulary
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        assert self.model, f"{path} is not loaded: {''.join(LOG)[-1500:]}"
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        if only_vocabulary:
            return
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = context
        settings.n_threads = settings.n_threads_batch = 1
        # The cache in f32, and no flash attention, which computes in f16.
        settings.type_k = settings.type_v = 0
        settings.flash_attn_type = 0
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        assert self.context, "".join(LOG)[-1500:]
        if adapter:
            handle = llama_cpp.llama_adapter_lora_init(self.model, str(adapter).encode())
            assert handle, f"{adapter} is not loaded: {''.join(LOG)[-1500:]}"
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(handle)
            assert llama_cpp.llama_set_adapters_lora(self.context, adapters, 1, (ctypes.c_float * 1)(1.0)) == 0

    def tokens(self, text):
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.vocabulary, data, len(data), room, len(room), False, True)
        assert count >= 0
        return list(room[:count])

    def logits(self, ids):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, id in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = id, i, 1, 1
            batch.seq_id[i][0] = 0
        assert llama_cpp.llama_decode(self.context, batch) == 0
        shape = (len(ids), llama_cpp.llama_vocab_n_tokens(self.vocabulary))
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), shape=shape).copy()
        llama_cpp.llama_batch_free(batch)
        return logits


def export(model, out, type, *more):
    command = ["bun", ROOT / "src/cli/main.ts", "export", "gguf", "--model", model, "--out", out, "--type", type, *more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def product_tokens(folder, texts):
    """The product's own tokens, which tests compare with Transformers'."""
    program = (
        f"import {{ loadTokenizer }} from {json.dumps(str(ROOT / 'src/data/tokens/tokenizer.ts'))};"
        "const { folder, texts } = await Bun.stdin.json(); const tokenizer = loadTokenizer(folder);"
        "console.log(JSON.stringify(texts.map((text) => [...tokenizer.encode(text)])));"
    )
    data = json.dumps(dict(folder=str(folder), texts=texts))
    return json.loads(subprocess.run(["bun", "-e", program], input=data, check=True, capture_output=True, text=True).stdout)


def vocabulary_size(folder):
    if (folder / "tokenizer.model").exists():
        return SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).vocab_size()
    data = json.loads((folder / "tokenizer.json").read_text())
    return max(*data["model"]["vocab"].values(), *(token["id"] for token in data["added_tokens"])) + 1


def make_model(name, folder):
    family, tokenizer, changes = CASES[name]
    spec = golden.FAMILIES[family]
    size = vocabulary_size(TOKENIZERS / tokenizer)
    # Some embeddings more than tokens, as many models have.
    changes = {**WIDE, **changes, "vocab_size": -(-size // 8) * 8 + 8}
    config = copy.deepcopy({**golden.COMMON, **spec["config"]})
    text = config.get("text_config", config)
    text.update(changes)
    if text is not config:
        # The part that reads texts, of a model that sees images too; llama.cpp has this base in layers with a window.
        config["torch_dtype"] = config["dtype"] = "float32"
        text["rope_parameters"]["sliding_attention"]["rope_theta"] = 10000.0
    if family in ("phi3", "phi4-mini", "internlm2"):
        del config["head_dim"]
    folder.mkdir()
    golden.write_json(folder / "config.json", config)
    generator = torch.Generator().manual_seed(7)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager")
    golden.randomise(model, generator)
    golden.save_checkpoint(model, folder, torch.float32, None, spec.get("names", ()))
    golden.save_adapter(folder, spec["targets"], generator)
    for file in (TOKENIZERS / tokenizer).iterdir():
        if file.name != "cases.json":
            shutil.copy(file, folder)
    return size


def reference(folder, ids, load=golden.load_model):
    with torch.no_grad():
        return load(folder, torch.float32).eval()(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()


def difference(got, expected):
    return float(np.abs(got[:, : expected.shape[1]] - expected).max() / np.abs(expected).max())


def check_quantised(f32, path, type):
    """llama.cpp's own conversion of the f32 file holds the same bytes."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = TYPES[type], 1
    theirs = path.with_name("theirs.gguf")
    assert llama_cpp.llama_model_quantize(str(f32).encode(), str(theirs).encode(), ctypes.byref(settings)) == 0, "".join(LOG)[-1500:]
    expected = {tensor.name: tensor for tensor in GGUFReader(theirs).tensors}
    other = []
    for tensor in GGUFReader(path).tensors:
        wanted = expected.pop(tensor.name)
        if tensor.tensor_type != wanted.tensor_type:
            other.append(f"{tensor.name} {tensor.tensor_type.name} {wanted.tensor_type.name}")
        else:
            assert np.array_equal(tensor.data, wanted.data), f"{path} {type} {tensor.name}"
    assert not expected
    return other


def check_logits(name, folder, size, out):
    generator = np.random.default_rng(3)
    bound = GEMMA_BOUND if name.startswith("gemma") else BOUND
    texts = [generator.integers(5, size, count).tolist() for count in (1, 7, 200)]
    f32 = export(folder, out / "f32" / "m.gguf", "f32")
    errors = {}

    def compare(type, model, texts, load=golden.load_model):
        pairs = [(model.logits(ids), reference(folder, ids, load)) for ids in texts]
        errors[type] = max(difference(*pair) for pair in pairs)
        return sum((a[:, : b.shape[1]].argmax(1) == b.argmax(1)).sum() for a, b in pairs) / sum(len(b) for _, b in pairs)

    assert compare("f32", Llama(f32), texts) == 1
    if name == "phi4-mini":
        # Beyond the original context: the other factors.
        compare("f32, long", Llama(f32, 512), [generator.integers(5, size, 300).tolist()])
    adapter = folder / "adapter"
    alone = export(folder, out / "alone" / "m.gguf", "f32", "--adapter", adapter, "--adapter-only")
    compare("adapter", Llama(f32, adapter=alone), texts, golden.load_adapted)
    compare("adapter merged in", Llama(export(folder, out / "merged" / "m.gguf", "f32", "--adapter", adapter)), texts, golden.load_adapted)
    for type, error in errors.items():
        assert error < bound, f"{name} {type}: {error}"
    agreement = {}
    for type in TYPES:
        path = export(folder, out / type / "m.gguf", type)
        other = check_quantised(f32, path, type)
        if other:
            print(f"  {type}: another type than llama.cpp's: {', '.join(other)}")
        agreement[type] = compare(type, Llama(path), texts)
    return {type: float(f"{error:.1e}") for type, error in errors.items()}, {type: round(float(same), 3) for type, same in agreement.items()}


def check_tokens(tokenizer, folder, path):
    """The texts of the fixture and random ones; returns how many there are, and what llama.cpp makes of those that it splits otherwise."""
    cases = json.loads((TOKENIZERS / tokenizer / "cases.json").read_text())
    known = [(case["text"], case["ids"]) for case in [*cases["texts"], *cases["chats"]] if "ids" in case]
    more = random_texts(4000)
    pairs = [*known, *zip(more, product_tokens(folder, more))]
    model = Llama(path, only_vocabulary=True)
    got = [(text, model.tokens(text), ids) for text, ids in pairs]
    return len(pairs), {text: tokens for text, tokens, ids in got if tokens != ids}


def check_chats(program, tokenizer, path):
    conversations = json.loads((TOKENIZERS / "conversations.json").read_text())
    expected = {case["name"]: case.get("text") for case in json.loads((TOKENIZERS / tokenizer / "cases.json").read_text())["chats"]}
    lines = "".join(json.dumps(conversation) + "\n" for conversation in conversations)
    output = subprocess.run([program, path], input=lines, check=True, capture_output=True, text=True).stdout
    texts = {conversation["name"]: json.loads(line) for conversation, line in zip(conversations, output.splitlines(), strict=True)}
    return len(texts), {name: text for name, text in texts.items() if text != expected[name]}


def check_base(out):
    """The bundled model: its logits on a text, and what it goes on with greedily."""
    folder = ROOT / "recipes/base/model"
    text = "And it came to pass in those days, that there went out a decree from Caesar Augustus, that all the world should be taxed."
    ids = product_tokens(folder, [text])[0]
    transformer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = transformer(input_ids=torch.tensor([ids])).logits[0].numpy()
        greedy = transformer.generate(torch.tensor([ids[:5]]), max_new_tokens=40, do_sample=False)[0].tolist()
    errors = {}
    for type in ("f32", *TYPES):
        model = Llama(export(folder, out / type / "m.gguf", type), 512)
        assert model.tokens(text) == ids
        errors[type] = float(f"{difference(model.logits(ids), expected):.1e}")
        if type == "f32":
            more = ids[:5]
            while len(more) < len(greedy):
                more.append(int(model.logits(more)[-1].argmax()))
            assert more == greedy
    assert errors["f32"] < BOUND
    return errors


def write(results):
    """One line for each case, text or tokenizer."""

    def lines(value, depth):
        if not isinstance(value, dict) or not value or depth == 4 or all(isinstance(inner, float) for inner in value.values()):
            return json.dumps(value)
        pad = " " * depth
        return "{\n" + ",\n".join(f"{pad} {json.dumps(key)}: {lines(inner, depth + 1)}" for key, inner in value.items()) + f"\n{pad}}}"

    (HERE / "llama-cpp.json").write_text(lines(results, 0) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--chat", required=True)
    parser.add_argument("cases", nargs="*", help="default: all, and the results are written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    llama_cpp.llama_log_set(keep_log, None)
    results = {"versions": f"llama.cpp 0.5.0 (0c1e570), {golden.VERSIONS}", "logits": {}, "agreement": {}, "tokens": {}, "chats": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.cases or CASES:
            tokenizer = CASES[name][1]
            folder, out = Path(temporary) / name, Path(temporary) / f"{name}-gguf"
            size = make_model(name, folder)
            results["logits"][name], results["agreement"][name] = check_logits(name, folder, size, out)
            print(name, results["logits"][name], results["agreement"][name], flush=True)
            if tokenizer in results["tokens"]:
                continue
            count, other = check_tokens(tokenizer, folder, out / "f32" / "m.gguf")
            results["tokens"][tokenizer] = {"texts": count, "different": other}
            chats, unlike = check_chats(arguments.chat, tokenizer, out / "f32" / "m.gguf")
            results["chats"][tokenizer] = {"conversations": chats, "different": unlike}
            print(f"  {tokenizer}: {len(other)} of {count} texts, {len(unlike)} of {chats} conversations differ", flush=True)
        results["logits"]["bundled model"] = check_base(Path(temporary) / "base")
        print("bundled model", results["logits"]["bundled model"])
    if not arguments.cases:
        write(results)


if __name__ == "__main__":
    main()
