import { isRecord } from "../../base/json.ts";

/** A text's tokens, or those of two texts, with what is put around them, and the type of each token. */
export interface Surrounded {
  readonly ids: Int32Array;
  readonly types: Int32Array;
}

/** A piece of a template: ids, or the tokens of the first (0) or second (1) text. */
interface Piece {
  readonly ids: readonly number[] | 0 | 1;
  readonly type: number;
}

interface Templates {
  readonly single: readonly Piece[];
  readonly pair: readonly Piece[];
}

/** Where nothing is said of two texts, they follow each other. */
const PLAIN: Templates = {
  single: [{ ids: 0, type: 0 }],
  pair: [
    { ids: 0, type: 0 },
    { ids: 1, type: 0 },
  ],
};

/** Returns what puts the tokens around texts that a tokenizer's post-processor says. */
export function createSurroundings(postProcessor: unknown): (first: Int32Array, second?: Int32Array) => Surrounded {
  const templates = templatesOf(postProcessor) ?? PLAIN;
  return (first, second) => {
    const ids: number[] = [];
    const types: number[] = [];
    for (const piece of second === undefined ? templates.single : templates.pair) {
      const part = piece.ids === 0 ? first : piece.ids === 1 ? second! : piece.ids;
      for (const id of part) {
        ids.push(id);
        types.push(piece.type);
      }
    }
    return { ids: Int32Array.from(ids), types: Int32Array.from(types) };
  };
}

/** The templates of a post-processor; null: it puts nothing around texts. */
function templatesOf(processor: unknown): Templates | null {
  if (!isRecord(processor)) return null;
  const { type, processors, cls, sep } = processor;
  if (type === "Sequence" && Array.isArray(processors))
    return (processors as readonly unknown[]).map(templatesOf).find((found) => found !== null) ?? null;
  if (type === "TemplateProcessing") return { single: templateOf(processor, "single"), pair: templateOf(processor, "pair") };
  if (type !== "BertProcessing" && type !== "RobertaProcessing") return null;
  const [begin, end] = [cls, sep].map((token) => [Number(Array.isArray(token) ? token[1] : Number.NaN)]) as [number[], number[]];
  const isBert = type === "BertProcessing";
  const single: Piece[] = [
    { ids: begin, type: 0 },
    { ids: 0, type: 0 },
    { ids: end, type: 0 },
  ];
  const second = isBert ? 1 : 0;
  const middle: Piece[] = isBert ? [] : [{ ids: end, type: 0 }];
  return { single, pair: [...single, ...middle, { ids: 1, type: second }, { ids: end, type: second }] };
}

function templateOf(processor: Readonly<Record<string, unknown>>, name: "single" | "pair"): Piece[] {
  const tokens = isRecord(processor["special_tokens"]) ? processor["special_tokens"] : {};
  const pieces = Array.isArray(processor[name]) ? (processor[name] as readonly unknown[]) : [];
  return pieces.filter(isRecord).flatMap(({ SpecialToken: token, Sequence: text }): Piece[] => {
    if (isRecord(text)) return [{ ids: text["id"] === "B" ? 1 : 0, type: Number(text["type_id"]) }];
    if (!isRecord(token)) return [];
    const entry = tokens[String(token["id"])];
    const ids = isRecord(entry) && Array.isArray(entry["ids"]) ? entry["ids"].map(Number) : [];
    return [{ ids, type: Number(token["type_id"]) }];
  });
}

/** The `post_processor` of a `tokenizer.json` that puts tokens in front of each text and behind it; null: there are none. */
export function templateProcessing(
  before: readonly string[],
  after: readonly string[],
  idOf: (token: string) => number | undefined,
): object | null {
  const around = [...before, ...after];
  if (around.length === 0) return null;
  const named = (tokens: readonly string[]) => tokens.map((token) => ({ SpecialToken: { id: token, type_id: 0 } }));
  return {
    type: "TemplateProcessing",
    single: [...named(before), { Sequence: { id: "A", type_id: 0 } }, ...named(after)],
    pair: [],
    special_tokens: Object.fromEntries(around.map((token) => [token, { id: token, ids: [idOf(token)], tokens: [token] }])),
  };
}
