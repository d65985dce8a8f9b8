/**
 * A printable stand-in for each byte, as GPT-2 has them (Radford et al. 2019): itself where it is printable in Latin-1, else the next
 * one from U+0100 on.
 */
export function byteCharacters(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCharCode(isPrintable ? byte : next++);
  });
}
