"""OpenAI's own client for Python against a server with a home: everything that code for OpenAI's fine-tuning does.

    python -m venv venv && venv/bin/pip install openai==3.57.0
    bun bench/openai-client.ts venv/bin/python

bench/openai-client.ts starts the server and hands over its address, a file of examples and the base model's name.
"""

import json
import sys
import time

import openai

url, data, base = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
checked = 0


def check(what, is_true):
    global checked
    checked += 1
    if not is_true:
        sys.exit(f"not so: {what}")


with open(data, "rb") as examples:
    file = client.files.create(file=examples, purpose="fine-tune")
check("a file is processed", client.files.wait_for_processing(file.id).status == "processed")
check("a file is listed", file.id in [each.id for each in client.files.list(purpose="fine-tune")])
check("a file's content comes back", client.files.content(file.id).read() == open(data, "rb").read())

settings = {"sequence_length": 32, "threads": 1, "sample": False, "packing": False}
jobs = client.fine_tuning.jobs
job = jobs.create(
    model=base,
    training_file=file.id,
    suffix="py",
    seed=3,
    metadata={"from": "python"},
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    extra_body={"remat": settings},
)
check("a job is queued", job.status == "queued" and job.object == "fine_tuning.job")
while job.finished_at is None:
    time.sleep(0.1)
    job = jobs.retrieve(job.id)
check("the job succeeds", job.status == "succeeded" and job.fine_tuned_model.startswith(f"ft:{base}:"))
check("jobs are paged", [each.id for each in jobs.list(limit=1)] == [job.id])
check("events are paged", len(list(jobs.list_events(job.id, limit=5))) > 10)
checkpoints = list(jobs.checkpoints.list(job.id, limit=1))
check("there are checkpoints", [each.step_number for each in checkpoints] == [12, 6])
table = client.files.content(job.result_files[0]).text
check("the result file is a table", table.startswith("step,train_loss") and len(table.splitlines()) == 13)

messages = [{"role": "user", "content": "Define king."}]
for model in (base, job.fine_tuned_model, checkpoints[1].fine_tuned_model_checkpoint):
    whole = client.chat.completions.create(model=model, messages=messages, max_tokens=8, seed=1)
    check(f"{model} answers", whole.model == model and whole.usage.completion_tokens > 0)
    pieces = client.chat.completions.create(model=model, messages=messages, max_tokens=8, seed=1, stream=True)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    check(f"{model} streams the same", text == whole.choices[0].message.content)
schema = {
    "type": "object",
    "properties": {"word": {"type": "string", "maxLength": 8}, "rank": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["word", "rank"],
    "additionalProperties": False,
}
several = client.chat.completions.create(
    model=base,
    messages=messages,
    n=3,
    temperature=1,
    max_tokens=60,
    response_format={"type": "json_schema", "json_schema": {"name": "ranked", "schema": schema, "strict": True}},
)
ranked = [json.loads(choice.message.content) for choice in several.choices]
check("answers are of a schema", len(ranked) == 3 and all(set(each) == {"word", "rank"} and 1 <= each["rank"] <= 9 for each in ranked))
likely = client.chat.completions.create(model=base, messages=messages, max_tokens=4, logprobs=True, top_logprobs=2)
check("log-probabilities are told", all(len(token.top_logprobs) == 2 for token in likely.choices[0].logprobs.content))
# An object, since the tiny model would not end by itself: the client takes no response from a stream that is incomplete.
asked = {"model": base, "input": "Define king.", "max_output_tokens": 40, "text": {"format": {"type": "json_object"}}}
response = client.responses.create(**asked, extra_body={"seed": 1})
with client.responses.stream(**asked, extra_body={"seed": 1}) as stream:
    kinds = {event.type for event in stream}
    final = stream.get_final_response()
check("a response is JSON", isinstance(json.loads(response.output_text), dict))
check("a response streams the same", response.output_text == final.output_text and "response.output_text.delta" in kinds)
check("the models are listed", {base, job.fine_tuned_model} <= {each.id for each in client.models.list()})

long = jobs.create(model=base, training_file=file.id, extra_body={"remat": {**settings, "steps": 100000, "gradient_accumulation": 16}})
check("a job is paused", jobs.pause(long.id).to_dict()["remat"]["paused"])
check("a job is resumed", not jobs.resume(long.id).to_dict()["remat"]["paused"])
check("a job is cancelled", jobs.cancel(long.id).status == "cancelled")

for error, ask in (
    (openai.NotFoundError, lambda: jobs.retrieve("ftjob-none")),
    (openai.NotFoundError, lambda: client.chat.completions.create(model="none", messages=messages)),
    (openai.BadRequestError, lambda: jobs.create(model=base, training_file="file-none")),
    (openai.BadRequestError, lambda: jobs.create(model=base, training_file=file.id, method={"type": "dpo"})),
    (openai.BadRequestError, lambda: jobs.cancel(long.id)),
    (openai.BadRequestError, lambda: client.embeddings.create(model=base, input="x")),
):
    try:
        ask()
    except error:
        check("an error is of its class", True)
    else:
        check(f"a {error.__name__} is raised", False)
check("a model is deleted", client.models.delete(job.fine_tuned_model).deleted)
check("a file is deleted", client.files.delete(file.id).deleted)
print(f"openai {openai.__version__}: {checked} checks")
