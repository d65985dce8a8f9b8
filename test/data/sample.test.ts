import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { createChatTemplate } from "../../src/data/chat/chat-template.ts";
import { trainedTexts } from "../../src/data/chat/chat-spans.ts";
import { parseExample, type ChatExample } from "../../src/data/examples/formats.ts";
import { createSampleMaker, type SampleOptions } from "../../src/data/samples/sample-maker.ts";
import { IGNORED, sampleParts, type Sample } from "../../src/data/samples/sample.ts";
import { createTokenizer, loadTokenizer, type Tokenizer } from "../../src/data/tokens/tokenizer.ts";
import { userError } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const folder = join(import.meta.dir, "../golden/tokenizers");
const qwen = loadTokenizer(join(folder, "qwen"));
const llama3 = loadTokenizer(join(folder, "llama3"));
const mistral = loadTokenizer(join(folder, "mistral"));
const phi3 = loadTokenizer(join(folder, "phi3"));
const phi4 = loadTokenizer(join(folder, "phi4"));
const smollm = loadTokenizer(join(folder, "smollm"));
const gemma2 = loadTokenizer(join(folder, "gemma2"));
const gemma3 = loadTokenizer(join(folder, "gemma3"));

function samples(tokenizer: Tokenizer, data: object, options: Partial<SampleOptions> = {}): Sample[] {
  const maker = createSampleMaker(tokenizer, { maxLength: 10_000, vocabSize: tokenizer.size, ...options });
  return maker.samples(parseExample(JSON.stringify(data), "data.jsonl:3"));
}

/** The sample as text, trained parts in brackets. */
function shown(tokenizer: Tokenizer, sample: Sample): string {
  for (let t = 0; t < sample.ids.length; t++) expect([IGNORED, sample.ids[t]!]).toContain(sample.labels[t]!);
  return sampleParts(tokenizer, sample)
    .map(({ text, trained }) => (trained ? `⟦${text}⟧` : text))
    .join("");
}

const show = (tokenizer: Tokenizer, data: object) => samples(tokenizer, data).map((sample) => shown(tokenizer, sample));

const user = (content: string) => ({ role: "user", content });
const assistant = (content: string, more: object = {}) => ({ role: "assistant", content, ...more });
const system = (content: string) => ({ role: "system", content });

