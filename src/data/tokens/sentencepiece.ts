import { BinaryReader, type WireType } from "@bufbuild/protobuf/wire";
import { UserError } from "../../base/errors.ts";
import { templateProcessing } from "./surroundings.ts";

/**
 * `tokenizer.model` of SentencePiece (Kudo & Richardson 2018, https://arxiv.org/abs/1808.06226): a protocol buffer `ModelProto`,
 * whose fields are described in that project's sentencepiece_model.proto.
 */

/** Kinds of pieces. */
export const PIECE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export interface Piece {
  readonly text: string;
  readonly score: number;
  /** One of `PIECE`. */
  readonly type: number;
}

/** A BPE model; a piece's place in the list is its id. */
export interface SentencePieceModel {
  readonly pieces: readonly Piece[];
  /** Characters that are no piece are written as bytes. */
  readonly byteFallback: boolean;
  /** A text gets a space in front of it. */
  readonly spacePrefix: boolean;
}

const BPE = 2;
const MODEL_TYPES = ["unknown", "unigram", "BPE", "word", "character"];

/**
 * @param where names the file in errors
 * @throws {UserError} not such a file, or a model that splits texts in a way that is not supported
 */
export function readSentencePiece(bytes: Uint8Array, where: string): SentencePieceModel {
  const refuse = (what: string) =>
    new UserError(`${where}: ${what} is not supported; make a tokenizer.json with Transformers (save_pretrained)`);
  let read: ReturnType<typeof readModel>;
  try {
    read = readModel(bytes);
  } catch {
    throw new UserError(`${where} is damaged or no SentencePiece model; copy or download it again`);
  }
  const { pieces, trainer, normalizer } = read;
  if (pieces.length === 0) throw new UserError(`${where} is damaged or no SentencePiece model; copy or download it again`);
  if (trainer.type !== BPE) throw refuse(`a SentencePiece model of type ${MODEL_TYPES[trainer.type] ?? trainer.type}`);
  if (normalizer.charsMap) throw refuse(`SentencePiece's normalisation ${normalizer.name || "by a table"}`);
  if (normalizer.joinsSpaces) throw refuse("SentencePiece's remove_extra_whitespaces");
  if (trainer.spaceIsSuffix || !normalizer.escapesSpaces) throw refuse("SentencePiece's treatment of white space");
  if (pieces.some(({ type }) => type === PIECE.unused)) throw refuse("a SentencePiece model with unused pieces");
  return { pieces, byteFallback: trainer.byteFallback, spacePrefix: normalizer.spacePrefix };
}

function readModel(bytes: Uint8Array) {
  const pieces: Piece[] = [];
  const trainer = { type: 1, spaceIsSuffix: false, byteFallback: false };
  const normalizer = { name: "", charsMap: false, spacePrefix: true, joinsSpaces: true, escapesSpaces: true };
  readFields(new BinaryReader(bytes), {
    1: (reader) => pieces.push(readPiece(reader.bytes())),
    2: (reader) =>
      readFields(new BinaryReader(reader.bytes()), {
        3: (field) => (trainer.type = field.int32()),
        24: (field) => (trainer.spaceIsSuffix = field.bool()),
        35: (field) => (trainer.byteFallback = field.bool()),
      }),
    3: (reader) =>
      readFields(new BinaryReader(reader.bytes()), {
        1: (field) => (normalizer.name = field.string()),
        2: (field) => (normalizer.charsMap = field.bytes().length > 0),
        3: (field) => (normalizer.spacePrefix = field.bool()),
        4: (field) => (normalizer.joinsSpaces = field.bool()),
        5: (field) => (normalizer.escapesSpaces = field.bool()),
      }),
  });
  return { pieces, trainer, normalizer };
}

function readPiece(bytes: Uint8Array): Piece {
  const piece: { text: string; score: number; type: number } = { text: "", score: 0, type: PIECE.normal };
  readFields(new BinaryReader(bytes), {
    1: (field) => (piece.text = field.string()),
    2: (field) => (piece.score = field.float()),
    3: (field) => (piece.type = field.int32()),
  });
  return piece;
}

