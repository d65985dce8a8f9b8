import { expect, setDefaultTimeout, test } from "bun:test";
import { createProgress, formatPreparation } from "../../src/cli/terminal/progress.ts";

setDefaultTimeout(120_000);

const MIB = 2 ** 20;

/** Returns what is written to a stream, and a clock to be set. */
function display(isTTY: boolean) {
  const written: string[] = [];
  const clock = { now: 0 };
  const stream = { isTTY, columns: 80, write: (text: string) => written.push(text) } as unknown as NodeJS.WriteStream;
  return { written, clock, progress: createProgress(stream, () => clock.now, { TERM: "xterm" }) };
}

const report = (seconds: number) => ({ path: "d.jsonl", bytes: seconds * MIB, size: 100 * MIB, seconds });

test("a preparation says its bytes, its rate and the time left", () => {
  expect(formatPreparation(report(40))).toBe("tokenizing      d.jsonl: 40.0 MiB of 100 MiB, 1.0 MB/s, 1 min 00 s left");
});

test("in a pipe: nothing in the first two seconds, then a line every five", () => {
  const { written, clock, progress } = display(false);
  for (let second = 1; second <= 12; second++) {
    clock.now = 1000 * second;
    progress.prepare(report(second));
  }
  expect(written.map((line) => Number(/: ([\d.]+) MiB/.exec(line)![1]))).toEqual([2, 7, 12]);
  expect(written.every((line) => line.endsWith(" left\n"))).toBe(true);
});

test("in a terminal: one line, rewritten, gone when something else is said", () => {
  const { written, progress } = display(true);
  for (const second of [1, 2, 3]) progress.prepare(report(second));
  progress.say("trained");
  const clear = "\r\u001b[K";
  expect(written).toEqual([formatPreparation(report(2)), clear, formatPreparation(report(3)), clear, "trained\n"]);
});

test("a step says its loss and the first metric of its objective, which a narrow terminal leaves out with what matters less", () => {
  const step = { step: 3, steps: 9, loss: 1.5, learningRate: 1e-3, tokensPerSecond: 100, memory: MIB, secondsLeft: 60 };
  const metrics = { "rewards/margins": 0.1, "rewards/accuracies": 0.625, nll_loss: 1.25 };
  const lineOf = (more: object, columns: number) => {
    const written: string[] = [];
    const stream = { isTTY: true, columns, write: (text: string) => written.push(text) } as unknown as NodeJS.WriteStream;
    createProgress(stream, () => 0, { TERM: "xterm" }).step({ ...step, ...more });
    return written.join("");
  };
  expect(lineOf({ metrics }, 120)).toStartWith("step 3/9  loss 1.5000  chosen preferred 62.5 %  100 tokens/s");
  expect(lineOf({ metrics: {} }, 120)).toStartWith("step 3/9  loss 1.5000  100 tokens/s");
  expect(lineOf({ metrics }, 45)).toBe("step 3/9  loss 1.5000  1 min 00 s left");
});
