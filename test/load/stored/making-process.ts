/**
 * A process that makes a file of converted weights: `bun making-process.ts MODEL FOLDER [BYTES]`. It is killed as by `kill -9` when it has
 * written that many bytes, in the middle of a write. Prints whether it made the file, and its notes.
 */
import { type FileIo, fileIo } from "../../../src/base/files/files.ts";
import { storedWeights } from "../../../src/load/stored/stored-weights.ts";
import { openCheckpoint } from "../../support/checkpoint.ts";

const [model, folder, bytes = "Infinity"] = process.argv.slice(2) as [string, string, string?];
let left = Number(bytes);
const io: FileIo = {
  ...fileIo,
  writeSync(fd, data, offset, length, position) {
    const written = fileIo.writeSync(fd, data, offset, Math.min(length, left), position);
    left -= written;
    if (left <= 0) process.kill(process.pid, "SIGKILL");
    return written;
  },
};
const { source, groups } = openCheckpoint(model, { quantize: "nf4", quantizeEmbedding: true });
const notes: string[] = [];
const { cache, close } = await storedWeights(source, groups, { folder, io, onNote: (note) => notes.push(note) });
console.log(JSON.stringify({ made: cache!.made, notes }));
close();
source.close();
