/** Describes what a template does that Python would refuse: wrong syntax, undefined values, types that do not fit, no end. */
export class TemplateError extends Error {
  override name = "TemplateError";

  /** @param line the template's line, from 1; null where the place is not known yet */
  constructor(
    message: string,
    readonly line: number | null = null,
  ) {
    super(message);
  }
}
