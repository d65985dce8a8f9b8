import { z } from "zod";
import { camelCase, suggestion } from "../../base/names.ts";
import { show } from "../../base/json.ts";
import { chooseOptimizer } from "../../optimizers/index.ts";
import { type TrainConfigInput, trainConfigSchema } from "../../train/config.ts";
import { ApiError, refusing } from "../http/errors.ts";

/** https://platform.openai.com/docs/api-reference/fine-tuning/create, and what this server takes besides. null is as good as absent. */
const maybe = <T extends z.ZodType>(schema: T) => schema.nullish().transform((value) => value ?? undefined);

const autoOr = (number: z.ZodNumber) =>
  maybe(z.union([z.literal("auto"), number], { error: 'expected "auto" or a number in range' }));

const hyperparameters = z.strictObject({
  n_epochs: autoOr(z.number().positive().max(1000)),
  batch_size: autoOr(z.number().int().min(1).max(65_536)),
  learning_rate_multiplier: autoOr(z.number().positive()),
});

const id = z.string().min(1).max(200);

const jobRequest = z.strictObject({
  model: z.string().min(1),
  training_file: id,
  validation_file: maybe(id),
  method: maybe(
    z.looseObject({
      type: z.enum(["supervised", "dpo"], {
        error: ({ input }) => `supervised and dpo are trained here, not ${show(input)}; other objectives are remat.objective's`,
      }),
      supervised: maybe(z.strictObject({ hyperparameters: maybe(hyperparameters) })),
      dpo: maybe(
        z.strictObject({ hyperparameters: maybe(hyperparameters.extend({ beta: autoOr(z.number().positive().max(2)) })) }),
      ),
    }),
  ),
  hyperparameters: maybe(hyperparameters),
  suffix: maybe(z.string().min(1).max(64)),
  seed: maybe(z.int().min(0).max(2_147_483_647)),
  metadata: maybe(
    z
      .record(z.string().max(64), z.string().max(512))
      .refine((pairs) => Object.keys(pairs).length <= 16, { error: "expected at most 16 pairs" }),
  ),
  integrations: maybe(z.array(z.unknown()).max(0, { error: "integrations are not supported; leave them out" })),
  remat: maybe(z.record(z.string(), z.unknown())),
  dry_run: maybe(z.boolean()),
});

export type JobRequest = z.output<typeof jobRequest>;

/** @throws {ApiError} the first problem, with the field's name */
export function parseJobRequest(body: unknown): JobRequest {
  const result = jobRequest.safeParse(body);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const path = issue.path.map(String);
  if (issue.code === "unrecognized_keys") {
    const param = [...path, issue.keys[0]!].join(".");
    throw new ApiError(400, `unknown field ${param}; remove it`, { param, code: "unknown_parameter" });
  }
  const param = path.join(".") || null;
  throw new ApiError(400, `${param === null ? "the request's body" : param}: ${issue.message}`, { param, code: "invalid_value" });
}

/** Keys of `train` that a request says by other fields, or that are not a client's to say. */
const ELSEWHERE: Readonly<Partial<Record<keyof TrainConfigInput, string>>> = {
  model: "model",
  adapter: "model, which may be a fine-tuned one",
  data: "training_file",
  seed: "seed",
  dryRun: "dry_run",
  output: "the server",
  overwrite: "the server",
  resume: "the server",
  json: "the server",
  open: "the server",
};

/** Passes over the data where nothing is said of them. */
const EPOCHS = 3;

/** Describes what a request asks of training. */
export interface JobSettings {
  /** OpenAI's name of what is learned. */
  readonly method: "supervised" | "dpo";
  readonly settings: Partial<TrainConfigInput>;
  /** The id of a file that holds a chat template. */
  readonly chatTemplate: string | null;
  /** As they are shown. */
  readonly hyperparameters: Readonly<Record<string, number | "auto">>;
}

