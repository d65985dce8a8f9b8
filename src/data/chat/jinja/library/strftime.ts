const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

const DAY = 24 * 60 * 60 * 1000;

/** The year and week of ISO 8601: a week belongs to the year of its Thursday. */
function isoWeek(date: Date): [year: number, week: number] {
  const thursday = new Date(Date.UTC(date.getFullYear(), date.getMonth(), date.getDate() + 4 - (date.getDay() || 7)));
  const first = Date.UTC(thursday.getUTCFullYear(), 0, 1);
  return [thursday.getUTCFullYear(), Math.floor((thursday.getTime() - first) / DAY / 7) + 1];
}

/** C's strftime in the C locale with GNU's flags (`%-d`), for a time without a zone. Unknown conversions stay. */
export function strftime(date: Date, format: string): string {
  const [year, month, day, weekday] = [date.getFullYear(), date.getMonth(), date.getDate(), date.getDay()];
  const hour = date.getHours();
  const dayOfYear = Math.round((Date.UTC(year, month, day) - Date.UTC(year, 0, 1)) / DAY);
  const number = (value: number, width: number, fill = "0") => [String(value), width, fill] as const;
  const again = (conversions: string) => strftime(date, conversions);
  const fields: Record<string, () => string | readonly [string, number, string]> = {
    Y: () => String(year),
    C: () => number(Math.floor(year / 100), 2),
    y: () => number(year % 100, 2),
    G: () => String(isoWeek(date)[0]),
    g: () => number(isoWeek(date)[0] % 100, 2),
    m: () => number(month + 1, 2),
    d: () => number(day, 2),
    e: () => number(day, 2, " "),
    j: () => number(dayOfYear + 1, 3),
    B: () => MONTHS[month]!,
    b: () => MONTHS[month]!.slice(0, 3),
    h: () => MONTHS[month]!.slice(0, 3),
    A: () => DAYS[weekday]!,
    a: () => DAYS[weekday]!.slice(0, 3),
    u: () => String(weekday || 7),
    w: () => String(weekday),
    U: () => number(Math.floor((dayOfYear + 7 - weekday) / 7), 2),
    W: () => number(Math.floor((dayOfYear + 7 - ((weekday + 6) % 7)) / 7), 2),
    V: () => number(isoWeek(date)[1], 2),
    H: () => number(hour, 2),
    k: () => number(hour, 2, " "),
    I: () => number(hour % 12 || 12, 2),
    l: () => number(hour % 12 || 12, 2, " "),
    M: () => number(date.getMinutes(), 2),
    S: () => number(date.getSeconds(), 2),
    f: () => number(date.getMilliseconds() * 1000, 6),
    p: () => (hour < 12 ? "AM" : "PM"),
    P: () => (hour < 12 ? "am" : "pm"),
    s: () => String(Math.floor(date.getTime() / 1000)),
    z: () => "",
    Z: () => "",
    D: () => again("%m/%d/%y"),
    x: () => again("%m/%d/%y"),
    F: () => again("%Y-%m-%d"),
    T: () => again("%H:%M:%S"),
    X: () => again("%H:%M:%S"),
    R: () => again("%H:%M"),
    r: () => again("%I:%M:%S %p"),
    c: () => again("%a %b %e %H:%M:%S %Y"),
    n: () => "\n",
    t: () => "\t",
    "%": () => "%",
  };
  return format.replace(/%([-_0^#]?)([a-zA-Z%])/g, (whole, flag: string, key: string) => {
    const field = Object.hasOwn(fields, key) ? fields[key]!() : null;
    if (field === null) return whole;
    const [text, width, fill] = typeof field === "string" ? [field, 0, " "] : field;
    if (flag === "-") return text;
    const filled = text.padStart(width, flag === "_" ? " " : flag === "0" ? "0" : fill);
    return flag === "^" ? filled.toUpperCase() : filled;
  });
}
