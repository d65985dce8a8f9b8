const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
};

/** Reads a size (`1.5GiB`, `800MB`, `1e9`) or a share above 0 and up to 1 (`50%`); null is neither. */
export function parseSize(text: string): { readonly bytes: number } | { readonly share: number } | null {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?(?:e\d+)?)\s*([a-z%]*)$/i.exec(text.trim()) ?? [];
  const value = Number(number);
  if (!(value > 0)) return null;
  if (unit === "%") return value <= 100 ? { share: value / 100 } : null;
  const factor = UNITS[unit.toLowerCase()];
  return factor === undefined ? null : { bytes: Math.floor(value * factor) };
}

/** Writes a number of bytes with the largest unit that leaves at least 1 of it: `1.50 GiB`. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(value >= 1000 ? 4 : 3)} ${units[unit]}`;
}
