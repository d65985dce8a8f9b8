import { type Mapping, NO_MAPPING, createUnusedCounter } from "../../data/examples/columns.ts";
import { readEntries } from "../../data/examples/dataset.ts";
import { type Example, exampleOf } from "../../data/examples/formats.ts";
import { promptFiles } from "../../data/examples/sources.ts";
import { type DataRecord, parseRecord } from "../../data/examples/values.ts";

/** A text of a file, as it came. */
export interface ReadText {
  readonly example: Example;
  readonly record: DataRecord;
}

/** Changes a record before it is read as an example, such as one that lacks what nobody looks at. */
type Complete = (record: DataRecord) => DataRecord;

/** The file that is standard input. */
const STDIN = "-";

/**
 * The texts of files, of lines of a `.txt` file, or of standard input, which is read as a whole.
 * @throws {UserError} at the first bad one, with its place
 */
export async function* readTexts(
  data: string,
  { mapping, onNote, complete = (record) => record }: ReadTextsOptions,
): AsyncGenerator<ReadText> {
  if (data === STDIN) return yield* textsOfLines(await Bun.stdin.text(), "standard input", mapping, complete);
  for (const path of promptFiles(data)) {
    if (path.endsWith(".txt")) {
      yield* textsOfLines(await Bun.file(path).text(), path, mapping, complete);
      continue;
    }
    const unused = createUnusedCounter();
    for await (const entry of readEntries(path, { mapping, unused: unused.count })) {
      let record: DataRecord = {};
      const example = entry.parse((read) => (record = complete(read)));
      yield { example, record };
    }
    const note = unused.note(path);
    if (note !== null) onNote(note);
  }
}

export interface ReadTextsOptions {
  readonly mapping: Mapping;
  readonly onNote: (text: string) => void;
  readonly complete?: Complete;
}

/** A text that is in memory. @throws {UserError} with `where` */
export function readText(record: DataRecord, where: string, complete: Complete, mapping: Mapping = NO_MAPPING): ReadText {
  const completed = complete(record);
  return { example: exampleOf(completed, where, { mapping, unused: () => {} }), record: completed };
}

/** Lines of text, or JSON objects where the first begins with a brace; empty lines are none. */
function* textsOfLines(all: string, name: string, mapping: Mapping, complete: Complete): Generator<ReadText> {
  const isJson = all.trimStart().startsWith("{");
  for (const [i, line] of all.split(/\r?\n/).entries()) {
    if (line.trim() === "") continue;
    const where = `${name}:${i + 1}`;
    yield readText(isJson ? parseRecord(line, where) : { text: line }, where, complete, mapping);
  }
}