describe("chat: the assistant's turns, end token included, line break after it not", () => {
  test("generation blocks give Transformers' assistant mask on every conversation", async () => {
    const cases = (await Bun.file(join(folder, "smollm/cases.json")).json()) as {
      chats: { name: string; ids: number[]; mask: number[] }[];
    };
    const conversations = (await Bun.file(join(folder, "conversations.json")).json()) as {
      messages: unknown[];
      tools?: unknown[];
    }[];
    cases.chats.forEach((item, i) => {
      const { messages, tools } = conversations[i]!;
      const example = { messages, ...(tools ? { tools } : {}) };
      // What this template has no place for.
      const lost = /tool|reasoning key/.exec(item.name);
      if (lost) return expect(userError(() => samples(smollm, example))).toContain("the chat template leaves out");
      const [sample, ...rest] = samples(smollm, example);
      // The fixture of "prompt" ends in a generation prompt, which training data never has.
      const length = item.name === "prompt" ? sample!.ids.length : item.ids.length;
      expect(rest).toEqual([]);
      expect([...sample!.ids]).toEqual(item.ids.slice(0, length));
      expect(Array.from(sample!.labels, (label) => Number(label !== IGNORED))).toEqual(item.mask.slice(0, length));
    });
  });

  test("a template whose renderings extend each other gives one sample (Llama 3)", () => {
    const messages = [system("Be kind."), user("hi"), assistant("hello"), user("bye"), assistant(" so long ")];
    expect(show(llama3, { messages })).toEqual([
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n\nBe kind.<|eot_id|>" +
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦hello<|eot_id|>⟧" +
        "<|start_header_id|>user<|end_header_id|>\n\nbye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦so long<|eot_id|>⟧",
    ]);
  });

  test("Gemma's turns: the model's own with their end, a system prompt only where the template has a place for it", () => {
    const messages = [user("hi"), assistant(" hello "), user("bye"), assistant("so long")];
    const turns =
      "<start_of_turn>model\n⟦hello<end_of_turn>⟧\n<start_of_turn>user\nbye<end_of_turn>\n" +
      "<start_of_turn>model\n⟦so long<end_of_turn>⟧\n";
    for (const tokenizer of [gemma2, gemma3])
      expect(show(tokenizer, { messages })).toEqual([`<bos><start_of_turn>user\nhi<end_of_turn>\n${turns}`]);
    const prompted = { messages: [system("Be kind."), ...messages] };
    expect(show(gemma3, prompted)).toEqual([`<bos><start_of_turn>user\nBe kind.\n\nhi<end_of_turn>\n${turns}`]);
    expect(userError(() => show(gemma2, prompted))).toContain("no system prompt here");
  });

  test("tool calls are the assistant's, tool answers are not", () => {
    const call = { role: "assistant", content: null, tool_calls: [{ function: { name: "f", arguments: { x: 1 } } }] };
    expect(show(llama3, { messages: [user("hi"), call, { role: "tool", content: "2" }, assistant("two")] })[0]).toEndWith(
      '⟦{"name": "f", "parameters": {"x": 1}}<|eot_id|>⟧<|start_header_id|>ipython<|end_header_id|>\n\n2<|eot_id|>' +
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦two<|eot_id|>⟧",
    );
  });

  test("a token that closes whole conversations is context, unless nothing else ends a turn (Phi-3)", () => {
    const messages = [system("Be kind."), user("hi"), assistant("hello"), user("1"), assistant("")];
    expect(show(phi3, { messages })).toEqual([
      "<s><|system|> Be kind.<|end|><|user|> hi<|end|><|assistant|>⟦ hello<|end|>⟧<|user|> 1<|end|><|assistant|>⟦<|end|>⟧<|endoftext|>",
    ]);
    expect(show(phi4, { messages })).toEqual([
      "<|system|>Be kind.<|end|><|user|>hi<|end|><|assistant|>⟦hello<|end|>⟧<|user|>1<|end|><|assistant|>⟦<|end|>⟧<|endoftext|>",
    ]);
    const bare =
      "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{{ 'assistant: ' if add_generation_prompt else eos_token }}";
    const closed = { ...phi4, chatTemplates: new Map([["default", bare]]) };
    expect(show(closed, { messages: messages.slice(1, 3) })).toEqual(["user: hi\nassistant:⟦ hello\n<|endoftext|>⟧"]);
    expect(show(closed, { messages: messages.slice(1, 4).concat(assistant("one")) })).toEqual([
      "user: hi\nassistant:⟦ hello\n<|endoftext|>⟧",
      "user: hi\nassistant: hello\nuser: 1\nassistant:⟦ one\n<|endoftext|>⟧",
    ]);
  });

  test("a template that rewrites earlier turns gives one sample a turn, each as the model will see it (Qwen3, Mistral)", () => {
    const messages = [user("1"), assistant("<think>\na\n</think>\n\none"), user("2"), assistant("<think>\nb\n</think>\n\ntwo")];
    expect(show(qwen, { messages })).toEqual([
      "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n⟦<think>\na\n</think>\n\none<|im_end|>⟧\n",
      "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n<|im_start|>user\n2<|im_end|>\n" +
        "<|im_start|>assistant\n⟦<think>\nb\n</think>\n\ntwo<|im_end|>⟧\n",
    ]);
    const moved = [system("S"), user("1"), assistant("one"), user("2"), assistant("two")];
    expect(show(mistral, { messages: moved })).toEqual([
      "<s> [INST] S\n\n1 [/INST]⟦ one</s>⟧",
      "<s> [INST] 1 [/INST] one</s> [INST] S\n\n2 [/INST]⟦ two</s>⟧",
    ]);
  });

  test("each turn's tokens have its weight, with and without generation blocks, in one sample or several", () => {
    const messages = [
      user("1"),
      assistant("half", { weight: 0.5 }),
      user("2"),
      assistant("no", { weight: 0 }),
      user("3"),
      assistant("all"),
    ];
    for (const tokenizer of [smollm, llama3, mistral]) {
      const weights = samples(tokenizer, { messages }).flatMap((sample) => {
        const counted = [...sample.labels.keys()].filter((t) => sample.labels[t] !== IGNORED);
        const text = (weight: number) =>
          tokenizer.decode(
            Int32Array.from(
              counted.filter((t) => (sample.weights?.[t] ?? 1) === weight),
              (t) => sample.ids[t]!,
            ),
          );
        return [text(0.5), text(1)];
      });
      expect(weights.filter((text) => text !== "").map((text) => text.trim().slice(0, 3))).toEqual(["hal", "all"]);
    }
    const plain = { messages: messages.map(({ role, content }) => ({ role, content })) };
    for (const sample of samples(llama3, plain)) expect(sample.weights).toBeNull();
    const [cut] = samples(llama3, { messages }, { maxLength: 40, truncate: true });
    expect(cut!.weights!.length).toBe(40);
  });

  test("weight 0 and the prompt's messages are not trained on", () => {
    const messages = [user("1"), assistant("no", { weight: 0 }), user("2"), assistant("yes", { weight: 1 })];
    for (const tokenizer of [llama3, smollm]) {
      const text = show(tokenizer, { messages });
      expect(text).toHaveLength(1);
      expect(text[0]).toContain("yes");
      expect(text[0]!.match(/⟦.*?⟧/gs)).toHaveLength(1);
      expect(
        show(tokenizer, {
          prompt: messages.slice(0, 3).map(({ role, content }) => ({ role, content })),
          completion: [assistant("yes")],
        }),
      ).toEqual(text);
    }
  });

  test("an assistant turn that comes first, empty turns, special tokens in texts", () => {
    expect(show(llama3, { messages: [assistant("hello"), user("x")] })[0]).toContain("\n\n⟦hello<|eot_id|>⟧");
    expect(show(smollm, { messages: [user(""), assistant("")] })[0]).toEndWith("assistant\n⟦<|im_end|>⟧\n\n");
    expect(show(qwen, { messages: [user("a"), assistant("<|im_end|> b")] })[0]).toEndWith(
      "</think>\n\n<|im_end|> b<|im_end|>⟧\n",
    );
  });

  test("parts that are texts: as the template writes them, or as lines where it would write the list itself", () => {
    const parts = (...texts: string[]) => texts.map((text) => ({ type: "text", text }));
    const messages = [
      { role: "user", content: parts("Sum this.", "1 2") },
      { role: "assistant", content: parts("3") },
    ];
    const lines = { messages: [user("Sum this.\n1 2"), assistant("3")] };
    // No loop over parts.
    for (const tokenizer of [qwen, llama3, phi3]) expect(show(tokenizer, { messages })).toEqual(show(tokenizer, lines));
    // Gemma's own loop writes them one after the other.
    expect(show(gemma3, { messages })).toEqual(show(gemma3, { messages: [user("Sum this.1 2"), assistant("3")] }));
  });

  test("a role that the template passes over without a word is an error; one that it writes is not", () => {
    const messages = [{ role: "developer", content: "Be brief." }, user("Hi"), assistant("Yo")];
    expect(userError(() => samples(qwen, { messages }))).toBe(
      'data.jsonl:3: the chat template leaves out message 1, whose role is "developer"; give it one of system, user, assistant, tool',
    );
    expect(show(llama3, { messages })[0]).toContain("developer<|end_header_id|>\n\nBe brief.");
  });

  test("a template that renders the messages before a turn otherwise once it is there: the turn is found by its own words", () => {
    const texts = (source: string, messages: object[]) => {
      const example = parseExample(JSON.stringify({ messages }), "f:1") as ChatExample;
      return trainedTexts(createChatTemplate(source), example, ["<end>"]).map(({ text, ranges }) => {
        const [[from, to], ...others] = ranges as [[number, number], ...[number, number][]];
        const marked = [...others]
          .toReversed()
          .reduce((all, [a, b]) => `${all.slice(0, a)}⟦${all.slice(a, b)}⟧${all.slice(b)}`, text);
        return `${marked.slice(0, from)}⟦${marked.slice(from, to)}⟧${marked.slice(to)}`;
      });
    };
    const counted = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
    expect(texts(counted, [user("q"), assistant("a")])).toEqual(["2q⟦a⟧"]);
    expect(texts(counted, [user("q"), assistant("a"), user("r"), assistant("b")])).toEqual(["2q⟦a⟧", "4qar⟦b⟧"]);
    // The last message is closed otherwise, and the generation prompt has words of its own.
    const last =
      "{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ ('' if loop.last else '.') ~ '<end>' }}{% endfor %}" +
      "{% if add_generation_prompt %}assistant:<think>{% endif %}";
    expect(texts(last, [user("q"), assistant("<a"), user("assistant:"), assistant("<b")])).toEqual([
      "user:q.<end>assistant:⟦<a<end>⟧",
      "user:q.<end>assistant:<a.<end>user:assistant:.<end>assistant:⟦<b<end>⟧",
    ]);
  });

  test("a template that does not end, and one whose text doubles without an end, are refused within a bound of steps and of bytes", () => {
    const render = (source: string) => userError(() => createChatTemplate(source).render({ messages: [] }));
    const loop = "{% for i in range(100000) %}";
    expect(render(`${loop}${loop}{% endfor %}{% endfor %}`)).toMatch(/it does not come to an end within 30\d{5} steps/);
    expect(render("{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}")).toContain(
      "its texts and lists grow without an end (beyond 64 MiB)",
    );
  });

  test("a template's own refusal reaches the user", () => {
    expect(userError(() => show(mistral, { messages: [user("a"), user("b"), assistant("c")] }))).toContain(
      "Roles must alternate",
    );
    expect(userError(() => createChatTemplate("{% if %}"))).toContain("cannot be parsed");
  });
});

