/**
 * The text that the bundled base model learns from: the King James Bible, and the training part of The Devil's
 * Dictionary. Both as running text; some of the Bible also as dialogue, so that the model knows the turns of its chat
 * template. The dictionary never appears as questions and answers: that is left to fine-tuning.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { parseTemplate, runTemplate } from "../../src/data/chat/jinja/template.ts";
import { CHATML_TEMPLATE } from "./tokenizer-files.ts";

/** Characters of a row, at least (except at the end of a chapter) and at most (except for one verse that is longer). */
const MIN_LENGTH = 800;
const MAX_LENGTH = 1200;

/** One chapter of this many is told as dialogue too. */
const DIALOGUE_EVERY = 10;

export interface BaseText {
  readonly train: readonly string[];
  readonly valid: readonly string[];
}

/** Verses by chapter. */
export function readBible(): string[][] {
  const text = gunzipSync(readFileSync(join(import.meta.dir, "kjv.txt.gz"))).toString("utf8");
  return text
    .trimEnd()
    .split("\n\n")
    .map((chapter) => chapter.split("\n"));
}

interface Message {
  readonly role: string;
  readonly content: string;
}

/** Definitions as the book prints them: "Bore, n. A person who talks when you wish him to listen." */
export function readDictionary(): string[] {
  const lines = readFileSync(join(import.meta.dir, "../devils-dictionary/train.jsonl"), "utf8")
    .trimEnd()
    .split("\n");
  return lines.map((line) => {
    const [question, answer] = (JSON.parse(line) as { messages: [Message, Message] }).messages;
    const headword = question.content.replace(/^Define (.*?)\.?$/, "$1");
    return `${headword[0]!.toUpperCase()}${headword.slice(1)}, ${answer.content}`;
  });
}

/** Joins pieces to rows of about `MIN_LENGTH` to `MAX_LENGTH` characters. */
export function joinPieces(pieces: readonly string[], separator: string): string[] {
  const rows: string[] = [];
  let row = "";
  for (const piece of pieces) {
    const isFull = row.length >= MIN_LENGTH || row.length + separator.length + piece.length > MAX_LENGTH;
    if (row !== "" && isFull) {
      rows.push(row);
      row = "";
    }
    row += (row === "" ? "" : separator) + piece;
  }
  if (row !== "") rows.push(row);
  return rows;
}

/** A row of verses said in turn by the two roles, without the last `<|im_end|>`, which ends every text. */
function dialogue(verses: readonly string[]): string {
  const messages = verses.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content }));
  return runTemplate(parseTemplate(CHATML_TEMPLATE), { messages }, new Date(0)).replace(/<\|im_end\|>\n$/, "");
}

/** One row in fifty is held out, by its SHA-256. */
function isHeldOut(row: string): boolean {
  return createHash("sha256").update(row).digest().readUInt32BE(0) < 2 ** 32 / 50;
}

export function makeBaseText(): BaseText {
  const train: string[] = [];
  const valid: string[] = [];
  for (const [i, verses] of readBible().entries()) {
    const kept: string[] = [];
    for (const row of joinPieces(verses, "\n")) (isHeldOut(row) ? valid : kept).push(row);
    train.push(...kept);
    if (i % DIALOGUE_EVERY === 0) train.push(...kept.map((row) => dialogue(row.split("\n"))));
  }
  train.push(...joinPieces(readDictionary(), "\n\n"));
  return { train, valid };
}