/** Reads the fields that have a reader, by number, and skips the others. */
function readFields(reader: BinaryReader, readers: Readonly<Record<number, (reader: BinaryReader) => unknown>>): void {
  while (reader.pos < reader.len) {
    const [number, type]: [number, WireType] = reader.tag();
    const read = readers[number];
    if (read) read(reader);
    else reader.skip(type, number);
  }
}

/** Describes what goes with a model: `tokenizer_config.json`, `added_tokens.json`. */
export interface SentencePieceSettings {
  /** Tokens that are cut out of a text before it is split, by id; they win over the model's own pieces. */
  readonly added: ReadonlyMap<number, AddedToken>;
  /** A space in front of a text alone, not behind added tokens too (`legacy: false`). */
  readonly prefixOnce: boolean;
  /** null: as the model says. */
  readonly spacePrefix: boolean | null;
  /** Tokens that go in front of a text, and behind it. */
  readonly before: readonly string[];
  readonly after: readonly string[];
}

export interface AddedToken {
  readonly content: string;
  readonly special: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly single_word: boolean;
  readonly normalized: boolean;
}

export const plainToken = (content: string, special: boolean): AddedToken => ({
  content,
  special,
  lstrip: false,
  rstrip: false,
  single_word: false,
  normalized: false,
});

/** How SentencePiece writes a space. */
const SPACE = "\u2581";

/** The model as a `tokenizer.json`. */
export function sentencePieceJson(model: SentencePieceModel, settings: SentencePieceSettings): Record<string, unknown> {
  const { pieces } = model;
  const hasPrefix = settings.spacePrefix ?? model.spacePrefix;
  // A piece with spaces would not be found in a text, where they are not written so: it is made by merges.
  const own = pieces.flatMap(({ text, type }, id): [number, AddedToken][] => {
    const isSpecial = type === PIECE.control || type === PIECE.unknown;
    return isSpecial || (type === PIECE.userDefined && !/[ \u2581]/.test(text)) ? [[id, plainToken(text, isSpecial)]] : [];
  });
  // Of two with one id, both are found in a text, and the last is what the id is written as.
  const added = [...own, ...settings.added];
  const idOf = new Map([
    ...pieces.map(({ text }, id) => [text, id] as const),
    ...added.map(([id, { content }]) => [content, id] as const),
  ]);
  const replace = { type: "Replace", pattern: { String: " " }, content: SPACE };
  const prefixOnce = settings.prefixOnce && hasPrefix;
  const prefixes = hasPrefix && !prefixOnce ? [{ type: "Prepend", prepend: SPACE }] : [];
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added.map(([id, token]) => ({ id, ...token })),
    normalizer: prefixOnce ? null : { type: "Sequence", normalizers: [...prefixes, replace] },
    pre_tokenizer: prefixOnce ? { type: "Metaspace", replacement: SPACE, prepend_scheme: "first", split: false } : null,
    post_processor: templateProcessing(settings.before, settings.after, (token) => idOf.get(token)),
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: SPACE }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(hasPrefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: pieces.find(({ type }) => type === PIECE.unknown)?.text ?? null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: model.byteFallback,
      ignore_merges: false,
      vocab: Object.fromEntries(pieces.map(({ text }, id) => [text, id])),
      merges: mergesOf(pieces),
    },
  };
}

/**
 * SentencePiece joins, of all neighbours that make a piece, those that make the one with the highest score first: pairs in the
 * order of their pieces' scores. Where these are equal, as of pieces that were given beforehand, the longer left part comes
 * first, so that a run of spaces is cut from the left into the longest pieces that there are.
 */
function mergesOf(pieces: readonly Piece[]): [string, string][] {
  const joinable = pieces.filter(({ type }) => type === PIECE.normal || type === PIECE.userDefined);
  const known = new Set(joinable.map(({ text }) => text));
  const pairs = joinable.flatMap(({ text, score }) => {
    const halves: { left: string; right: string; score: number }[] = [];
    for (let at = 1; at < text.length; at++) {
      const [left, right] = [text.slice(0, at), text.slice(at)];
      if (known.has(left) && known.has(right)) halves.push({ left, right, score });
    }
    return halves;
  });
  pairs.sort((a, b) => b.score - a.score || b.left.length - a.left.length || b.right.length - a.right.length);
  return pairs.map(({ left, right }) => [left, right]);
}
