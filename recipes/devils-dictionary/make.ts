/**
 * Makes `train.jsonl` and `valid.jsonl` from The Devil's Dictionary as Debian's package `dict-devil` holds it (a dictd
 * database: a compressed text and an index of `word, offset, length`).
 *
 *     bun recipes/devils-dictionary/make.ts devil.dict.dz devil.index [FOLDER]
 */
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";

export interface Entry {
  /** As in running text: lower case, except names, letters and abbreviations. */
  readonly headword: string;
  /** Part of speech and definition; verses keep their lines, paragraphs are separated by an empty line. */
  readonly definition: string;
}

/** Characters of a definition: with the headword and the template, under 400 tokens of the bundled base model. */
export const MAX_LENGTH = 850;

const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** Raw entries in the order of the text. Words that share an entry give it once. Numbers in the index are base 64. */
export function readDictionary(text: string, index: string): string[] {
  const number = (digits: string) => [...digits].reduce((value, digit) => value * 64 + BASE64.indexOf(digit), 0);
  const entries = new Map<number, string>();
  for (const line of index.split("\n")) {
    const [word, offset, length] = line.split("\t");
    // dictfmt keeps its own facts under words that start so.
    if (!word || !offset || !length || word.startsWith("00database")) continue;
    entries.set(number(offset), text.slice(number(offset), number(offset) + number(length)));
  }
  return [...entries].sort(([a], [b]) => a - b).map(([, entry]) => entry);
}

/** The book sets all headwords in capitals: these are names. */
const NAMES = new Map(
  (
    "African,Allah,April fool,Australia,Avernus,Baal,Bacchus,Benedictines,Berenice's Hair,Brahma,Caaba,Carmelite," +
    "Cartesian,Cerberus,Christian,Clio,Congress,Cremona,Cupid,Decalogue,Druids,Elysium,Eucharist,Freemasons,Gnostics," +
    "Gorgon,Hades,Harmonists,Hebrew,Koran,Laocoon,Macrobian,Magdalene,Malthusian,Mammon,Manicheism,Monday,Newtonian," +
    "November,Olympian,Philistine,Populist,Portuguese,Presbyterian,Pyrrhonism,Roundhead,Russian,Sabbath,Satan," +
    "Scriptures,Senate,Trinity,Un-American,Unitarian,Universalist,Wall Street,Washingtonian,Yankee,Zanzibari,Zeus"
  )
    .split(",")
    .map((name) => [name.toLowerCase(), name] as const),
);

const PART_OF_SPEECH = /^(?:(?:n|v|adj|adv|pp|p\.p|pro|pron|x|v\.t|v\.i|n\.pl)\.)(?: and (?:n|v|adj|adv)\.)?(?=\s|$)/;

