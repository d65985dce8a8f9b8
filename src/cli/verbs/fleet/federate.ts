import { z } from "zod";
import { formatBytes } from "../../../base/bytes.ts";
import { formatDuration } from "../../../base/duration.ts";
import { UserError } from "../../../base/errors.ts";
import { flagName, suggestion } from "../../../base/names.ts";
import type { NodeNumbers } from "../../../fleet/federated/messages.ts";
import {
  joinFederation,
  joinFederationSchema,
  type JoinEvent,
  leadFederation,
  leadFederationSchema,
  type LeadEvent,
} from "../../../library/fleet/federate.ts";
import { metricTexts } from "../../../objectives/index.ts";
import { type TrainConfig, trainConfigSchema } from "../../../train/config.ts";
import { validateConfig } from "../../flags/config-file.ts";
import { describeFlags, flagsOf, parseFlags, shownName } from "../../flags/flags.ts";
import { JSON_FLAG } from "../../flags/model-flags.ts";
import { printEvent } from "../../terminal/display.ts";
import { withSignals } from "../../terminal/signals.ts";

export const words = ["lead", "join"] as const;

const SCHEMAS = { lead: leadFederationSchema.extend(JSON_FLAG), join: joinFederationSchema.extend(JSON_FLAG) } as const;

/** The flags of both, of which each checks its own. Two mean something else in each. */
const all = {
  ...SCHEMAS.join.shape,
  ...SCHEMAS.lead.shape,
  model: SCHEMAS.join.shape.model.describe(
    "base model: a folder or org/name on the hub (required by lead; join: the coordinator's, if it is on the hub)",
  ),
  output: z
    .string()
    .optional()
    .describe(
      "folder of rounds (lead: runs/federation) or of what the node keeps (join: runs/node), and of the common adapter; the same command goes on with what it holds",
    ),
};
export const flags = z.strictObject(
  Object.fromEntries(
    Object.entries(all).map(([key, field]) => {
      const [only] = words.filter((word) => !(key in SCHEMAS[word === "lead" ? "join" : "lead"].shape));
      const type: z.ZodType = field;
      if (only === undefined) return [key, type];
      const { description = "", ...meta } = type.meta() ?? {};
      return [
        key,
        (type.safeParse(undefined).success ? type : type.optional()).meta({ ...meta, description: `${only}: ${description}` }),
      ];
    }),
  ),
);

/** The flags that mean what they mean to `remat train`, which explains them. */
const isOfTraining = (key: string, field: z.ZodType): boolean =>
  key in trainConfigSchema.shape && field.description === trainConfigSchema.shape[key as keyof TrainConfig].description;

/** A schema of some of a schema's flags. */
const flagsWhere = ({ shape }: z.ZodObject, isWanted: (key: string, field: z.ZodType) => boolean) =>
  z.strictObject(Object.fromEntries(Object.entries(shape).filter(([key, field]) => isWanted(key, field as z.ZodType))));

const isOfBoth = (key: string): boolean =>
  words.every((word) => key in SCHEMAS[word].shape) &&
  SCHEMAS.lead.shape[key as "model"].description === SCHEMAS.join.shape[key as "model"].description;

/** Describes the flags that one of the two has for itself, and names those of `remat train`. */
function describeOwn(word: (typeof words)[number]): string {
  const own = flagsWhere(SCHEMAS[word], (key, field) => !isOfBoth(key) && !isOfTraining(key, field));
  const training = flagsOf(flagsWhere(SCHEMAS[word], (key, field) => !isOfBoth(key) && isOfTraining(key, field)));
  return `${describeFlags(own)}
  and, as remat train --help explains them: ${training.map(shownName).join(", ")}`;
}

