// Run by the `bare` runtime of QVAC, for peers/qvac.ts: arguments are the package's folder and options as JSON. Writes a line for each step.
const [, , modules, json] = Bare.argv;
const LlmLlamacpp = require(`${modules}/@qvac/llm-llamacpp`);
const { model, tokens, threads, finetune } = JSON.parse(json);

async function main() {
  const config = { device: "cpu", gpu_layers: "0", ctx_size: String(tokens), flash_attn: "off", threads: String(threads) };
  const llm = new LlmLlamacpp({ files: { model: [model] }, config, opts: { stats: true } });
  await llm.load();
  const handle = await llm.finetune(finetune);
  handle.on("stats", ({ global_steps, loss }) => console.log(JSON.stringify({ step: global_steps, loss })));
  await handle.await();
  await llm.unload();
}

main().catch((error) => {
  console.error(String(error?.message ?? error));
  Bare.exit(1);
});