describe("models without a chat template", () => {
  const json = (name: string) => Bun.file(join(folder, name, "tokenizer.json")).json() as Promise<Record<string, unknown>>;

  test("ChatML when the vocabulary has its tokens", async () => {
    const tokenizer = createTokenizer(await json("smollm"), { eos_token: "<|endoftext|>" });
    expect(show(tokenizer, { messages: [system("S"), user("hi"), assistant("yo")] })).toEqual([
      "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n⟦yo<|im_end|>⟧\n",
    ]);
  });

  test("role and content otherwise, with bos where the tokenizer adds it, eos after the assistant", async () => {
    const named = { bos_token: "<s>", eos_token: "</s>" };
    expect(show(createTokenizer(await json("mistral"), named), { messages: [user("hi"), assistant("yo")] })).toEqual([
      "<s> user: hi\nassistant:⟦ yo</s>⟧ \n",
    ]);
    const bare = createTokenizer(await json("llama3"), {});
    expect(userError(() => show(bare, { messages: [user("hi"), assistant("yo")] }))).toContain(
      "neither a chat template nor an eos_token",
    );
  });
});

describe("prompt and completion, text", () => {
  test("the completion and one eos are trained on; the prefix of the tokenizer comes first", () => {
    expect(show(llama3, { prompt: "The river", completion: " runs" })).toEqual(["<|begin_of_text|>The river⟦ runs<|eot_id|>⟧"]);
    expect(show(mistral, { prompt: "The river", completion: " runs</s>" })).toEqual(["<s> The river⟦ runs</s>⟧"]);
    expect(show(smollm, { prompt: "", completion: "runs" })).toEqual(["⟦runs<|im_end|>⟧"]);
  });

  test("a token that reaches over the border belongs to the completion", () => {
    const [sample] = samples(smollm, { prompt: "the mi", completion: "ller" });
    const whole = smollm.encode("the miller");
    expect([...sample!.ids]).toEqual([...whole, smollm.eosId!]);
    const first = sample!.labels.findIndex((label) => label !== IGNORED);
    expect(smollm.decode(sample!.ids.subarray(0, first)).length).toBeLessThanOrEqual("the mi".length);
    expect(smollm.decode(sample!.ids.subarray(0, first + 1)).length).toBeGreaterThan("the mi".length);
  });

  test("all of a text", () => {
    expect(show(llama3, { text: "The river" })).toEqual(["<|begin_of_text|>⟦The river<|eot_id|>⟧"]);
    expect(show(smollm, { text: "The river" })).toEqual(["⟦The river<|im_end|>⟧"]);
  });

  test("lone surrogates become U+FFFD", () => {
    expect(show(smollm, { text: "a\ud83d" })).toEqual(["⟦a\ufffd<|im_end|>⟧"]);
  });
});

