import { afterEach, expect, setDefaultTimeout, setSystemTime, spyOn, test } from "bun:test";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run as evaluate } from "../../src/cli/verbs/score/eval.ts";
import { run as trainVerb } from "../../src/cli/verbs/train.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

/** The verbs run in this process, whose clock can be set. */
afterEach(() => void setSystemTime());

const folder = temporaryFolder();

/** A model whose template writes the date as Llama 3's does. */
function datedModel(): string {
  const model = writeTinyModel(join(folder, "model"));
  const path = join(model, "tokenizer_config.json");
  const config = JSON.parse(readFileSync(path, "utf8")) as object;
  const template =
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}" +
    "{{ '<|im_start|>system\nToday Date: ' + date_string + '<|im_end|>\n' }}" +
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}" +
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  writeFileSync(path, JSON.stringify({ ...config, chat_template: template }));
  return model;
}

const model = datedModel();
const data = join(folder, "data.jsonl");
const chat = (word: string) => ({
  messages: [
    { role: "user", content: `Define ${word}.` },
    { role: "assistant", content: `n. A thing called ${word}.` },
  ],
});
writeFileSync(data, ["king", "house", "water", "tree"].map((word) => `${JSON.stringify(chat(word))}\n`).join(""));

const MONDAY = "2026-03-09";
const TUESDAY = "2026-03-10";

async function quietly(action: () => Promise<number>): Promise<string> {
  let text = "";
  const write = spyOn(process.stdout, "write").mockImplementation((piece) => ((text += String(piece)), true));
  try {
    expect(await action()).toBe(0);
  } finally {
    write.mockRestore();
  }
  return text;
}

async function train(day: string, name: string, ...flags: string[]): Promise<void> {
  setSystemTime(new Date(`${day}T10:00:00`));
  const settings = ["--steps", "4", "--save-every", "2", "--sequence-length", "128", "--threads", "1", "--json", "--no-sample"];
  await quietly(() => trainVerb(["--model", model, "--data", data, "--output", join(folder, name), ...settings, ...flags]));
}

const losses = (name: string) =>
  readFileSync(join(folder, name, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { loss: number }).loss);
const weights = (name: string) => readFileSync(join(folder, name, "adapter_model.safetensors"));

test("a run keeps the day that it was begun on: resumed on the next one, its losses and its adapter are the same, bit for bit", async () => {
  await train(MONDAY, "run");
  expect(JSON.parse(readFileSync(join(folder, "run", "train-config.json"), "utf8"))).toMatchObject({ date: MONDAY });
  const [whole, adapter] = [losses("run"), weights("run")];

  rmSync(join(folder, "run", "checkpoints", "step-00000004"), { recursive: true });
  rmSync(join(folder, "run", "adapter_model.safetensors"));
  await train(TUESDAY, "run", "--resume");
  expect(losses("run")).toEqual(whole);
  expect(weights("run")).toEqual(adapter);
  expect(JSON.parse(readFileSync(join(folder, "run", "train-config.json"), "utf8"))).toMatchObject({ date: MONDAY });

  // The day does decide tokens, and may be given.
  await train(TUESDAY, "next");
  expect(losses("next")).not.toEqual(whole);
  await train(TUESDAY, "given", "--date", MONDAY);
  expect(losses("given")).toEqual(whole);
});

test("another day for a run that has one is refused", async () => {
  let message = "";
  await train(TUESDAY, "run", "--resume", "--date", TUESDAY).catch((error: Error) => (message = error.message));
  expect(message).toContain(`it had date ${MONDAY}, this one has date ${TUESDAY}`);
  await train(TUESDAY, "none", "--date", "10.3.2026").catch((error: Error) => (message = error.message));
  expect(message).toContain("--date");
});

test("eval takes the day too", async () => {
  const score = async (...flags: string[]) => {
    setSystemTime(new Date(`${TUESDAY}T23:00:00`));
    return quietly(() => evaluate(["--model", model, "--data", data, "--threads", "1", "--json", ...flags]));
  };
  expect(await score("--date", TUESDAY)).toBe(await score());
  expect(await score("--date", MONDAY)).not.toBe(await score());
});
