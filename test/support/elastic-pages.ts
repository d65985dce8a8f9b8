import { build, llama, lora, packedBatch } from "./engine.ts";

/**
 * Makes a forward and backward pass at the least limit, at one with which everything is kept, at the least and at the other again, and
 * prints the bytes that are
 * resident behind each: a process of its own, in which nothing else grows.
 */
const TOKENS = 512;
const engine = await build(llama(6, 192, { intermediate_size: 512 }), lora(0), { name: "budget", bytes: 1 << 30 }, TOKENS, 2, {
  elastic: true,
});
const most = engine.withoutCheckpointing.peak;
const least = engine.resize(1).limit;
const batch = packedBatch(TOKENS, engine.config.vocabSize);
const residentBehind = (limit: number): number => {
  engine.resize(limit);
  engine.forwardBackward(batch, 1, 1, 0);
  Bun.gc(true);
  return process.memoryUsage.rss();
};
const [before, large, small, again] = [least, most, least, most].map(residentBehind);
console.log(JSON.stringify({ before, large, small, again, least, most }));
engine.executor.close();