/** Reads OpenAI's hyperparameters and the keys of `train` in `remat`. @throws {ApiError} */
export function settingsOf(request: JobRequest): JobSettings {
  const { method } = request;
  const isDpo = method?.type === "dpo";
  const given: Partial<z.output<typeof hyperparameters>> =
    (isDpo ? method.dpo : method?.supervised)?.hyperparameters ?? request.hyperparameters ?? {};
  const beta = isDpo ? method.dpo?.hyperparameters?.beta : undefined;
  const own: Partial<TrainConfigInput> = {};
  let chatTemplate: string | null = null;
  for (const [name, value] of Object.entries(request.remat ?? {})) {
    const key = camelCase(name) as keyof TrainConfigInput;
    const param = `remat.${name}`;
    const refuse = (message: string, code = "invalid_value") => new ApiError(400, `${param}: ${message}`, { param, code });
    const schema = Object.hasOwn(trainConfigSchema.shape, key) ? (trainConfigSchema.shape[key] as z.ZodType) : null;
    if (schema === null) {
      const hint = suggestion(key, Object.keys(trainConfigSchema.shape)).replace("--help", "the keys of train");
      throw refuse(`unknown key${hint}`, "unknown_parameter");
    }
    const elsewhere = ELSEWHERE[key];
    if (elsewhere !== undefined) throw refuse(`it is said by ${elsewhere}`);
    const result = schema.safeParse(value);
    if (!result.success) throw refuse(`${result.error.issues[0]!.message}; got ${show(value)}`);
    // What would name a file of this machine names an upload, or nothing.
    if (key === "chatTemplate") chatTemplate = String(value);
    else if (key === "valid" && !/^\d+(?:\.\d+)?%?$/.test(String(value)))
      throw refuse("expected a share or a number of the training examples, such as 5%; a file is said by validation_file");
    else if (key === "offload" && value !== "off" && value !== "auto") throw refuse("expected off or auto");
    else Object.assign(own, { [key]: value });
  }
  const twice = (param: string, key: keyof TrainConfigInput, value: unknown) => {
    if (value === undefined || value === "auto" || own[key] === undefined) return;
    throw new ApiError(400, `${param} and remat.${key} say the same; leave one of them out`, { param, code: "invalid_value" });
  };
  twice("hyperparameters.n_epochs", "epochs", given.n_epochs);
  twice("hyperparameters.batch_size", "gradientAccumulation", given.batch_size);
  twice("hyperparameters.learning_rate_multiplier", "learningRate", given.learning_rate_multiplier);
  if (isDpo) twice("method.type", "objective", "dpo");
  twice("method.dpo.hyperparameters.beta", "dpoBeta", beta);
  twice("validation_file", "valid", request.validation_file);
  const epochs = typeof given.n_epochs === "number" ? given.n_epochs : EPOCHS;
  const multiplier = typeof given.learning_rate_multiplier === "number" ? given.learning_rate_multiplier : null;
  const settings: Partial<TrainConfigInput> = {
    ...(own.epochs === undefined && own.steps === undefined ? { epochs } : {}),
    ...(typeof given.batch_size === "number" ? { gradientAccumulation: given.batch_size } : {}),
    ...(request.seed === undefined ? {} : { seed: request.seed }),
    ...(multiplier === null ? {} : { learningRate: multiplier * defaultRate(own) }),
    ...(isDpo ? { objective: "dpo" as const } : {}),
    ...(typeof beta === "number" ? { dpoBeta: beta } : {}),
    ...own,
  };
  return {
    method: isDpo ? "dpo" : "supervised",
    settings,
    chatTemplate,
    hyperparameters: {
      n_epochs: typeof own.epochs === "number" ? own.epochs : epochs,
      batch_size: settings.gradientAccumulation ?? 1,
      learning_rate_multiplier: multiplier ?? "auto",
      ...(isDpo ? { beta: settings.dpoBeta ?? "auto" } : {}),
    },
  };
}

/** The learning rate that `learning_rate_multiplier` multiplies. */
function defaultRate(settings: Partial<TrainConfigInput>): number {
  const config = trainConfigSchema.parse({ ...settings, model: "model", data: "data" });
  return refusing("remat", "invalid_value", () => chooseOptimizer(config).learningRate);
}