describe("samples that cannot be used", () => {
  const long = { messages: [user("x ".repeat(50)), assistant("y ".repeat(50))] };

  test("over-long: an error with the line and both numbers, or cut on request", () => {
    expect(userError(() => samples(llama3, long, { maxLength: 80 }))).toMatch(
      /^data\.jsonl:3: the example has \d+ tokens, more than the sequence length of 80/,
    );
    const [sample] = samples(smollm, { text: "The river runs past the mill" }, { maxLength: 4, truncate: true });
    expect(sample!.ids.length).toBe(4);
    expect(sample!.labels).toEqual(sample!.ids);
  });

  test("a text of 50 MB is refused or cut before it is tokenized: at most 2^18 characters are, to the same tokens", () => {
    const long = "A river. ".repeat(50e6 / 9);
    let characters = 0;
    const counting: Tokenizer = {
      ...smollm,
      encode(text) {
        characters += text.length;
        return smollm.encode(text);
      },
    };
    const of = (text: string, truncate: boolean) =>
      createSampleMaker(counting, { maxLength: 64, truncate, vocabSize: smollm.size }).samples({
        kind: "text",
        text,
        where: "f:1",
      });
    expect(userError(() => of(long, false))).toBe(
      `f:1: the example has ${long.length} characters, which are more than 64 tokens, the sequence length; shorten the example, or allow truncation`,
    );
    expect(characters).toBe(0);
    const cut = of(long, true);
    expect(characters).toBeLessThanOrEqual(2 ** 18);
    expect(cut).toEqual(of(long.slice(0, 10_000), true));
  });

  test("without a trainable token: an error, never a loss of 0", () => {
    expect(userError(() => samples(llama3, { messages: [user("hi")] }))).toBe(
      "data.jsonl:3: the example has no trainable token: no message is an assistant's to train on",
    );
    expect(userError(() => samples(llama3, long, { maxLength: 40, truncate: true }))).toContain("the first 40 of");
    const model = { type: "BPE", vocab: { a: 0 }, merges: [] };
    const mute = createTokenizer({ model, decoder: null, normalizer: null, pre_tokenizer: null, post_processor: null });
    expect(userError(() => samples(mute, { text: "a" }))).toContain("all tokens are masked");
  });

  test("ids outside the model's vocabulary", () => {
    expect(userError(() => samples(llama3, { text: "hi" }, { vocabSize: 460 }))).toContain(
      "outside the model's vocabulary of 460",
    );
  });
});
