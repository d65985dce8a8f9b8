export { formatBytes } from "../../base/bytes.ts";
export { formatDuration } from "../../base/duration.ts";

/** Writes a measured number with so many digits as are worth reading. */
export function formatNumber(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(Math.max(0, digits - 2));
  return String(Number(value.toPrecision(digits)));
}

export const formatCount = (value: number): string => value.toLocaleString("en");

/** Writes a Unix time as a date and time of this reader's place. */
export function formatTime(seconds: number): string {
  const date = new Date(seconds * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  const time = date.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
  return isToday ? time : `${date.toLocaleDateString(undefined, { day: "numeric", month: "short" })}, ${time}`;
}

/** The short name of a job's model: the suffix that was asked for, or the letters of its id. */
export function shortName(name: string): string {
  const [, , , suffix = "", id = name] = name.split(":");
  return suffix === "" ? id : suffix;
}
