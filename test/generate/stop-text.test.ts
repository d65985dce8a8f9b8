import { expect, test } from "bun:test";
import { createStopText } from "../../src/generate/stop-text.ts";
import { createRandom } from "../../src/base/random.ts";

/** Returns what is let through of pieces, and whether the text was stopped. */
function through(pieces: readonly string[], sequences: readonly string[]): { given: string[]; isStopped: boolean } {
  const stops = createStopText(sequences);
  const given: string[] = [];
  for (const piece of pieces) {
    const { text, isStopped } = stops.push(piece);
    given.push(text);
    if (isStopped) return { given, isStopped };
  }
  given.push(stops.end());
  return { given, isStopped: false };
}

test("a text of few letters in pieces of any size: cut where the first sequence is complete, whatever the pieces", () => {
  const random = createRandom(7, "stop texts");
  const word = (most: number) => Array.from({ length: 1 + random.below(most) }, () => "ab"[random.below(2)]).join("");
  let stopped = 0;
  for (let i = 0; i < 3000; i++) {
    const sequences = Array.from({ length: random.below(4) }, () => word(4));
    const pieces = Array.from({ length: random.below(12) }, () => (random.below(5) === 0 ? "" : word(3)));
    const text = pieces.join("");
    // Character by character: the first end of the text that is a sequence, the longest of those.
    let expected = text;
    let isStopped = false;
    for (let end = 1; end <= text.length && !isStopped; end++) {
      const found = sequences.filter((sequence) => text.slice(0, end).endsWith(sequence));
      if (found.length === 0) continue;
      isStopped = true;
      expected = text.slice(0, end - Math.max(...found.map(({ length }) => length)));
    }
    const got = through(pieces, sequences);
    expect({ text: got.given.join(""), isStopped: got.isStopped }).toEqual({ text: expected, isStopped });
    if (isStopped) stopped++;
  }
  expect(stopped).toBeGreaterThan(1000);
  expect(stopped).toBeLessThan(2900);
});

test("only what could begin a sequence is held back", () => {
  expect(through(["one <", "/", "p> two </e", "nd> three"], ["</end>"])).toEqual({
    given: ["one ", "", "</p> two ", ""],
    isStopped: true,
  });
  expect(through(["one", " two <", "/en"], ["</end>"])).toEqual({ given: ["one", " two ", "", "</en"], isStopped: false });
});
