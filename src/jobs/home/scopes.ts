/** Describes what a key opens: asking models, training and uploading, and everything. */
export const SCOPES = ["infer", "train", "admin"] as const;

export type Scope = (typeof SCOPES)[number];

/** The names that keys may have; they stand in the audit. */
export const KEY_NAME = { pattern: /^[\w. @-]{1,64}$/, description: "up to 64 letters, digits, blanks and . _ @ -" } as const;