/** Splits `HEADWORD, n.  Definition...`, `HEADWORD.  Definition...` and `X is the letter...`. */
export function parseEntry(raw: string): Entry {
  const text = raw.trim();
  const [firstLine = ""] = text.split("\n");
  const letter = /^([A-Z])(?:,| is | \(| in )/.exec(firstLine);
  if (letter) return { headword: letter[1]!, definition: layOut(text) };
  const head = /^(?:[A-Z]+\.)+(?=\s)|^[A-Z][A-Z' -]*(?:\(?or [A-Z'-]+\)?[A-Z' -]*)?(?=[,.?\s]|$)/.exec(firstLine)?.[0].trim();
  if (!head) throw new Error(`no headword in ${JSON.stringify(firstLine)}`);
  // Of two spellings ("BABE or BABY, n.", "CONFIDANT, CONFIDANTE, n.") the first is the headword.
  const spelling = head.replace(/ or .*| \(or [^)]*\)/, "");
  const small = spelling.toLowerCase();
  const headword = spelling.includes(".") ? spelling : (NAMES.get(small) ?? small);
  const rest = text
    .slice(head.length)
    .replace(/^(?:, [A-Z'-]{2,})+(?=,)/, "")
    .replace(/^[,.?]?\s*/, "");
  const part = PART_OF_SPEECH.exec(rest)?.[0] ?? "";
  return { headword, definition: layOut(rest.slice(part.length).replace(/^\n+/, ""), part) };
}

interface Block {
  /** Sentences of prose or lines of verse: a definition may be cut between them. */
  readonly units: readonly string[];
  readonly separator: " " | "\n";
  readonly source?: string;
}

/** The definition as one text, cut at a sentence or a line of verse so that it has at most `MAX_LENGTH` characters. */
function layOut(body: string, part = ""): string {
  let text = part;
  for (const [i, block] of blocksOf(body).entries()) {
    const before = text === "" ? "" : i > 0 ? "\n\n" : block.separator;
    const whole = before + block.units.join(block.separator) + (block.source ? `\n-- ${block.source}` : "");
    if (text.length + whole.length <= MAX_LENGTH) {
      text += whole;
      continue;
    }
    const cut = cutBlock(block, MAX_LENGTH - text.length - before.length);
    if (cut !== "") text += before + cut;
    break;
  }
  // A phrase that only introduced what was cut off goes too.
  return /[.!?]["')\]]*(?:\n-- .*)?$/.test(text) ? text : text.slice(0, lastSentenceEnd(text));
}

function lastSentenceEnd(text: string): number {
  const last = [...text.matchAll(/[.!?]["')\]]*(?=\s|$)/g)].at(-1);
  return last ? last.index + last[0].length : text.length;
}

function cutBlock(block: Block, length: number): string {
  let text = "";
  let end = 0;
  for (const unit of block.units) {
    text += (text === "" ? "" : block.separator) + unit;
    if (text.length > length) break;
    if (block.separator === " " || /[.!?]["')\]]*$/.test(unit)) end = text.length;
  }
  if (end > 0 || block.separator === "\n") return text.slice(0, end);
  // One sentence longer than all the room: cut it between two of its parts.
  const part = text.lastIndexOf(";", length - 1);
  return part > 0 ? `${text.slice(0, part)}.` : "";
}

function blocksOf(body: string): Block[] {
  const blocks: Block[] = [];
  for (const chunk of body.split(/\n\s*\n/)) {
    const lines = chunk.split("\n").filter((line) => line.trim() !== "");
    if (lines.length === 0) continue;
    const last = lines.at(-1)!;
    const source = lines.length > 1 && /^ {24,}/.test(last) ? clean(lines.pop()!) : undefined;
    const isIndented = lines.every((line) => line.startsWith("    "));
    const capitals = lines.filter((line) => /^\W*[A-Z]/.test(line)).length;
    if (isIndented && lines.length > 1 && capitals >= 0.6 * lines.length) {
      blocks.push({ units: lines.map(clean), separator: "\n", source });
      continue;
    }
    // A prose paragraph starts with an indented line.
    const paragraphs: string[] = [];
    for (const line of lines) {
      if (paragraphs.length === 0 || (!isIndented && /^ {4}\S/.test(line))) paragraphs.push(line);
      else paragraphs[paragraphs.length - 1] += ` ${line}`;
    }
    for (const [i, paragraph] of paragraphs.entries()) {
      const units = sentencesOf(clean(paragraph));
      blocks.push({ units, separator: " ", source: i === paragraphs.length - 1 ? source : undefined });
    }
  }
  return blocks;
}

/** Plain text: no marks for italics and cross-references, no editor's [sic], single spaces. */
function clean(text: string): string {
  return text
    .replace(/_([^_]*)_/g, "$1")
    .replace(/_/g, "")
    .replace(/\{([A-Z]+)\}/g, (_, word: string) => word.toLowerCase())
    .replace(/ ?\[sic\]/g, "")
    .replace(/\s+/g, " ")
    .trim();
}

/** Ends at . ! ? before a capital, but not after an initial or a short title. */
function sentencesOf(text: string): string[] {
  return text.split(/(?<=(?<!\b(?:[A-Z]|Mr|Mrs|Dr|St|Rev|Hon|Gen|Col|Capt|Prof|[A-Z]\.[A-Z]))[.!?]["')\]]*) (?=["'([]*[A-Z])/);
}

/** A tenth of the headwords, by their SHA-256: the same ones whatever else is in the data. */
export function isHeldOut(headword: string): boolean {
  return createHash("sha256").update(headword.toLowerCase()).digest().readUInt32BE(0) < 0.1 * 2 ** 32;
}

export function toExample(entry: Entry): string {
  return JSON.stringify({
    messages: [
      { role: "user", content: `Define ${entry.headword}${entry.headword.endsWith(".") ? "" : "."}` },
      { role: "assistant", content: entry.definition },
    ],
  });
}

if (import.meta.main) {
  const [dict, index, folder = import.meta.dir] = process.argv.slice(2);
  if (!dict || !index) throw new Error("usage: bun make.ts devil.dict.dz devil.index [FOLDER]");
  const text = gunzipSync(readFileSync(dict)).toString("latin1");
  const entries = readDictionary(text, readFileSync(index, "latin1")).map(parseEntry);
  for (const [file, heldOut] of [
    ["train.jsonl", false],
    ["valid.jsonl", true],
  ] as const) {
    const examples = entries.filter((entry) => isHeldOut(entry.headword) === heldOut).map(toExample);
    writeFileSync(join(folder, file), examples.map((example) => `${example}\n`).join(""));
    console.log(`${file}: ${examples.length} examples`);
  }
}