export function help(): string {
  return `Trains one adapter on the data of several machines, which never leave them: in each round every node trains on its own examples, and the mean
of what was learned is what all begin the next round with. docs/federated.md says what is sent.

Usage: remat federate lead --fleet nats://HOST --model DIR --rounds 10 --nodes 3 [--flag value ...]
       remat federate join --fleet nats://HOST --node NAME --data FILE [--model DIR] [--flag value ...]

Both may be ended at any time; the same command goes on.

${describeFlags(flagsWhere(SCHEMAS.lead, isOfBoth))}

lead, which says what is learned and how:

${describeOwn("lead")}

join, which says what is this node's:

${describeOwn("join")}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { values, words: given } = parseFlags(flags, args);
  const [word = "lead", ...rest] = given;
  if (word !== "lead" && word !== "join")
    throw new UserError(`federate has no action ${JSON.stringify(word)}${suggestion(word, words)}`);
  if (rest.length > 0) throw new UserError(`federate ${word} takes no words, got ${JSON.stringify(rest[0])}`);
  const strange = Object.keys(values).find((key) => !(key in SCHEMAS[word].shape));
  if (strange !== undefined) throw new UserError(`${flagName(strange)} is for federate ${word === "lead" ? "join" : "lead"}`);
  const show = <Event extends LeadEvent | JoinEvent>(json: boolean, lineOf: (event: Event) => string | null) => {
    return (event: Event) => {
      if (json) return printEvent(event);
      const line = lineOf(event);
      if (line !== null) process.stderr.write(`${line}\n`);
    };
  };
  return withSignals(async (signal) => {
    if (word === "lead") {
      const { json, ...options } = validateConfig(SCHEMAS.lead, { ...values });
      await leadFederation(options, { signal, sink: show(json, leadLine) });
    } else {
      const { json, ...options } = validateConfig(SCHEMAS.join, { ...values });
      await joinFederation(options, { signal, sink: show(json, joinLine) });
    }
    return false;
  });
}

const lossText = (loss: number | null): string => (loss === null ? "no held-out examples" : `held-out loss ${loss.toFixed(4)}`);

const numbersText = (numbers: NodeNumbers | null): string =>
  numbers === null ? lossText(null) : `${lossText(numbers.loss)} (${metricTexts(numbers.metrics).join(", ")})`;

const epsilonText = (epsilon: number | null): string => (epsilon === null ? "" : `, epsilon ${epsilon.toFixed(3)}`);

function leadLine(event: LeadEvent): string | null {
  switch (event.type) {
    case "note":
      return event.text;
    case "leading":
      return `run ${event.run}: round ${Math.min(event.round, event.rounds)} of ${event.rounds}; ${event.parameters} values, ${formatBytes(event.bytes)} each way in a round`;
    case "joined":
      return `${event.node} has joined`;
    case "update":
      return null;
    case "round": {
      const nodes = event.nodes.map(({ node, share }) => `${node} ${Math.round(100 * share)} %`).join(", ");
      const lost =
        event.lost === null ? "" : `; ${(100 * event.lost).toPrecision(2)} % of the mean product did not fit into the rank`;
      const before = event.heldOut === null ? "" : `, which began with a ${lossText(event.heldOut)}`;
      return `round ${event.round} of ${event.rounds} in ${formatDuration(event.seconds)}${before}: ${nodes}${lost}`;
    }
    case "federated":
      return `${event.rounds} rounds: ${lossText(event.heldOut)}`;
  }
}

function joinLine(event: JoinEvent): string | null {
  switch (event.type) {
    case "note":
      return event.text;
    case "waiting":
      return `waiting: ${event.why}`;
    case "joined":
      return `joined run ${event.run} of ${event.rounds} rounds with ${event.examples} examples; ${event.parameters} values are learned`;
    case "trained":
      return `round ${event.round}: ${numbersText(event.heldOut)} before, training loss ${event.loss.toFixed(4)}${epsilonText(event.epsilon)}; ${formatBytes(event.bytes)} to send`;
    case "sent":
      return event.counts ? null : `round ${event.round} was closed before this update came; it does not count`;
    case "federated":
      return `${event.rounds} rounds: ${numbersText(event.heldOut)}${epsilonText(event.epsilon)}`;
  }
}
