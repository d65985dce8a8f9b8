/**
 * Tiles of native attention: which tokens are computed together, and which keys they see. Token t sees the keys
 * starts[t]..t of its own example, or, where there are ends, starts[t]..ends[t] - 1.
 */

/** Bytes in front of a table of tiles: the counter of tasks and the number of tiles. */
export const TILES_AT: usize = 64;

/**
 * Fills a table with the first token of each tile, and the end of the last: [counter = 0, tiles, then from byte TILES_AT i32[tiles + 1]]. A tile has
 * `most` tokens, or ends with an example behind `least` of them: tokens of several examples share few keys.
 */
export function makeTiles(table: usize, starts: usize, tokens: i32, most: i32, least: i32): void {
  let tiles = 0, begin = 0;
  store<i32>(table, 0, TILES_AT);
  for (let t = 1; t < tokens; t++) {
    if (t - begin < most && (t - begin < least || firstKey(starts, t) < t)) continue;
    begin = t;
    tiles++;
    store<i32>(table + (<usize>tiles << 2), t, TILES_AT);
  }
  tiles++;
  store<i32>(table + (<usize>tiles << 2), tokens, TILES_AT);
  store<i32>(table, tiles, 4);
  store<i32>(table, 0);
}

// @ts-ignore: decorator
@inline
export function tileCount(table: usize): i32 {
  return load<i32>(table, 4);
}

/** First token of a tile. */
// @ts-ignore: decorator
@inline
export function tileStart(table: usize, tile: i32): i32 {
  return load<i32>(table + (<usize>tile << 2), TILES_AT);
}

/** First key that a token sees; itself at least. */
// @ts-ignore: decorator
@inline
export function firstKey(starts: usize, token: i32): i32 {
  return max(0, min(token, load<i32>(starts + (<usize>token << 2))));
}

/** The key behind the last one that a token sees; its own is seen at least. */
// @ts-ignore: decorator
@inline
export function endKey(ends: usize, token: i32, tokens: i32): i32 {
  return ends ? max(token + 1, min(tokens, load<i32>(ends + (<usize>token << 2)))) : token + 1;
}

/** The key behind the last one that any of the tokens sees. */
export function greatestEnd(ends: usize, token: i32, count: i32, tokens: i32): i32 {
  let greatest = token + count;
  if (ends) {
    for (let t = token; t < token + count; t++) greatest = max(greatest, endKey(ends, t, tokens));
  }
  return greatest;
}

/** First key that any of the tokens sees. */
export function leastKey(starts: usize, token: i32, count: i32): i32 {
  let least = token;
  for (let t = token; t < token + count; t++) least = min(least, firstKey(starts, t));
  return least;
}

function fill(x: usize, count: i32, value: f32): void {
  const vector = f32x4.splat(value);
  const end = x + (<usize>max(count, 0) << 2);
  for (; x + 16 <= end; x += 16) v128.store(x, vector);
  for (; x < end; x += 4) store<f32>(x, value);
}

/** Sets scores[count][group][end - first] of the keys first..end - 1 that a token does not see. */
export function fillUnseen(
  scores: usize, starts: usize, ends: usize, tokens: i32, token: i32, count: i32, group: i32, first: i32, end: i32, value: f32,
): void {
  const rowBytes = <usize>(end - first) << 2;
  for (let t = token; t < token + count; t++) {
    const before = min(firstKey(starts, t), end) - first;
    const behind = max(endKey(ends, t, tokens), first);
    for (let head = 0; head < group; head++) {
      fill(scores, before, value);
      fill(scores + (<usize>(behind - first) << 2), end - behind, value);
      scores += rowBytes;
    }
  }
}
